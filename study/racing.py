"""Which repeated schedules could still be the best? Pure.

Seeds are few but photos are many, so schedules are compared photo by photo: on the same photos,
the difference of two schedules varies much less than their scores do.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from trainers.metrics import Metric

Gains = NDArray[np.float64]
"""What each validation photo adds to the score under one seed, shape (n,): their mean is it."""

ALPHA = 0.05
"""How often, at most, the truly best schedule may be dropped in a whole race."""


def gains(metric: Metric, labels: NDArray[np.int64], right: Gains, p_true: Gains) -> Gains:
    """Split a score into what each photo adds, shape (n,), so that more is better.

    `right` is 1 where the prediction is the label, `p_true` the label's probability. F1 is no mean
    over photos: each class counts alike in it, so it is raced as balanced accuracy is.
    """
    if metric is Metric.LOG_LOSS:
        return np.log(np.maximum(p_true, 1e-7))
    if metric is Metric.ACCURACY:
        return right
    counts = np.bincount(labels)
    return right * len(labels) / (counts[labels] * np.count_nonzero(counts))


def beaten(outcomes: Mapping[str, Sequence[Gains]], looks: int) -> set[str]:
    """Give the schedules that are worse than the leader beyond what luck explains.

    `outcomes` has each schedule's gains under each of its seeds, `looks` how often this is asked
    in a race: the level is shared out among looks and rivals (Bonferroni). A difference of means
    errs by its photos (paired) and by its seeds, whose spread is pooled over all schedules since
    each has few; Welch and Satterthwaite's degrees of freedom join the two. Schedules with fewer
    than two seeds are neither compared nor beaten.
    """
    racing = {name: np.stack(seeds) for name, seeds in outcomes.items() if len(seeds) > 1}
    if len(racing) < 2:
        return set()
    leader = max(racing, key=lambda name: racing[name].mean())
    level = ALPHA / (looks * (len(racing) - 1))
    of_seeds, freedom = _spread_of_seeds(list(racing.values()))
    return {
        name
        for name, seeds in racing.items()
        if name != leader and _p_value(racing[leader], seeds, of_seeds, freedom) < level
    }


def _spread_of_seeds(racing: Sequence[NDArray[np.float64]]) -> tuple[float, int]:
    """Give the variance of scores between a schedule's seeds, and its degrees of freedom."""
    scores = [seeds.mean(axis=1) for seeds in racing]
    freedom = sum(len(each) - 1 for each in scores)
    squares = chain.from_iterable((each - each.mean()) ** 2 for each in scores)
    return float(sum(squares)) / freedom, freedom


def _p_value(
    leader: NDArray[np.float64], other: NDArray[np.float64], of_seeds: float, freedom: int
) -> float:
    """Test, two-sided, that two schedules are equal; shapes (seeds, photos)."""
    from scipy.stats import t  # most of a second to import

    difference = leader.mean(axis=0) - other.mean(axis=0)
    n = len(difference)
    by_photos = float(difference.var(ddof=1)) / n if n > 1 else math.inf
    by_seeds = of_seeds * (1 / len(leader) + 1 / len(other))
    variance = by_photos + by_seeds
    if variance == math.inf or difference.mean() == 0:
        return 1.0
    if variance == 0:
        return 0.0
    joint = variance**2 / (by_photos**2 / (n - 1) + by_seeds**2 / freedom)
    return float(2 * t.sf(abs(difference.mean()) / math.sqrt(variance), joint))
