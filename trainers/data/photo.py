"""Read a photo of any format as upright 8-bit RGB."""

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from stat import S_ISREG
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageFile, features

from trainers.data.room import ROOM
from trainers.errors import UnreadablePhoto

MAX_PIXELS = 178_956_970
"""A photo with more pixels is refused by its header, before any memory is spent on it."""

MAX_SIDE = 65_535
"""JPEG's own limit. A strip of one pixel's height may be longer and yet hold few enough pixels."""

MAX_BYTES = 1 << 30
"""A larger file must have something appended to the photo."""

MAX_MEMORY = 2 << 30
"""Bytes: a photo that would need more memory to decode is refused by its header as well."""

_BYTES_A_PIXEL = 20
"""The maximum memory of decoding, from a lossless WebP; a JPEG takes that of its reduced size."""

_JPEG_BYTES = 8
_PROGRESSIVE_BYTES = 6
_NETPBM_HEADER = 8192

_ENDINGS = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "PNG": ("png",),
    "BMP": ("bmp",),
    "DIB": ("dib",),
    "GIF": ("gif",),
    "WEBP": ("webp",),
    "TIFF": ("tif", "tiff"),
    "PPM": ("ppm", "pgm", "pbm", "pnm"),
    "JPEG2000": ("jp2",),
    "AVIF": ("avif",),
    "ICO": ("ico",),
    "TGA": ("tga",),
}
_OPTIONAL = {"JPEG": "jpg", "WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}

Image.init()  # fills Image.OPEN
_SUPPORTED = features.get_supported()
_FORMATS = tuple(
    name
    for name in _ENDINGS
    if name in Image.OPEN and (name not in _OPTIONAL or _OPTIONAL[name] in _SUPPORTED)
)

PHOTO_ENDINGS = frozenset(ending for name in _FORMATS for ending in _ENDINGS[name])
"""File name extensions of photos, lower case and without the dot."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def is_photo_name(name: str) -> bool:
    """Whether a file's extension, in any case, is that of a photo."""
    return Path(name).suffix[1:].lower() in PHOTO_ENDINGS


def read_photo(path: Path, reduction: int = 1) -> Image.Image:
    """Decode the first frame of a photo to RGB, turned as its EXIF says, transparency on white.

    A `reduction` of 2, 4 or 8, as `reduction_of` gives it, makes a JPEG that much smaller during
    decoding, in the DCT domain: cheaper, and well antialiased. Raises UnreadablePhoto for any
    problem of the file, FileNotFoundError if there is none.
    """
    with _opened(path) as photo:
        width, height = photo.size
        photo.draft(None, (max(1, width // reduction), max(1, height // reduction)))
        needed = _needed(photo, width * height)
        if needed > MAX_MEMORY:
            raise UnreadablePhoto(
                f"{width} x {height} pixels, which take {needed / 1e9:.1f} GB to decode, more than "
                f"{MAX_MEMORY / 1e9:.1f}"
            )
        with ROOM.taken(needed):
            photo.load()
            return upright_rgb(photo)


def reduction_of(path: Path, short_side: int) -> int:
    """Return how far a photo may be reduced in decoding so that `short_side` pixels remain."""
    with _opened(path) as photo:
        if photo.format not in ("JPEG", "MPO"):
            return 1
        spare = min(photo.size) // short_side
        return next(reduction for reduction in (8, 4, 2, 1) if reduction <= max(1, spare))


def photo_size(path: Path) -> tuple[int, int]:
    """Return a photo's width and height from its header, before rotation."""
    return photo_header(path).size


@dataclass(frozen=True)
class Header:
    """A photo's header: (width, height) before rotation, format."""

    size: tuple[int, int]
    format: str


def photo_header(path: Path) -> Header:
    """Read a photo's header."""
    with _opened(path) as photo:
        return Header(photo.size, photo.format or "")


def taken_at(path: Path) -> datetime | None:
    """Return when a photo was taken, from its EXIF data; None if missing or broken."""
    try:
        with _opened(path) as photo:
            exif = photo.getexif()
            inner = exif.get_ifd(ExifTags.IFD.Exif)
            said = inner.get(ExifTags.Base.DateTimeOriginal) or inner.get(
                ExifTags.Base.DateTimeDigitized, exif.get(ExifTags.Base.DateTime)
            )
        return datetime.strptime(str(said).strip("\0 "), "%Y:%m:%d %H:%M:%S")
    except (OSError, ValueError, UnreadablePhoto):
        return None


def upright_rgb(photo: Image.Image) -> Image.Image:
    """Return any image as 8-bit RGB, turned as its EXIF says, transparency on white."""
    rgb, turn = _to_rgb(photo), _TURNS.get(_orientation(photo))
    # Pillow's metadata of the file no longer apply to the rotated and converted pixels.
    rgb.info.clear()
    return rgb.transpose(turn) if turn is not None else rgb


def check_file(path: Path) -> None:
    """Raise UnreadablePhoto for a file that cannot be a photo, before reading it."""
    found = path.stat()
    if not S_ISREG(found.st_mode):  # a FIFO would block, a device never end
        raise UnreadablePhoto("not a regular file")
    if found.st_size > MAX_BYTES:
        raise UnreadablePhoto(f"{found.st_size / 1e9:.1f} GB, more than a photo has")


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    try:
        check_file(path)
        with path.open("rb") as stream:
            photo = _open(stream, path)
            _check_size(photo)
            yield photo
    except (FileNotFoundError, UnreadablePhoto):
        raise
    except Exception as error:  # for a damaged file Pillow may raise anything
        raise UnreadablePhoto(_reason(error)) from error


def _open(stream: IO[bytes], path: Path) -> ImageFile.ImageFile:
    """Like Image.open, but check the size before Pillow warns, and try no exotic formats."""
    prefix = stream.read(16)
    if not prefix:
        raise UnreadablePhoto("empty file")
    stream.seek(0)
    for name in _FORMATS:
        factory, accept = Image.OPEN[name]
        # TGA has no signature: only the file's name can tell it.
        fits = accept(prefix) if accept else path.suffix.lower() == ".tga"
        if fits:
            if name == "PPM":
                _check_comments(stream)
            return factory(stream, "")
    raise UnreadablePhoto("not an image")


def _check_comments(stream: IO[bytes]) -> None:
    """Refuse a Netpbm file whose header is hidden by a comment, which Pillow reads byte by byte."""
    head = stream.read(_NETPBM_HEADER)
    stream.seek(0)
    words = re.sub(rb"#[^\r\n]*", b"", head).split(maxsplit=4)
    if len(head) == _NETPBM_HEADER and len(words) < (3 if head[:2] in (b"P1", b"P4") else 4):
        raise UnreadablePhoto(f"a header of more than {_NETPBM_HEADER} bytes")


def _needed(photo: ImageFile.ImageFile, pixels: int) -> int:
    """Return the maximum bytes of decoding a photo; `pixels` is its full number."""
    width, height = photo.size  # of a JPEG, as it is reduced
    if photo.format not in ("JPEG", "MPO"):
        return _BYTES_A_PIXEL * pixels
    whole = _PROGRESSIVE_BYTES * pixels if photo.info.get("progressive") else 0
    return _JPEG_BYTES * width * height + whole


def _check_size(photo: Image.Image) -> None:
    width, height = photo.size
    if max(width, height) > MAX_SIDE:
        raise UnreadablePhoto(f"{width} x {height} pixels, a side of more than {MAX_SIDE}")
    if width * height > MAX_PIXELS:
        raise UnreadablePhoto(
            f"{width} x {height} pixels, more than {MAX_PIXELS / 1e6:.0f} million"
        )


def _to_rgb(photo: Image.Image) -> Image.Image:
    if photo.mode in ("I", "F") or photo.mode.startswith("I;16"):
        return _eight_bit(photo).convert("RGB")
    if not photo.has_transparency_data:
        return photo.convert("RGB")
    layer = photo.convert("RGBA")
    white = Image.new("RGB", photo.size, "white")
    white.paste(layer, mask=layer.getchannel("A"))
    return white


def _eight_bit(photo: Image.Image) -> Image.Image:
    """Scale wide grey to 0..255: whole numbers from 0..65535, floats from 0..1, 0..255 or 0..65535.

    Values outside of that have no standard meaning and are stretched from darkest to brightest.
    """
    values = np.asarray(photo).astype(np.float32)
    values[~np.isfinite(values)] = 0.0
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65535:
        white = (high - low) or 1.0
    else:
        levels = (1.0, 255.0, 65535.0) if photo.mode == "F" else (65535.0,)
        low, white = 0.0, next(level for level in levels if high <= level)
    # Scaled before shifted, because the difference of two large floats may overflow.
    grey = np.rint(values * np.float32(255 / white) - np.float32(low * (255 / white)))
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def _orientation(photo: Image.Image) -> int:
    try:
        return int(photo.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - broken EXIF says nothing against the pixels
        return 1


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "too large for the memory"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS / 1e6:.0f} million pixels"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, EOFError | struct.error) or "truncated" in text.lower():
        return "truncated"
    return "damaged: " + "".join(c if c.isprintable() else "?" for c in text)[:100]
