"""The selection bias of the best of many, and the corrected estimate. Pure.

The score of the best of many candidates is optimistic, as it is partly luck. So the choice is
repeated on most of the photos and scored on the others, hundreds of times. Tsamardinos et al.,
Bootstrapping the out-of-sample predictions for efficient and accurate cross-validation (2018), do
so on bootstrap samples; these are only half as informative for a choice as all photos, and
estimates were up to 0.8 points too low in simulations. Samples of four fifths, drawn without
replacement, stayed within 0.3 (tests/unit/test_statistics.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from study.statistics.folds import deal_rounds
from study.statistics.scoring import Inside, Scorer, Scores

ONE_SIDED = 1.644854
FOLDS = 5
REPEATS = 400


class By(StrEnum):
    """How weights are chosen: by the FORECAST of their stage run, or only by their score (MAX).

    By MEAN or LCB they are the best of the best schedule, by its mean over seeds or by that mean's
    lower limit (lower confidence bound), which is stricter with few seeds.
    """

    FORECAST = "forecast"
    MEAN = "mean"
    LCB = "lcb"
    MAX = "max"


@dataclass(frozen=True, eq=False)
class Trials:
    """Which candidates belong together.

    Trial `t` has `columns[starts[t]:starts[t + 1]]`; `schedules` (T,), ascending, is the schedule
    of each trial.
    """

    columns: NDArray[np.int64]
    starts: NDArray[np.int64]
    schedules: NDArray[np.int64]


@dataclass(frozen=True)
class BiasCorrected:
    """A chosen file's observed score (`naive`), and the estimate for new photos.

    `low` and `high` are the ends of a 95 % interval, None where the class `few` has too few photos
    for one; `candidates` are the epochs chosen from.
    """

    naive: float
    estimate: float
    low: float | None
    high: float | None
    candidates: int
    resamples: int
    few: int | None = None


def mcnemar(only_first: int, only_second: int) -> float:
    """Test, two-sided and exact, that two are right equally often (McNemar 1947).

    Photos that both get right, or both wrong, do not matter.
    """
    from scipy.special import bdtr  # the binomial distribution; scipy.stats takes another second

    n = only_first + only_second
    return min(1.0, float(2 * bdtr(min(only_first, only_second), n, 0.5)))


Chooser = Callable[[Inside], NDArray[np.int64]]
"""Returns the candidate chosen by each of B sets of photos, (B,)."""


def chooser(scorer: Scorer, trials: Trials, by: By) -> Chooser:
    """Return a function that chooses by scores."""
    return lambda inside: choose(scorer.within(inside), trials, by)


def bias_corrected(
    scorer: Scorer,
    choose: Chooser,
    chosen: int,
    *,
    judged: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> BiasCorrected:
    """Estimate the score of the chosen column on new photos.

    In each of `REPEATS` rounds, the photos are dealt into `FOLDS` folds; for each fold the choice
    (of schedule, weights and epoch) is made by the others, and its predictions for the fold are
    kept; groups of photos stay together. A round thus gives predictions for every photo by a choice
    made without it. All photos choose; with `judged`, only these photos are scored.
    """
    rng = np.random.default_rng(seed)
    labels, groups = scorer.candidates.labels, scorer.candidates.groups
    folds, rows = deal_rounds(labels, REPEATS, FOLDS, rng, groups), np.arange(len(labels))
    picked = np.empty(folds.shape, np.int64)  # (rounds, photos): the column that predicts there
    for fold in range(FOLDS):
        winners = choose((folds != fold).astype(np.float32).T)
        picked[folds == fold] = np.broadcast_to(winners[:, None], folds.shape)[folds == fold]
    if judged is not None:
        scorer, picked = scorer.of(judged), picked[:, judged]
        rows = np.arange(len(judged))
    estimate = float(np.mean([scorer.score(columns, rows) for columns in picked]))
    naive = scorer.score(np.full(len(rows), chosen), rows)
    low = high = None
    if scorer.few is None:
        low, high = _interval(scorer, naive, estimate, picked, chosen)
    candidates = len(scorer.candidates.predicted)
    return BiasCorrected(naive, estimate, low, high, candidates, FOLDS * REPEATS, scorer.few)


def choose(scores: Scores, trials: Trials, by: By) -> NDArray[np.int64]:
    """Return which candidate is chosen on each set of photos, shape (B,)."""
    if by is By.MAX:
        return np.asarray(scores.argmax(axis=0), np.int64)
    members = scores[trials.columns]
    of_trials = np.maximum.reduceat(members, trials.starts[:-1], axis=0)
    best = schedule_ranks(of_trials, trials.schedules, by).argmax(axis=0)
    others = trials.schedules[:, None] != np.unique(trials.schedules)[best]
    winner = np.where(others, -np.inf, of_trials).argmax(axis=0)
    of = np.repeat(np.arange(len(of_trials)), np.diff(trials.starts))
    place = np.where(of[:, None] != winner, -np.inf, members).argmax(axis=0)
    return np.asarray(trials.columns[place], np.int64)


def schedule_ranks(of_trials: Scores, schedules: NDArray[np.int64], by: By) -> Scores:
    """Return the value of each schedule, from its trials' scores (T, B); shape (S, B)."""
    _, starts, seeds = np.unique(schedules, return_index=True, return_counts=True)
    means: Scores = np.add.reduceat(of_trials, starts, axis=0) / seeds[:, None]
    freedom = len(schedules) - len(seeds)
    if by is not By.LCB or not freedom:
        return means
    squares = (of_trials - np.repeat(means, seeds, axis=0)) ** 2
    spread = np.sqrt(squares.sum(axis=0) / freedom)
    lower: Scores = means - ONE_SIDED * spread / np.sqrt(seeds)[:, None]
    return lower


def _interval(
    scorer: Scorer, naive: float, estimate: float, picked: NDArray[np.int64], chosen: int
) -> tuple[float, float]:
    """Return the limits: the estimate may be pessimistic, the naive figure never is."""
    effect = scorer.design_effect(chosen)
    evidence = np.mean([scorer.evidence(columns) for columns in picked], axis=0)
    careful = scorer.limits(estimate, evidence, effect)
    own = scorer.evidence(np.full(picked.shape[1], chosen))
    hopeful = scorer.limits(naive, own, effect)
    if scorer.higher_is_better:
        return careful[0], hopeful[1]
    return hopeful[0], careful[1]
