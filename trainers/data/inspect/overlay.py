"""Whether photos agree in their detail, one aligned with a window of the other.

Low frequencies, such as a bright sky above, are removed first, since they are similar in many
photos.
"""

from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter1d

STORED = 64
"""Pixels a side of the grey squares, uint8 (n, STORED, STORED), that are laid over one another."""

WORTH_A_LOOK = 0.6
"""Photos whose roughly aligned detail correlates less are not duplicates."""

_ENOUGH = 0.97  # from this correlation on, the alignment is not refined
_COARSE, _FINE = 24, 48  # side of the compared squares in pixels: coarse, to tolerate misalignment
_BLUR = 7  # detail is the difference from the mean over squares of this side
_FAINT = 1.0  # levels of 255; smaller detail is noise, and gets less weight
_SHARES = (0.95, 0.9)  # share of both sides that a window leaves out
_PLACES = (0.0, 0.5, 1.0)  # its position, from one end to the other
_STEPS = 4
_SLACK, _MOST_CUT = 0.01, 0.12  # how far edges may lie outside the photo, and inside
_FARTHEST = 0.02  # share of a side by which an edge may move in a step
_AT_ONCE = 128  # pairs, so that memory stays flat

Squares = NDArray[np.uint8]
Matrix = NDArray[np.float32]
Numbers = NDArray[np.float64]


