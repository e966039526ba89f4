"""Decoded photos in one block of memory, and the file that such a block lies in. Free of torch."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from trainers.data.scale import Scale
from trainers.data.sources import Split

FORMAT = 1
"""Version of the file: raised when its layout, or what photos look like at a scale, changes."""

SUFFIX = ".pixels"

_MAGIC = b"encore pixels\n"
_SAMPLED = 32  # photos whose hashes are looked at when a file is opened


class BrokenPixels(Exception):
    """A file that is not the whole map it should be; the text is a short reason."""


@dataclass(frozen=True)
class View:
    """What a map holds: the photos of one split, in the manifest's order, at one scale."""

    manifest_digest: str
    split: Split
    scale: Scale

    @property
    def name(self) -> str:
        """Give the file's name, such as valid-64-cut.pixels."""
        shape = "-squeezed" * self.scale.squeeze + "-cut" * self.scale.cut
        return f"{self.split.value}-{self.scale.edge}{shape}{SUFFIX}"

    def to_dict(self) -> dict[str, Any]:
        """Give what the file says about itself."""
        return {"format": FORMAT, **asdict(self)}


@dataclass(frozen=True)
class Pixels:
    """Photos one after the other: RGB bytes (bytes,), and their (height, width), shape (n, 2)."""

    values: NDArray[np.uint8]
    sizes: NDArray[np.int64]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where each photo begins in `values`, and where the last one ends: shape (n + 1,)."""
        return np.concatenate([[0], np.cumsum(3 * self.sizes.prod(axis=1))])

    def photo(self, index: int) -> NDArray[np.uint8]:
        """Give one photo, (H, W, 3)."""
        height, width = self.sizes[index]
        return self.values[self.starts[index] : self.starts[index + 1]].reshape(height, width, 3)


def in_memory(photos: Iterable[NDArray[np.uint8]]) -> Pixels:
    """Put photos (H, W, 3) into one block of memory."""
    values, sizes = bytearray(), []
    for photo in photos:
        values += photo.tobytes()
        sizes.append(photo.shape[:2])
    return Pixels(np.frombuffer(values, np.uint8), np.array(sizes, np.int64).reshape(-1, 2))


class PixelsWriter:
    """Writes a map's file: photos one by one, then `finish`. Nobody sees it before it is whole.

    The photos come first and what is known of them after, so that memory stays flat.
    """

    def __init__(self, path: Path, view: View) -> None:
        self._path, self._view = path, view
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._stream: IO[bytes] = self._temporary.open("wb")
        self._sizes: list[tuple[int, ...]] = []
        self._hashes: list[str] = []

    def add(self, photo: NDArray[np.uint8]) -> None:
        """Append a photo (H, W, 3)."""
        content = photo.tobytes()
        self._stream.write(content)
        self._sizes.append(photo.shape[:2])
        self._hashes.append(_hash(content))

    def finish(self) -> None:
        """Make the file appear under its name, safely on the disk."""
        about = {**self._view.to_dict(), "sizes": self._sizes, "hashes": self._hashes}
        text = json.dumps(about, separators=(",", ":")).encode()
        self._stream.write(text + len(text).to_bytes(8, "little") + _MAGIC)
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._temporary.replace(self._path)

    def abandon(self) -> None:
        """Remove what has been written."""
        self._temporary.unlink(missing_ok=True)
        with suppress(OSError):  # a full disk does not take what is still to be written
            self._stream.close()


def open_pixels(path: Path, view: View, n_photos: int, *, sampled: int = _SAMPLED) -> Pixels:
    """Map a file into memory; `BrokenPixels` unless header, length and sampled hashes are right."""
    about = read_about(path)
    if {name: about.get(name) for name in view.to_dict()} != view.to_dict():
        raise BrokenPixels("it holds other photos")
    pixels, hashes = _pixels(path, about)
    if len(pixels.sizes) != n_photos:
        raise BrokenPixels(f"it holds {len(pixels.sizes)} photos instead of {n_photos}")
    _check_hashes(pixels, hashes, sampled)
    return pixels


def check_pixels(path: Path) -> None:
    """Look at every photo of a file; raises `BrokenPixels`."""
    pixels, hashes = _pixels(path, read_about(path))
    _check_hashes(pixels, hashes, len(hashes))


def read_about(path: Path) -> dict[str, Any]:
    """Read what a map's file says about itself."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            tail = len(_MAGIC) + 8
            stream.seek(max(0, size - tail))
            end = stream.read()
            length = int.from_bytes(end[:8], "little")
            if len(end) < tail or end[8:] != _MAGIC or length > size - tail:
                raise BrokenPixels("it is not whole")
            stream.seek(size - tail - length)
            about = json.loads(stream.read(length))
            return {**about, "bytes": size - tail - length}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise BrokenPixels(f"it cannot be read ({error})") from error


def _pixels(path: Path, about: dict[str, Any]) -> tuple[Pixels, list[str]]:
    try:
        sizes = np.array(about["sizes"], np.int64).reshape(-1, 2)
        hashes = [str(value) for value in about["hashes"]]
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise BrokenPixels(f"it does not say what it holds ({error})") from error
    whole = len(hashes) == len(sizes) > 0 and sizes.min() > 0 and sizes.max() < 2**20
    if not whole or 3 * int(sizes.prod(axis=1).sum()) != about["bytes"]:
        raise BrokenPixels("its length does not fit what it holds")
    return Pixels(np.memmap(path, np.uint8, "c", shape=(about["bytes"],)), sizes), hashes


def _check_hashes(pixels: Pixels, hashes: list[str], count: int) -> None:
    for index in _spread(len(hashes), count):
        if _hash(pixels.photo(index).tobytes()) != hashes[index]:
            raise BrokenPixels(f"photo {index} is damaged")


def _spread(n: int, count: int) -> Iterator[int]:
    """Choose the first, the last and others at random: in time, each is looked at."""
    if count >= n:
        return iter(range(n))
    chosen = np.random.default_rng().choice(n, count, replace=False)
    return iter({0, n - 1, *(int(index) for index in chosen)})


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
