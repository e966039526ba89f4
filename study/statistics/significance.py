"""Significance of differences between schedules, over many photos and few seeds. Pure."""

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

Gains = NDArray[np.float64]
"""Each validation photo's contribution to the score under one seed, (n,): their mean is the score.

With groups of photos, each group's contribution.
"""


def spread_of_seeds(racing: Sequence[NDArray[np.float64]]) -> tuple[float, int]:
    """Return the variance of scores between a schedule's seeds, and its degrees of freedom.

    Both are 0 if no schedule has a second seed.
    """
    scores = [seeds.mean(axis=1) for seeds in racing]
    freedom = sum(len(each) - 1 for each in scores)
    squares = chain.from_iterable((each - each.mean()) ** 2 for each in scores)
    return float(sum(squares)) / max(freedom, 1), freedom


def p_value(
    leader: NDArray[np.float64], other: NDArray[np.float64], of_seeds: float, freedom: int
) -> float:
    """Test, two-sided, that two schedules are equal; shapes (seeds, photos).

    Photos are many and seeds are few, so each part of the variance has its own degrees of freedom
    (after Cochran, 1964): Satterthwaite's combined number, itself an estimate, gives too many false
    positives when the variance between few seeds happens to be small.
    """
    from scipy.special import stdtr  # Student's t; importing scipy.stats would take another second

    difference = leader.mean(axis=0) - other.mean(axis=0)
    by_photos = _of_mean(difference)
    by_seeds = of_seeds * (1 / len(leader) + 1 / len(other))
    variance = by_photos + by_seeds
    if variance == math.inf or difference.mean() == 0:
        return 1.0
    if variance == 0:
        return 0.0
    t = -abs(difference.mean()) / math.sqrt(variance)
    tails = by_photos * stdtr(len(difference) - 1, t) + by_seeds * stdtr(max(freedom, 1), t)
    return float(2 * tails / variance)


def mean_interval(seeds: NDArray[np.float64], of_seeds: float, freedom: int) -> float:
    """Return half the 95 % interval of a mean over photos and seeds; shape (seeds, photos)."""
    from scipy.special import stdtrit

    values, by_seeds = seeds.mean(axis=0), of_seeds / len(seeds)
    by_photos = _of_mean(values)
    variance = by_photos + by_seeds
    # Welch and Satterthwaite's degrees of freedom combine the two parts.
    parts = by_photos**2 / max(len(values) - 1, 1) + by_seeds**2 / max(freedom, 1)
    joint = variance**2 / parts if parts and variance < math.inf else 1.0
    return float(stdtrit(joint, 0.975) * math.sqrt(variance)) if variance else 0.0


def _of_mean(values: NDArray[np.float64]) -> float:
    """Return the variance of a mean over photos."""
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else math.inf
