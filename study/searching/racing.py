"""Which repeated schedules could still be the best? Pure.

Seeds are few but photos are many, so schedules are compared photo by photo: on the same photos,
the difference of two schedules varies much less than their scores do.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from study.statistics.significance import Gains, p_value, spread_of_seeds

ALPHA = 0.05
"""How often, at most, the truly best schedule may be dropped in a whole race."""


def beaten(outcomes: Mapping[str, Sequence[Gains | None]], rounds: int) -> set[str]:
    """Return the schedules that are significantly worse than the leader.

    `outcomes` has each schedule's gains under each of its seeds, in order; None is a seed whose
    training failed. After each round, in which all that are still racing got a seed, they are
    compared with the best of them; the first such round is the second, the last is `rounds`.
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
        return set()  # without a second seed the variance between seeds is unknown
    leader = max(racing, key=lambda name: racing[name].mean())
    return {
        name
        for name, seeds in racing.items()
        if name != leader and p_value(racing[leader], seeds, of_seeds, freedom) < ALPHA / tests
    }
