"""Areas under the ROC curve: of one table, of many at once, and their variance. Pure."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.statistics.tables import HELD, Tables


def auroc(labels: NDArray[np.int64], probabilities: NDArray[np.floating[Any]]) -> float:
    """Return the area under the ROC curve; with more than two classes the mean of one against all.

    NaN if a class is missing, or is the only one.
    """
    chosen = _told(probabilities.shape[1])
    return float(np.mean([_area(labels == k, probabilities[:, k]) for k in chosen]))


def delong(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> tuple[float, float]:
    """Return the variance of that area (DeLong 1988), and the effective number of photos behind it.

    Each photo that is ranked wrongly against others lowers the area. The effective number follows
    from how evenly the photos contribute to that.
    """
    off, short = np.zeros(len(labels)), np.zeros(len(labels))
    told = _told(probabilities.shape[1])
    for label in told:
        positive = labels == label
        ahead = placements(probabilities[:, label], positive).astype(np.float64)
        for side in (positive, ~positive):
            n = max(int(side.sum()), 1)
            off[side] += (ahead[side] - ahead[side].mean()) / np.sqrt(n * max(n - 1, 1))
            short[side] += (1 - ahead[side]) / n
    squares = float(np.square(short).sum())
    shared = float(short.sum()) ** 2 / (4 * squares) if squares else 0.0
    return float(np.square(off / len(told)).sum()), shared


def _told(n_classes: int) -> range:
    """Return the classes that are compared with all others: of two, only the second."""
    return range(1, 2) if n_classes == 2 else range(n_classes)


def _area(positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> float:
    n = int(positive.sum())
    if not n or n == len(positive):
        return float("nan")
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]  # equal scores share their mean rank
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(positive) - n)))


def aurocs(
    tables: NDArray[np.float32] | Tables, labels: NDArray[np.int64], inside: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return all candidates' areas on each of B sets of photos (n, B), shape (M, B).

    By each photo's placement among all photos of the other kind (DeLong 1988), which equals the
    area up to a term of the order 1/n: counting the pairs of each set would take minutes.
    """
    # In blocks of candidates that fit into memory; their tables are read when needed.
    step = max(1, HELD // tables[0].size)
    blocks = [
        _areas(np.asarray(tables[start : start + step]), labels, inside)
        for start in range(0, len(tables), step)
    ]
    return np.concatenate(blocks)


def _areas(
    tables: NDArray[np.float32], labels: NDArray[np.int64], inside: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the mean areas of m candidates' probabilities (m, n, C) on each set, (m, B)."""
    candidates, n, n_classes = tables.shape
    told = np.array(_told(n_classes))
    positive = labels == told[:, None]
    ahead = np.empty((candidates, len(told), n), np.float32)
    for place, label in enumerate(told):
        for candidate in range(candidates):
            scores = tables[candidate, :, label]
            ahead[candidate, place] = placements(scores, positive[place])
    # Each photo belongs to one class, so all classes' own photos are weighted at once.
    mine = np.flatnonzero(positive.any(axis=0))
    place_of = positive[:, mine].argmax(axis=0)
    own = ahead[:, place_of, mine]
    photos = positive @ inside
    areas = own @ (inside[mine] / np.maximum(photos, 1)[place_of]).astype(np.float32)
    whole = (own @ positive[:, mine].T / positive.sum(axis=1)).sum(axis=1, dtype=np.float64)
    ahead[:, place_of, mine] = 0
    others = np.maximum(inside.sum(axis=0) - photos, 1)
    for place in range(candidates):
        areas[place] += (ahead[place] @ inside / others).sum(axis=0)
    mean: NDArray[np.float64] = (areas.astype(np.float64) - whole[:, None]) / len(told)
    return mean


def placements(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return for each photo the share of the other kind that it is ranked rightly against, (n,)."""
    found = np.empty(len(scores), np.float32)
    for side, sign in ((positive, 1), (~positive, -1)):
        mine, others = sign * scores[side], np.sort(sign * scores[~side])
        below = np.searchsorted(others, mine, "left") + np.searchsorted(others, mine, "right")
        found[side] = below / max(2 * len(others), 1)  # a tie is half a win
    return found
