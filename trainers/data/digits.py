"""The handwritten digits of scikit-learn as a folder of photos: data that need no download."""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from trainers.errors import DatasetError

PHOTOS = 1797
CLASSES = tuple("0123456789")


def digits_folder(parent: Path) -> Path:
    """Return PARENT/digits with a PNG of 8x8 grey pixels per digit, in a folder per class.

    It is made at the first call; later calls leave it as it is. Raises DatasetError if something
    else is in its place.
    """
    folder = parent / "digits"
    if not _is_complete(folder):
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".digits-", dir=parent) as beside:
            _write(Path(beside) / "digits")
            _put(Path(beside) / "digits", folder)
    return folder


def _put(made: Path, folder: Path) -> None:
    try:
        made.replace(folder)
    except OSError as error:
        # Another process may have been faster, which is fine.
        if not _is_complete(folder):
            raise DatasetError(
                f"{str(folder)!r} must hold the {PHOTOS} digits and nothing else; "
                "move it away, and it is made again"
            ) from error


def _is_complete(folder: Path) -> bool:
    names = [file.parent.name for file in folder.glob("*/*.png") if file.stat().st_size]
    return len(names) == PHOTOS and set(names) == set(CLASSES)


def _write(folder: Path) -> None:
    from sklearn.datasets import load_digits  # a second to import, and needed once only

    digits = load_digits()
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    greys = np.rint(digits.images * 255 / 16).astype(np.uint8)
    for index, (grey, label) in enumerate(zip(greys, digits.target, strict=True)):
        Image.fromarray(grey).save(folder / CLASSES[label] / f"{index:04}.png", optimize=False)
