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


def beaten(outcomes: Mapping[str, Sequence[Gains | None]], rounds: int) -> set[str]:
    """Give the schedules that are worse than the leader beyond what luck explains.

    `outcomes` has each schedule's gains under each of its seeds, in order; None is a seed whose
    training failed. After each round, in which all that are still racing got a seed, they are
    compared with the best of them; the first round to tell is the second, the last is `rounds`.
    """
    out: set[str] = set()
    for seeds in range(2, rounds + 1):
        racing = {name: found for name, found in outcomes.items() if name not in out}
        if len(racing) < 2 or any(len(found) < seeds for found in racing.values()):
            break  # the round is not over
        gained = {name: _trained(found[:seeds]) for name, found in racing.items()}
        tests = (rounds - 1) * math.comb(len(outcomes), 2)
        out |= _worse({name: np.stack(found) for name, found in gained.items() if found}, tests)
    return out


def _trained(seeds: Sequence[Gains | None]) -> list[Gains]:
    return [gained for gained in seeds if gained is not None]


def _worse(racing: Mapping[str, NDArray[np.float64]], tests: int) -> set[str]:
    """Compare all with the leader; shapes (seeds, photos).

    The level is shared out among all `tests` of a race (Bonferroni). A difference of means errs by
    its photos (paired) and by its seeds, whose spread is pooled over all schedules since each has
    few.
    """
    of_seeds, freedom = spread_of_seeds(list(racing.values()))
    if not freedom:
        return set()  # nobody has a second seed to tell how much seeds differ
    leader = max(racing, key=lambda name: racing[name].mean())
    return {
        name
        for name, seeds in racing.items()
        if name != leader and p_value(racing[leader], seeds, of_seeds, freedom) < ALPHA / tests
    }


def spread_of_seeds(racing: Sequence[NDArray[np.float64]]) -> tuple[float, int]:
    """Give the variance of scores between a schedule's seeds, and its degrees of freedom.

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

    Photos are many and seeds are few, so each part of the variance is judged by its own degrees of
    freedom (after Cochran, 1964): Satterthwaite's single number for both, itself an estimate, finds
    too many differences where the spread of few seeds happens to come out small.
    """
    from scipy.special import stdtr  # Student's t; scipy.stats has it, too, in a second more

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
    """Give half the 95 % interval of a schedule's mean, over photos and seeds; (seeds, photos)."""
    from scipy.special import stdtrit

    values, by_seeds = seeds.mean(axis=0), of_seeds / len(seeds)
    by_photos = _of_mean(values)
    variance = by_photos + by_seeds
    # Welch and Satterthwaite's degrees of freedom join the two parts.
    parts = by_photos**2 / max(len(values) - 1, 1) + by_seeds**2 / max(freedom, 1)
    joint = variance**2 / parts if parts and variance < math.inf else 1.0
    return float(stdtrit(joint, 0.975) * math.sqrt(variance)) if variance else 0.0


def _of_mean(values: NDArray[np.float64]) -> float:
    """Return the variance of a mean over photos."""
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else math.inf
