"""Rank schedules: their means over seeds, with intervals, and which are tied."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

import numpy as np

from storage.records import Trial
from study.selection.candidates import Pool, best_epoch
from study.stage_text import schedule_text
from study.statistics.groups import of_groups
from study.statistics.selection_bias import ONE_SIDED, By
from study.statistics.significance import Gains, mean_interval, p_value, spread_of_seeds

LEVEL = 0.05
"""The significance level for calling the truly best schedule worse than the first."""

ONE_ERROR = 0.317
"""The p value of a difference of one standard error."""


@dataclass(frozen=True)
class ScheduleLine:
    """A schedule and its runs: `trial` is the number of the first, `seconds` the mean of all.

    `scores` are by seed, `spread` is their sample standard deviation (None for one). `low` and
    `high` are the 95 % interval of the mean, over photos and seeds; None if no schedule has a
    second seed. `bound` is its lower confidence bound, over seeds alone. `p_value` tests that it is
    as good as the first; `tied` are all for which that is not rejected. `stopped` counts the seeds
    that lost a race on their first folds, and are in no mean.
    """

    digest: str
    schedule: str
    trial: int
    scores: dict[int, float]
    mean: float
    spread: float | None
    low: float | None
    high: float | None
    bound: float
    best: float
    seconds: float
    p_value: float = 1.0
    tied: bool = False
    stopped: int = 0

    def key(self, by: By) -> float:
        """Return the value it is ranked by: its mean, or on request its lower bound."""
        return self.bound if by is By.LCB else self.mean


def rank_schedules(pool: Pool, by: By, seconds: dict[int, float]) -> list[ScheduleLine]:
    """Rank the candidate schedules, the best first; ties by log loss.

    Those that lost a race come last, as a mean without the seed that lost it is too high. `seconds`
    maps a trial to the time of its stages, whichever trial trained them.
    """
    outcomes = {digest: _gains(same, pool) for digest, same in pool.seeds.items()}
    spread = spread_of_seeds(list(outcomes.values()))
    lines = [
        _line(digest, same, outcomes[digest], pool, spread, seconds)
        for digest, same in pool.seeds.items()
    ]
    sign = -1 if pool.scorer.higher_is_better else 1
    losses = {digest: _loss(same, pool) for digest, same in pool.seeds.items()}
    lines.sort(key=lambda line: (line.stopped > 0, sign * line.key(by), losses[line.digest]))
    first = outcomes[lines[0].digest] if lines else None
    # The first of many schedules is partly lucky: the level is divided (Bonferroni).
    level = LEVEL / max(len(lines) - 1, 1)
    tested = [_p_value(first, outcomes[line.digest], spread) for line in lines]
    return [
        replace(line, p_value=p, tied=p >= level and not line.stopped)
        for line, p in zip(lines, tested, strict=True)
    ]


def cheapest(lines: Sequence[ScheduleLine]) -> ScheduleLine:
    """Return the fastest schedule within a standard error of the first.

    That is Breiman's rule (1984): being tied means little with few photos and seeds.
    """
    near = (line for line in lines if line.p_value >= ONE_ERROR and not line.stopped)
    return min(near, key=lambda line: line.seconds)


def ties_text(lines: Sequence[ScheduleLine], mark: str = "") -> str:
    """Return how many schedules are tied, with their `mark`; "" if none are."""
    tied = sum(line.tied for line in lines)
    if tied < 2:
        return ""
    if tied < len(lines):
        return f"{tied} of {len(lines)} schedules are tied{mark} within noise"
    every = "both" if tied == 2 else f"all {tied}"
    return f"{every} schedules are tied{mark}: their differences may be chance"


def _gains(same: Sequence[Trial], pool: Pool) -> Gains:
    scorer = pool.scorer
    gained = np.stack([scorer.gains(pool.epochs[best_epoch(trial)]) for trial in same])
    return of_groups(gained, scorer.candidates.groups)


def _loss(same: Sequence[Trial], pool: Pool) -> float:
    losses = pool.scorer.candidates.losses[[pool.epochs[best_epoch(trial)] for trial in same]]
    return float(losses.mean(dtype=np.float64))


def _line(
    digest: str,
    same: Sequence[Trial],
    gained: Gains,
    pool: Pool,
    spread: tuple[float, int],
    seconds: dict[int, float],
) -> ScheduleLine:
    rows = np.arange(len(pool.scorer.candidates.labels))
    columns = [np.full(len(rows), pool.epochs[best_epoch(trial)]) for trial in same]
    scores = [pool.scorer.score(column, rows) for column in columns]
    by_seed = {trial.seed: score for trial, score in zip(same, scores, strict=True)}
    sign = 1 if pool.scorer.higher_is_better else -1
    mean, (of_seeds, freedom) = fmean(scores), spread
    half = mean_interval(gained, of_seeds, freedom) if freedom else None
    return ScheduleLine(
        digest=digest,
        schedule=schedule_text(same[0].schedule),
        trial=same[0].number,
        scores=dict(sorted(by_seed.items())),
        mean=mean,
        spread=stdev(scores) if len(scores) > 1 else None,
        low=None if half is None else max(mean - half, 0.0),
        high=None if half is None else min(mean + half, 1.0 if sign > 0 else np.inf),
        bound=mean - sign * ONE_SIDED * float(np.sqrt(of_seeds / len(same))),
        best=max(scores) if sign > 0 else min(scores),
        seconds=fmean(seconds[trial.number] for trial in same),
        stopped=pool.stopped.get(digest, 0),
    )


def _p_value(first: Gains | None, other: Gains, spread: tuple[float, int]) -> float:
    return 1.0 if first is None or first is other else p_value(first, other, *spread)
