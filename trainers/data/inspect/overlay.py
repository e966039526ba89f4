"""Whether photos agree in their detail, when one is laid over the windows of the other."""

from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter1d

STORED = 32
"""Pixels a side of the grey squares, uint8 (n, STORED, STORED), that are laid over one another."""

_SIDE = 24  # pixels a side of what is compared: coarser, so that windows may miss by a little
_BLUR = 7  # detail is what differs from the mean of so many pixels a side
_FAINT = 1.5  # levels of 255; detail that deviates less is noise, and counts the less
_SHARES = (0.95, 0.9)  # of both sides that a window leaves
_PLACES = (0.0, 0.5, 1.0)  # where it lies, from one end to the other
_AT_ONCE = 256  # pairs, so that memory stays flat

Squares = NDArray[np.uint8]
Matrix = NDArray[np.float32]


def agreement(one: Squares, other: Squares) -> NDArray[np.float64]:
    """Give the greatest correlation of detail of each pair, float64 (n,), in -1..1.

    The whole of either photo is laid over the windows of the other. What light and layout do,
    such as a bright sky above, is left out: by that, photos of many kinds are alike.
    """
    parts = [
        _agreement(one[start : start + _AT_ONCE], other[start : start + _AT_ONCE])
        for start in range(0, len(one), _AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def _agreement(one: Squares, other: Squares) -> NDArray[np.float64]:
    first, second = _details(one), _details(other)
    there = np.einsum("nwp,np->nw", first, second[:, 0]).max(axis=1)
    back = np.einsum("nwp,np->nw", second, first[:, 0]).max(axis=1)
    return np.asarray(np.maximum(there, back), np.float64)


def _details(squares: Squares) -> NDArray[np.float32]:
    """Give the detail of all windows, the whole first: (n, windows, pixels), of length 1."""
    seen = _DOWN @ squares[:, None].astype(np.float32) @ _ACROSS.transpose(0, 2, 1)
    detail = (seen - _MEANS @ seen @ _MEANS.T).reshape(len(squares), len(_DOWN), -1)
    detail -= detail.mean(axis=2, keepdims=True)
    length = np.linalg.norm(detail, axis=2, keepdims=True)
    found: NDArray[np.float32] = detail / np.maximum(length, np.float32(_FAINT * _SIDE))
    return found


def _sampling(share: float, place: float) -> Matrix:
    """Give what takes the pixels of a window along one side, (_SIDE, STORED)."""
    start = (1 - share) * place * STORED
    unit = Image.fromarray(np.eye(STORED, dtype=np.float32))
    box = (0, start, STORED, start + share * STORED)
    return np.asarray(unit.resize((STORED, _SIDE), Image.Resampling.BILINEAR, box))


_WINDOWS = [(1.0, 0.0, 0.0), *product(_SHARES, _PLACES, _PLACES)]
_DOWN = np.stack([_sampling(share, y) for share, y, _ in _WINDOWS])
_ACROSS = np.stack([_sampling(share, x) for share, _, x in _WINDOWS])
_MEANS: Matrix = uniform_filter1d(np.eye(_SIDE, dtype=np.float32), _BLUR, axis=0, mode="nearest")
