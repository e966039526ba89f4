"""Decoded photos in one block of memory, and the files of such blocks. Free of torch."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.data.mapped import SAMPLED, BrokenMap, MapWriter, check_hashes, read_about
from trainers.data.scale import Scale
from trainers.data.sources import Split

FORMAT = 1
"""Version of the file: raised when its layout, or the result of decoding, changes."""

SUFFIX = ".pixels"

_MAGIC = b"encore pixels\n"


@dataclass(frozen=True)
class View:
    """The content of a map: the photos of one split, in the manifest's order, at one scale."""

    manifest_digest: str
    split: Split
    scale: Scale

    @property
    def name(self) -> str:
        """Return the file's name, such as valid-64-cut.pixels."""
        shape = "-squeezed" * self.scale.squeeze + "-cut" * self.scale.cut
        return f"{self.split.value}-{self.scale.edge}{shape}{SUFFIX}"

    def to_dict(self) -> dict[str, Any]:
        """Return the file's header."""
        return {"format": FORMAT, **asdict(self)}


@dataclass(frozen=True)
class Pixels:
    """Photos one after the other: RGB bytes (bytes,), and their (height, width), shape (n, 2)."""

    values: NDArray[np.uint8]
    sizes: NDArray[np.int64]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The offsets of the photos in `values`, and the end of the last one: shape (n + 1,)."""
        return np.concatenate([[0], np.cumsum(3 * self.sizes.prod(axis=1))])

    def photo(self, index: int) -> NDArray[np.uint8]:
        """Return one photo, (H, W, 3)."""
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
    """Writes a map's file: photos one by one, then `finish`; see `MapWriter`."""

    def __init__(self, path: Path, view: View) -> None:
        self._writer, self._view = MapWriter(path, _MAGIC), view
        self._sizes: list[tuple[int, ...]] = []

    def add(self, photo: NDArray[np.uint8]) -> None:
        """Append a photo (H, W, 3)."""
        self._writer.add(photo.tobytes())
        self._sizes.append(photo.shape[:2])

    def finish(self) -> None:
        """Make the file appear under its name, safely on the disk."""
        self._writer.finish({**self._view.to_dict(), "sizes": self._sizes})

    def abandon(self) -> None:
        """Remove the unfinished file."""
        self._writer.abandon()


def open_pixels(path: Path, view: View, n_photos: int, *, sampled: int = SAMPLED) -> Pixels:
    """Map a file into memory; `BrokenMap` unless header, length and sampled hashes are right."""
    about = read_about(path, _MAGIC)
    if {name: about.get(name) for name in view.to_dict()} != view.to_dict():
        raise BrokenMap("it holds other photos")
    pixels, hashes = _pixels(path, about)
    if len(pixels.sizes) != n_photos:
        raise BrokenMap(f"it holds {len(pixels.sizes)} photos instead of {n_photos}")
    _check_hashes(pixels, hashes, sampled)
    return pixels


def check_pixels(path: Path) -> None:
    """Check every photo of a file; raises `BrokenMap`."""
    pixels, hashes = _pixels(path, read_about(path, _MAGIC))
    _check_hashes(pixels, hashes)


def _pixels(path: Path, about: dict[str, Any]) -> tuple[Pixels, list[str]]:
    try:
        sizes = np.array(about["sizes"], np.int64).reshape(-1, 2)
        hashes = [str(value) for value in about["hashes"]]
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise BrokenMap(f"it does not say what it holds ({error})") from error
    whole = len(hashes) == len(sizes) > 0 and sizes.min() > 0 and sizes.max() < 2**20
    if not whole or 3 * int(sizes.prod(axis=1).sum()) != about["bytes"]:
        raise BrokenMap("its length does not fit what it holds")
    return Pixels(np.memmap(path, np.uint8, "c", shape=(about["bytes"],)), sizes), hashes


def _check_hashes(pixels: Pixels, hashes: list[str], sampled: int | None = None) -> None:
    check_hashes(hashes, lambda index: pixels.photo(index).tobytes(), "photo", sampled)
