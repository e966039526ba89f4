"""Which repeated schedules could still be the best? Pure.

Seeds are few but photos are many, so schedules are compared photo by photo: on the same photos,
the difference of two schedules varies much less than their scores do.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.statistics.significance import Gains, p_value, spread_of_seeds

ALPHA = 0.05
"""How often, at most, the truly best schedule may be dropped in a whole race."""

LEAST = 2
"""Degrees of freedom that the variance between seeds needs.

With one, an estimate that happens to be small drops a schedule up to twice as often as it may.
"""


@dataclass(frozen=True)
class Race:
    """A race in folds, as seen by schedule `name` while it trains its second seed, or a later one.

    `gains` are those of all schedules still racing under each fresh seed that is known, on the
    photos of the first folds. `schedules` began the race, of `rounds` seeds.
    """

    name: str
    gains: Mapping[str, Sequence[Gains]]
    schedules: int
    rounds: int

    def is_lost(self, own: Gains) -> bool:
        """Tell whether the schedule is significantly worse than the leader, given this seed, too.

        Of what whole rounds (`beaten`) may err, by tests on two sides of all pairs, the part of the
        truly best of m schedules is ALPHA / m, as only its own pairs drop it, on one side. The rest
        is shared out among its pairs in these looks, of which there is one in each round.
        """
        known = {**self.gains, self.name: [*self.gains[self.name], own]}
        level = 2 * ALPHA / ((self.rounds - 1) * self.schedules)
        return self.name in _worse({k: np.stack(seeds) for k, seeds in known.items()}, level)


def beaten(
    outcomes: Mapping[str, Sequence[Gains | None]],
    rounds: int,
    stopped: Mapping[str, int] | None = None,
) -> set[str]:
    """Return the schedules that are out of the race: significantly worse than the leader.

    `outcomes` has each schedule's gains under each of its seeds, in order; None is a seed whose
    training failed. After each round, in which all that are still racing got a seed, they are
    compared with the best of them; the first such round is the second, the last is `rounds`. The
    level is shared out among all these tests (Bonferroni). Schedules `stopped` in training lost at
    their first folds, under their first, second, ... seed, and had raced until then.
    """
    left = stopped or {}
    out: set[str] = set()
    for seeds in range(2, rounds + 1):
        out |= {name for name, seed in left.items() if seed <= seeds}
        racing = {name: found for name, found in outcomes.items() if name not in out}
        if len(racing) < 2 or any(len(found) < seeds for found in racing.values()):
            break  # the round is not over
        gained = {name: _trained(found[:seeds]) for name, found in racing.items()}
        level = ALPHA / ((rounds - 1) * math.comb(len(outcomes), 2))
        out |= _worse({name: np.stack(found) for name, found in gained.items() if found}, level)
    return out | left.keys()


def _trained(seeds: Sequence[Gains | None]) -> list[Gains]:
    return [gained for gained in seeds if gained is not None]


def _worse(racing: Mapping[str, NDArray[np.float64]], level: float) -> set[str]:
    """Compare all with the leader; shapes (seeds, photos).

    A difference of means errs by its photos (paired) and by its seeds, whose spread is pooled over
    all schedules since each has few.
    """
    of_seeds, freedom = spread_of_seeds(list(racing.values()))
    if freedom < LEAST:
        return set()
    leader = max(racing, key=lambda name: racing[name].mean())
    return {
        name
        for name, seeds in racing.items()
        if name != leader and p_value(racing[leader], seeds, of_seeds, freedom) < level
    }
