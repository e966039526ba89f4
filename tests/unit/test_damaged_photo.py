"""Damaged and hostile photos: each is refused with a short reason, and costs nothing."""

import contextlib
import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainers.data import photo
from trainers.data.photo import MAX_PIXELS, read_photo
from trainers.errors import UnreadablePhoto

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def saved(folder: Path, name: str, image: Image.Image, **options: Any) -> Path:
    """Save an image under a name."""
    image.save(folder / name, **options)
    return folder / name


def png_header(width: int, height: int) -> bytes:
    """Return the start of a PNG that claims a size and holds hardly any data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size)
    return start + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "gif", "bmp"])
def test_truncated_files_are_found(tmp_path: Path, ending: str) -> None:
    """Half a file is never read as a photo."""
    path = saved(tmp_path, f"half.{ending}", Image.fromarray(NOISE))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadablePhoto) as error:
        read_photo(path)
    if ending in ("jpg", "png", "bmp"):
        assert str(error.value) == "truncated"


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (b"", "empty file"),
        (b"these are only words, no photo", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (png_header(60000, 60000), "60000 x 60000 pixels, more than 179 million"),
        (b"GIF89a\xff\xff\xff\xff\0\0\0;", "damaged"),
        (b"P6 0 5 255\n", "damaged"),
        (b"P6 5 5 255\n", "truncated"),
        (b"\xff\xd8\xff" + bytes(100), "damaged"),
        (b"II*\0" + bytes(100), "damaged"),
        (b"RIFF\x20\0\0\0WEBPVP8 " + bytes(100), "damaged"),
    ],
)
def test_damage_is_named(tmp_path: Path, contents: bytes, reason: str) -> None:
    """What is wrong with a file is said in a few printable words."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(contents)
    with pytest.raises(UnreadablePhoto, match=f"^{reason}") as error:
        read_photo(path)
    assert str(error.value).isprintable()


def test_great_photos_below_the_limit_do_not_warn(tmp_path: Path) -> None:
    """A size of which Image.open would warn is tried in silence, without touching its limit."""
    path = tmp_path / "photo.png"
    path.write_bytes(png_header(10_000, 10_000))
    assert MAX_PIXELS > 10_000**2
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadablePhoto, match="truncated"):
            read_photo(path)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_metadata_bomb(tmp_path: Path) -> None:
    """Text in a PNG that unpacks to hundreds of megabytes makes the photo unreadable."""
    body = b"Comment\0\0" + zlib.compress(bytes(80_000_000))
    chunk = (
        struct.pack(">I", len(body))
        + b"zTXt"
        + body
        + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    )
    contents = png_header(8, 8)
    (tmp_path / "bomb.png").write_bytes(contents[:33] + chunk + contents[33:])
    with pytest.raises(UnreadablePhoto, match="damaged"):
        read_photo(tmp_path / "bomb.png")


@pytest.mark.parametrize("error", [MemoryError(), EOFError(), KeyError("x"), zlib.error("bad")])
def test_whatever_pillow_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """No exception of Pillow gets out, of whatever kind."""
    path = saved(tmp_path, "a.png", Image.fromarray(NOISE))

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(photo, "_to_rgb", fail)
    with pytest.raises(UnreadablePhoto):
        read_photo(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_damage(tmp_path: Path) -> None:
    """A photo with random bytes overwritten is read or refused, and nothing else happens."""
    rng = np.random.default_rng(1)
    buffer = io.BytesIO()
    for ending in ("jpeg", "png", "gif", "tiff", "webp", "bmp", "ico", "ppm"):
        buffer.seek(0)
        buffer.truncate()
        Image.fromarray(NOISE).save(buffer, ending)
        for _ in range(40):
            contents = np.frombuffer(buffer.getvalue(), dtype=np.uint8).copy()
            contents[rng.integers(0, min(len(contents), 400), 5)] = rng.integers(0, 256, 5)
            (tmp_path / f"a.{ending}").write_bytes(contents.tobytes())
            with contextlib.suppress(UnreadablePhoto):
                assert read_photo(tmp_path / f"a.{ending}").mode == "RGB"


def test_missing_files_and_folders(tmp_path: Path) -> None:
    """A file that is not there is a FileNotFoundError, a folder is an unreadable photo."""
    with pytest.raises(FileNotFoundError):
        read_photo(tmp_path / "none.jpg")
    with pytest.raises(UnreadablePhoto, match="not a regular file"):
        read_photo(tmp_path)
