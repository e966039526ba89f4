"""Make JPEG originals of a camera's kind out of small photos: at least 500 pixels wide.

What is measured must include what users have: photos far larger than the squares that are trained.
"""

import argparse
from pathlib import Path

from PIL import Image, ImageOps

WIDTH = 500
QUALITY = 90


def make_originals(source: Path, target: Path, *, width: int = WIDTH) -> Path:
    """Make an original of each `source/{train,val}/CLASS/*` under `target`, and return `target`.

    What is already there stays, so a complete folder costs a listing.
    """
    photos = sorted(source.glob("train/*/*")) + sorted(source.glob("val/*/*"))
    if not photos:
        raise ValueError(f"{source} must hold photos as train/CLASS/* and val/CLASS/*, has none")
    for photo in photos:
        original = target / photo.parent.relative_to(source) / _jpeg_name(photo)
        if not original.exists():
            _enlarge(photo, original, width)
    return target


def _jpeg_name(photo: Path) -> str:
    return photo.name if photo.suffix.lower() in (".jpg", ".jpeg") else f"{photo.name}.jpg"


def _enlarge(photo: Path, original: Path, width: int) -> None:
    original.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(photo) as file:
        upright = ImageOps.exif_transpose(file).convert("RGB")
    if upright.width < width:
        size = (width, round(upright.height * width / upright.width))
        upright = upright.resize(size, Image.Resampling.LANCZOS)
    part = original.with_name(f"{original.name}.part")
    upright.save(part, "JPEG", quality=QUALITY)
    part.replace(original)  # whole or not at all, so that what exists need not be checked


def main() -> None:
    """Make originals from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="a folder {train,val}/CLASS/*")
    parser.add_argument("target", type=Path, help="where the originals go")
    parser.add_argument("--width", type=int, default=WIDTH, help="pixels at least")
    given = parser.parse_args()
    make_originals(given.source, given.target, width=given.width)


if __name__ == "__main__":
    main()
