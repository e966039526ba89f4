"""Fingerprints of photos: the hash of the pixels, and perceptual hashes of windows."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from trainers.data.inspect.overlay import STORED
from trainers.data.scale import Scale

CHECK_SCALE = Scale(128, squeeze=False, cut=False)
"""The size at which photos are checked: enough for hashes and features, and fast to decode."""

FEWEST_PIXELS = 32
"""Photos with a shorter side below this have too little detail, and are only compared exactly."""

LEAST_CONTRAST = 3.0
"""If luminance varies by less, in levels of 255, a perceptual hash is only noise."""

_SIDE = 96  # windows are cut from a grey square of so many pixels
_CUTS = (0.04, 0.08)  # how much less each side of a window has: a crop of 2 to 10 % meets one

WINDOWS = 1 + 5 * len(_CUTS)
"""The whole photo and, for each cut, the windows at its corners and in its middle."""


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """A photo's SHA-256 of size and pixels, and its `look`; None if that would be meaningless."""

    sha256: str
    look: "Look | None"


@dataclass(frozen=True, eq=False)
class Look:
    """The hashes of a photo's windows, uint64 (WINDOWS,), that of the whole photo first.

    `mirrored` is the hash of the whole photo turned over; `grey` is the photo, squeezed into a
    small square, uint8 (STORED, STORED).
    """

    hashes: NDArray[np.uint64]
    mirrored: np.uint64
    grey: NDArray[np.uint8]


def fingerprint(pixels: NDArray[np.uint8]) -> Fingerprint:
    """Take the fingerprint of a photo, RGB (H, W, 3), at `CHECK_SCALE`."""
    digest = hashlib.sha256(str(pixels.shape).encode())
    digest.update(pixels.tobytes())
    if min(pixels.shape[:2]) < FEWEST_PIXELS:
        return Fingerprint(digest.hexdigest(), None)
    square = Image.fromarray(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    if np.asarray(square).std() < LEAST_CONTRAST:
        return Fingerprint(digest.hexdigest(), None)
    windows = [*_windows(square), ImageOps.mirror(square)]
    hashes = packed(np.stack([dhash(window) for window in windows]))
    small = np.asarray(square.resize((STORED, STORED), Image.Resampling.BILINEAR))
    return Fingerprint(digest.hexdigest(), Look(hashes[:-1], hashes[-1], small))


def dhash(grey: Image.Image) -> NDArray[np.bool_]:
    """Return a grey photo's difference hash, (8, 8): where, squeezed to 9 x 8, it becomes lighter.

    Krawetz, "Kind of like that" (2013), to the bit as the library imagehash has it.
    """
    small = np.asarray(grey.resize((9, 8), Image.Resampling.LANCZOS))
    lighter: NDArray[np.bool_] = small[:, 1:] > small[:, :-1]
    return lighter


def packed(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Pack hashes of 8 x 8 bits, (n, 8, 8), into numbers, (n,)."""
    return np.packbits(bits.reshape(-1, 64), axis=1).view(np.uint64)[:, 0]


def _windows(square: Image.Image) -> Iterator[Image.Image]:
    yield square
    for cut in _CUTS:
        less = round(cut * _SIDE)
        side = _SIDE - less
        for x, y in ((0, 0), (less, 0), (0, less), (less, less), (less // 2, less // 2)):
            yield square.crop((x, y, x + side, y + side))