def agreement(one: Squares, other: Squares) -> Numbers:
    """Return the correlation of detail of each pair, float64 (n,), at most 1.

    Each whole photo is roughly aligned with the windows of the other; from a correlation of
    `WORTH_A_LOOK` on, the best window is refined, and compared in finer detail.
    """
    found = np.zeros(len(one))
    for start in range(0, len(one), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        found[part] = _agreement(one[part], other[part])
    return found


def _agreement(one: Squares, other: Squares) -> Numbers:
    first, second = _details(one), _details(other)
    there = np.einsum("nwp,np->nw", first, second[:, 0])
    back = np.einsum("nwp,np->nw", second, first[:, 0])
    turn = back.max(axis=1) > there.max(axis=1)
    best = np.where(turn[:, None], back, there)
    found = np.array(best.max(axis=1), np.float64)
    worth = np.flatnonzero(found >= WORTH_A_LOOK)
    if not len(worth):
        return np.asarray(found)
    swap = turn[worth, None, None]
    below = np.where(swap, other[worth], one[worth])
    above = np.where(swap, one[worth], other[worth])
    found[worth] = _fitted(below, above, _WINDOWS[best[worth].argmax(axis=1)])
    return np.asarray(found)


def _details(squares: Squares) -> Matrix:
    """Return the coarse detail of all windows, the whole first: (n, windows, pixels)."""
    seen = _DOWN @ squares[:, None].astype(np.float32) @ _ACROSS.transpose(0, 2, 1)
    return _unit(np.asarray(seen - _MEANS[_COARSE] @ seen @ _MEANS[_COARSE].T))


def _unit(detail: Matrix) -> Matrix:
    """Return detail (..., side, side) as vectors (..., side * side) of mean 0 and length 1."""
    flat = detail.reshape(*detail.shape[:-2], -1)
    flat = flat - flat.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(flat, axis=-1, keepdims=True)
    return np.asarray(flat / np.maximum(length, _FAINT * detail.shape[-1]), np.float32)


def _fitted(below: Squares, above: Squares, windows: Numbers) -> Numbers:
    """Fit the windows, (n, 4): left and width, top and height; return the best correlations.

    By Gauss-Newton steps on the difference, as Lucas and Kanade (1981) align two images.
    """
    whole = np.tile([0.0, 1.0, 0.0, 1.0], (len(below), 1))
    target = _unit(_seen(above, whole))
    windows, best = windows.copy(), np.full(len(below), -1.0)
    for _ in range(_STEPS + 1):
        open_ = np.flatnonzero(best < _ENOUGH)
        if not len(open_):
            break
        seen = _seen(below[open_], windows[open_])
        vector = _unit(seen)
        correlation = np.einsum("np,np->n", vector, target[open_])
        best[open_] = np.maximum(best[open_], correlation)
        away = target[open_] * np.maximum(correlation, 0)[:, None] - vector
        step = _step(vector.reshape(seen.shape), away, windows[open_])
        windows[open_] = _within(windows[open_] + step)
    return best


def _within(windows: Numbers) -> Numbers:
    """Keep windows within the photo."""
    start = windows[:, ::2].clip(-_SLACK, _MOST_CUT)
    stop = (windows[:, ::2] + windows[:, 1::2]).clip(1 - _MOST_CUT, 1 + _SLACK)
    return np.stack([start, stop - start], axis=2).reshape(-1, 4)


def _seen(squares: Squares, windows: Numbers) -> Matrix:
    """Return the fine detail within windows, (n, _FINE, _FINE)."""
    left, width, top, height = windows.T
    rows, columns = _tents(top, height), _tents(left, width)
    seen = rows @ squares.astype(np.float32) @ columns.transpose(0, 2, 1)
    return np.asarray(seen - _MEANS[_FINE] @ seen @ _MEANS[_FINE].T, np.float32)


def _tents(start: Numbers, length: Numbers) -> Matrix:
    """Return the resampling matrices of windows along one side, antialiased: (n, _FINE, STORED)."""
    centres = (start[:, None] + length[:, None] * _CENTRES) * STORED - 0.5
    away = np.abs(centres.clip(0, STORED - 1)[:, :, None] - np.arange(STORED))
    weights = np.maximum(0, 1 - away / np.maximum(1, STORED / _FINE * length)[:, None, None])
    return np.asarray(weights / weights.sum(axis=2, keepdims=True), np.float32)


def _step(seen: Matrix, away: Matrix, windows: Numbers) -> Numbers:
    """Return the step of windows that changes their content as wanted."""
    down, across = np.gradient(seen, axis=(1, 2))
    across = across * (_FINE / windows[:, 1])[:, None, None]
    down = down * (_FINE / windows[:, 3])[:, None, None]
    slopes = np.stack([across, across * _CENTRES, down, down * _CENTRES[:, None]], axis=-1)
    slopes = slopes.reshape(len(seen), -1, 4)
    square = slopes.transpose(0, 2, 1) @ slopes
    damping = 1e-3 * np.trace(square, axis1=1, axis2=2) + 1e-9
    square += damping[:, None, None] * np.eye(4)
    step = np.linalg.solve(square, slopes.transpose(0, 2, 1) @ away[:, :, None])[:, :, 0]
    return np.asarray(step.clip(-_FARTHEST, _FARTHEST))


def _sampling(share: float, place: float) -> Matrix:
    """Return the matrix of the coarse pixels of a window along one side, (_COARSE, STORED)."""
    start = (1 - share) * place * STORED
    unit = Image.fromarray(np.eye(STORED, dtype=np.float32))
    box = (0, start, STORED, start + share * STORED)
    return np.asarray(unit.resize((STORED, _COARSE), Image.Resampling.BILINEAR, box))


_CENTRES = (np.arange(_FINE) + 0.5) / _FINE
_PLACED = [(1.0, 0.0, 0.0), *product(_SHARES, _PLACES, _PLACES)]
_DOWN = np.stack([_sampling(share, y) for share, y, _ in _PLACED])
_ACROSS = np.stack([_sampling(share, x) for share, _, x in _PLACED])
_WINDOWS = np.array([((1 - s) * x, s, (1 - s) * y, s) for s, y, x in _PLACED])
_MEANS: dict[int, Matrix] = {
    side: uniform_filter1d(np.eye(side, dtype=np.float32), _BLUR, axis=0, mode="nearest")
    for side in (_COARSE, _FINE)
}
