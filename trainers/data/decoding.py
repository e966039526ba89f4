"""Decode the photos of a manifest at given scales, on many CPUs. Free of torch."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median_low

import numpy as np
from numpy.typing import NDArray

from trainers.allowance import usable_cpus
from trainers.data.manifest import Manifest, Photo
from trainers.data.photo import check_file, photo_size
from trainers.data.scale import Scale, read_at
from trainers.data.sources import Split
from trainers.errors import DatasetError, UnreadablePhoto
from trainers.files import sha256_of

_AHEAD = 64  # photos that are decoded before the first of them is taken
_SAMPLED = 64  # photos sampled for their sizes


def decoded(
    manifest: Manifest, split: Split, scales: Sequence[Scale], *, sharers: int = 1
) -> Iterator[list[NDArray[np.uint8]]]:
    """Yield each photo of a split, in order, at all scales: RGB (H, W, 3) each.

    `sharers` processes do so at a time, and share the CPUs. Raises `DatasetError` for a photo that
    is no longer what the manifest says.
    """
    members = manifest.of_split(split)
    with ThreadPoolExecutor(max(1, usable_cpus() // sharers)) as pool:
        for start in range(0, len(members), _AHEAD):
            some = members[start : start + _AHEAD]
            yield from pool.map(lambda photo: read_known(manifest, photo, scales), some)


def estimated_bytes(manifest: Manifest, split: Split, scale: Scale) -> int:
    """Estimate the bytes of a split's photos at a scale, from the sizes of a sample."""
    sizes = _sizes(manifest, split)
    total = sum(scale.n_bytes(width, height) for width, height in sizes)
    return total * len(manifest.of_split(split)) // max(1, len(sizes))


def typical_short_side(manifest: Manifest) -> int:
    """Return the median short side of the training photos in pixels, from a sample."""
    return median_low(min(size) for size in _sizes(manifest, Split.TRAIN))


def read_known(
    manifest: Manifest, photo: Photo, scales: Sequence[Scale]
) -> list[NDArray[np.uint8]]:
    """Return a photo at all scales; raises `DatasetError` if it has changed."""
    path = manifest.root / photo.path
    with _readable(path):
        check_file(path)
        if sha256_of(path) != photo.sha256:  # not read at once: it may have any size by now
            raise UnreadablePhoto("other contents")
        return read_at(path, scales)


def _sizes(manifest: Manifest, split: Split) -> list[tuple[int, int]]:
    members = manifest.of_split(split)
    some = members[:: max(1, len(members) // _SAMPLED)]
    return [_size(manifest.root / photo.path) for photo in some]


def _size(path: Path) -> tuple[int, int]:
    with _readable(path):
        return photo_size(path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Return the error for a photo that was readable before."""
    try:
        yield
    except (OSError, UnreadablePhoto) as error:
        trouble = getattr(error, "strerror", None) or str(error)
        raise DatasetError(
            f"{str(path)!r} has changed since the data were read ({trouble}); leave the data "
            "alone while they are in use, and run again"
        ) from error
