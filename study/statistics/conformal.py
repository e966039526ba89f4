"""Split conformal prediction: outliers and sets of classes at a stated rate. Pure.

Split conformal prediction (Vovk, Gammerman, Shafer: Algorithmic learning in a random world, 2005;
classes: Sadinle, Lei, Wasserman, JASA 2019). The known scores are those of photos that were not
used to fit the scorer. A new exchangeable photo exceeds the limit of a rate at most that often, for
any number of photos and any distribution, on average over them. If photos are in groups, each group
has the same weight, and the new photo is from a new group (Lee, Barber, Willett: Distribution-free
inference with hierarchical data, 2023).

Of several labels, what is limited is the expected share of a photo's labels that are beyond
(conformal risk control of the false negative rate: Angelopoulos, Bates, Fisch, Lei, Schuster, ICLR
2024): the same limit, with each photo's weight divided among its labels.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.statistics.groups import Groups

Scores = NDArray[np.floating[Any]]

_SLACK = 1e-9
"""Sums of weights are rounded."""


def fewest(rate: float) -> int:
    """Return the minimum number of known photos, or groups, for a rate to have a limit."""
    return math.ceil(1 / rate - 1 - _SLACK)


def p_values(known: Scores, new: Scores, groups: Groups | None = None) -> NDArray[np.float64]:
    """Return for each new score (n,) the share of known ones that are as large, counting itself.

    It is at most a rate exactly where the score is above the `limit` of that rate.
    """
    order, (weights, n) = np.argsort(known, kind="stable"), _weights(len(known), groups)
    weights = weights[order]
    above = np.append(np.cumsum(weights[::-1])[::-1], 0.0)
    shares: NDArray[np.float64] = above[np.searchsorted(known[order], new)]
    return (1 + shares) / (n + 1)


def limit(known: Scores, rate: float, groups: Groups | None = None) -> float:
    """Return the score that a new photo exceeds at most at a rate; infinity with too few photos."""
    return _limit(known, *_weights(len(known), groups), rate)


def limit_of_labels(
    known: Scores, there: NDArray[np.bool_], rate: float, groups: Groups | None = None
) -> float:
    """Return the score that at most a share `rate` of a new photo's labels exceeds, on average.

    `known` are the scores of all labels (n, L), `there` says which of them a photo has. Photos
    without labels tell nothing, and the new one has some; infinity with too few photos.
    """
    some = np.flatnonzero(there.any(axis=1))
    counts = there[some].sum(axis=1)
    if groups is not None:
        groups = np.unique(groups[some], return_inverse=True)[1]
    weights, n = _weights(len(some), groups)
    return _limit(known[there], np.repeat(weights / counts, counts), n, rate)


def sets(probabilities: Scores, highest: float) -> NDArray[np.bool_]:
    """Return which classes each photo may have, (n, C): those whose score is at most `highest`.

    The score of a class is 1 less its probability. The most probable class is always one.
    """
    rows = np.arange(len(probabilities))
    found: NDArray[np.bool_] = 1 - probabilities <= highest
    found[rows, probabilities.argmax(axis=1)] = True
    return found


def _limit(scores: Scores, weights: NDArray[np.float64], n: int, rate: float) -> float:
    """Return the least score beyond which, with one new photo, is at most a rate of n + 1."""
    order = np.argsort(scores, kind="stable")
    beyond = (1 + weights.sum() - np.cumsum(weights[order])) / (n + 1)
    within = np.flatnonzero(beyond <= rate + _SLACK)
    return float(scores[order][within[0]]) if len(within) else math.inf


def _weights(count: int, groups: Groups | None) -> tuple[NDArray[np.float64], int]:
    """Return the weight of each photo, and their total."""
    if groups is None:
        return np.ones(count), count
    sizes = np.bincount(groups)
    return 1 / sizes[groups], len(sizes)
