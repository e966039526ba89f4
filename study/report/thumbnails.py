"""Small pictures of photos, written into the page itself."""

from base64 import b64encode
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from PIL import Image

from trainers.allowance import usable_cpus
from trainers.data.photo import read_photo, reduction_of
from trainers.errors import UnreadablePhoto

SIDE, QUALITY = 160, 70


def thumbnails(root: Path, paths: Iterable[str]) -> dict[str, str]:
    """Return by path a small picture of each photo, as a data URI; none for unreadable files."""
    some = list(dict.fromkeys(paths))
    # Threads suffice: Pillow releases the GIL while decoding.
    with ThreadPoolExecutor(usable_cpus()) as pool:
        drawn = pool.map(lambda path: thumbnail(root / path), some)
        return {path: uri for path, uri in zip(some, drawn, strict=True) if uri}


def thumbnail(path: Path) -> str | None:
    """Return a small picture of a photo as a data URI; None if the file is not readable."""
    with suppress(OSError, ValueError, UnreadablePhoto):
        photo = read_photo(path, reduction_of(path, 2 * SIDE))
        photo.thumbnail((SIDE, SIDE))
        return data_uri(photo)
    return None


def data_uri(picture: Image.Image) -> str:
    """Return a picture as the data URI of a JPEG."""
    stream = BytesIO()
    picture.save(stream, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{b64encode(stream.getvalue()).decode('ascii')}"
