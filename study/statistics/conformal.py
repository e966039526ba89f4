"""Conformal prediction: outliers and sets of classes at a stated rate. Pure.

Split conformal prediction (Vovk, Gammerman, Shafer: Algorithmic learning in a random world, 2005;
classes: Sadinle, Lei, Wasserman, JASA 2019). The known scores are those of photos that were not
used to fit the scorer. A new exchangeable photo exceeds the limit of a rate at most that often, for
any number of photos and any distribution, on average over them. If photos are in groups, each group
has the same weight, and the new photo is from a new group (Lee, Barber, Willett: Distribution-free
inference with hierarchical data, 2023).

Of several labels, what is limited is the expected share of a photo's labels that are beyond
(conformal risk control of the false negative rate: Angelopoulos, Bates, Fisch, Lei, Schuster, ICLR
2024): the same limit, with each photo's weight divided among its labels.

Of photos in folds, each fold's photos are known to the scorer that was fitted without them, and a
new photo is compared with each fold by that fold's scorer (cross-conformal prediction: Vovk, Annals
of Mathematics and Artificial Intelligence 2015; as intervals, CV+: Barber, Candes, Ramdas,
Tibshirani, Annals of Statistics 2021). One scorer is the split above. With more, the rate holds
about, as the scorers share photos; what is sure is only twice the rate: see `at_most`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from study.statistics.groups import Groups

Scores = NDArray[np.floating[Any]]

_SLACK = 1e-9
"""Sums of weights are rounded."""


@dataclass(frozen=True)
class Known:
    """The scores (m,) that one scorer gives to photos it was not fitted to, and their weights.

    The weights of a photo's scores, or of those of a group of photos, add up to 1.
    """

    scores: Scores
    weights: NDArray[np.float64]

    @classmethod
    def of_photos(cls, scores: Scores, groups: Groups | None = None) -> Self:
        """Take a score of each photo, (n,)."""
        return cls(scores, _weights(len(scores), groups))

    @classmethod
    def of_labels(
        cls, scores: Scores, there: NDArray[np.bool_], groups: Groups | None = None
    ) -> Self:
        """Take the scores of all labels, (n, L); `there` says which of them a photo has.

        Photos without labels tell nothing, and the new one has some.
        """
        some = np.flatnonzero(there.any(axis=1))
        counts = there[some].sum(axis=1)
        if groups is not None:
            groups = np.unique(groups[some], return_inverse=True)[1]
        weights = _weights(len(some), groups)
        return cls(scores[there], np.repeat(weights / counts, counts))

    def as_large(self, new: Scores) -> NDArray[np.float64]:
        """Return the weight of the known scores that are at least each new one, (...)."""
        order = np.argsort(self.scores, kind="stable")
        above = np.append(np.cumsum(self.weights[order][::-1])[::-1], 0.0)
        found: NDArray[np.float64] = above[np.searchsorted(self.scores[order], new)]
        return found


def count(known: Sequence[Known]) -> int:
    """Return how many photos, or groups of them, are known."""
    return round(sum(float(each.weights.sum()) for each in known))


def fewest(rate: float) -> int:
    """Return the minimum number of known photos, or groups, for a rate to have a limit."""
    return math.ceil(1 / rate - 1 - _SLACK)


def at_most(rate: float, known: Sequence[Known]) -> float:
    """Return the share of new photos that is surely not exceeded where a rate is asked for.

    That is the rate itself for one scorer. For K of them and n photos, p <= rate says that the mean
    of their p-values, weighted by photos, is at most rate + (1 - rate) (K - 1) / (n + K), and twice
    a mean of p-values is a p-value, however they depend (Vovk, Wang: Combining p-values via
    averaging, Biometrika 2020). Of several labels, they are those of one of a photo's labels, drawn
    at random.
    """
    n, k = count(known), len(known)
    return rate if k == 1 else min(1.0, 2 * (rate + (1 - rate) * (k - 1) / (n + k)))


def p_values(known: Sequence[Known], new: Scores) -> NDArray[np.float64]:
    """Return the share of known photos that score as high as each new one, counting itself: (...).

    `new` are its scores by each of the K scorers, (K, ...). With one scorer, it is at most a rate
    exactly where the score is above the `limit` of that rate.
    """
    above = [each.as_large(scores) for each, scores in zip(known, new, strict=True)]
    return np.asarray((1 + np.sum(above, axis=0)) / (count(known) + 1))


def beyond(p: NDArray[np.float64], rate: float) -> NDArray[np.bool_]:
    """Return where p-values are at most a rate."""
    return np.asarray(p <= rate + _SLACK)


def enough(known: Sequence[Known], rate: float) -> float:
    """Return the weight of known scores up to a limit, so that at most a rate is `beyond` it.

    The new photo is one of n + 1, and counts as beyond.
    """
    total = sum(float(each.weights.sum()) for each in known)
    return total + 1 - (rate + _SLACK) * (count(known) + 1)


def limit(known: Sequence[Known], rate: float) -> float:
    """Return the score that a new photo exceeds at most at a rate; infinity with too few photos.

    Of several scorers, it is that of all their known scores together.
    """
    scores = np.concatenate([each.scores for each in known])
    weights = np.concatenate([each.weights for each in known])
    order = np.argsort(scores, kind="stable")
    within = np.flatnonzero(np.cumsum(weights[order]) >= enough(known, rate))
    return float(scores[order][within[0]]) if len(within) else math.inf


def sets(p: NDArray[np.float64], probabilities: Scores, rate: float) -> NDArray[np.bool_]:
    """Return which classes each photo may have, (n, C): those with p-values above a rate.

    The most probable class is always one.
    """
    found = ~beyond(p, rate)
    found[np.arange(len(probabilities)), probabilities.argmax(axis=1)] = True
    return found


def _weights(n: int, groups: Groups | None) -> NDArray[np.float64]:
    """Return the weight of each photo; a group's photos share one."""
    return np.ones(n) if groups is None else 1 / np.bincount(groups)[groups]
