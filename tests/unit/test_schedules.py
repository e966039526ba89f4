"""Ranked schedules: means, bounds and ties, in simulated studies whose truth is known."""

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from storage.records import State, Trial
from study.criterion import Criterion
from study.selection.candidates import Pool
from study.selection.schedule_ranking import ScheduleLine, cheapest, rank_schedules
from study.statistics.scoring import Candidates, Scorer
from study.statistics.selection_bias import ONE_SIDED, By, Trials
from tests.lab import schedule, stage, trial_of

PHOTOS = 309


def ranked(
    right: NDArray[np.bool_],
    schedules: NDArray[np.int64],
    by: By = By.MEAN,
    stopped: Mapping[str, int] | None = None,
) -> list[ScheduleLine]:
    """Rank schedules whose runs get these photos right, shape (runs, photos); named by number."""
    runs, n = right.shape
    labels = np.zeros(n, np.int64)
    found = Candidates(labels, 2, (~right).astype(np.int64), right.astype(np.float32))
    epochs: dict[tuple[int | None, int | None], int] = {(run, 1): run for run in range(runs)}
    trials = Trials(np.arange(runs), np.arange(runs + 1), schedules)
    seeds: dict[str, list[Trial]] = {}
    for run, own in enumerate(schedules.tolist()):
        trial = trial_of(
            schedule(stage(32 + own)),
            run,
            id=run,
            seed=run,
            state=State.COMPLETE,
            score=float(right[run].mean()),
            best_stage_run=run,
            best_epoch=1,
        )
        seeds.setdefault(str(own), []).append(trial)
    pool = Pool(Scorer(found, Criterion.ACCURACY), epochs, trials, seeds, stopped or {})
    return rank_schedules(pool, by, {run: float(run) for run in range(runs)})


def world(
    quality: NDArray[np.float64], seeds: int, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Train schedules of such quality in probits: some photos are hard for all, seeds have luck."""
    schedules = np.repeat(np.arange(len(quality)), seeds)
    own = quality[schedules] + rng.normal(0, 0.1, len(schedules))
    ease = own[:, None] - rng.normal(size=PHOTOS) + rng.normal(size=(len(own), PHOTOS))
    return ease > 0, schedules


@pytest.mark.parametrize(
    ("schedules", "seeds"),
    [
        (2, 5),
        pytest.param(12, 5, marks=pytest.mark.long),
        pytest.param(40, 2, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("spread", [0.0, 0.15])
def test_the_truly_best_is_tied_with_the_first(schedules: int, seeds: int, spread: float) -> None:
    """However many compete: in 95 % of simulated studies it is first or marked as good."""
    rng, kept = np.random.default_rng(2), []
    for _ in range(100):
        quality = 2.0 + rng.normal(0, spread, schedules)
        lines = {line.digest: line for line in ranked(*world(quality, seeds, rng))}
        kept.append(lines[str(quality.argmax())].tied)
    assert np.mean(kept) >= 0.95


def test_the_clearly_worse_is_not_tied() -> None:
    """Some 9 points on 309 photos and five seeds are no luck, among twelve schedules either."""
    rng, told = np.random.default_rng(2), []
    for _ in range(30):
        quality = np.where(np.arange(12) < 2, 2.0, 1.4)
        lines = {line.digest: line for line in ranked(*world(quality, 5, rng))}
        told += [lines[str(worse)].tied for worse in range(2, 12)]
    assert np.mean(told) <= 0.05


def test_the_interval_of_a_mean_holds_the_truth() -> None:
    """In at least 95 % of simulated studies, over new photos and new seeds."""
    rng, holds = np.random.default_rng(3), []
    truth = norm.cdf(2.0 / np.sqrt(1 + 1 + 0.1**2))
    for _ in range(60):
        for line in ranked(*world(np.full(6, 2.0), 4, rng)):
            holds.append(line.low <= truth <= line.high)
    assert np.mean(holds) >= 0.95


@pytest.mark.parametrize("by", [By.MEAN, By.LCB, By.FORECAST])
def test_who_lost_a_race_is_behind_those_that_ended_it(by: By) -> None:
    """Its mean lacks the seed that lost it: it is neither tied nor the cheapest."""
    right = np.arange(PHOTOS) >= np.array([8, 9, 1, 10, 12])[:, None]
    lines = ranked(right, np.array([0, 0, 1, 2, 2]), by, {"1": 1})
    assert [line.digest for line in lines] == ["0", "2", "1"]
    assert [line.stopped for line in lines] == [0, 0, 1]
    assert [line.tied for line in lines] == [True, True, False]
    assert cheapest(lines[:1] + lines[2:]).digest == "0"


def test_a_bound_is_the_mean_less_what_seeds_may_err() -> None:
    """By the spread of seeds of all schedules together, over the root of how many it has."""
    rng = np.random.default_rng(0)
    right, schedules = world(np.array([2.0, 1.9, 1.8]), 3, rng)
    right, schedules = right[:-2], schedules[:-2]  # the last has one seed
    lines = {line.digest: line for line in ranked(right, schedules)}
    scores = [right[schedules == own].mean(axis=1) for own in range(3)]
    spread = np.sqrt(sum(((own - own.mean()) ** 2).sum() for own in scores) / 4)
    for own, found in enumerate(scores):
        line = lines[str(own)]
        assert line.mean == pytest.approx(found.mean())
        assert line.bound == pytest.approx(found.mean() - ONE_SIDED * spread / len(found) ** 0.5)
        assert line.best == pytest.approx(found.max())
        assert sorted(line.scores.values()) == pytest.approx(sorted(found))
    assert lines["2"].spread is None
    assert lines["0"].spread == pytest.approx(scores[0].std(ddof=1))


def test_shares_stay_shares() -> None:
    """An interval that would reach beyond all photos, or below none, ends there."""
    right = np.ones((4, 20), bool)
    right[2:, :3] = False
    seeds = np.array([0, 0, 1, 1])
    first, second = ranked(right, seeds)
    assert (first.low, first.mean, first.high) == (1, 1, 1)
    assert second.low is not None
    assert second.low < second.mean < second.high == 1
    poor = ranked(~right, seeds)
    assert min(line.low or 0 for line in poor) == 0


def test_without_a_second_seed_there_is_no_interval() -> None:
    """How much of a score is the luck of its seed cannot be known, and is not claimed."""
    lines = ranked(np.ones((2, 20), bool), np.array([0, 1]))
    assert {(line.low, line.high) for line in lines} == {(None, None)}


def test_the_cheapest_is_one_of_the_best() -> None:
    """The least seconds within a standard error, not among all, nor among all tied ones."""
    right = np.ones((3, 100), bool)
    right[0, :40] = False
    right[2, :1] = False
    lines = ranked(right, np.arange(3))
    assert [(line.digest, line.tied) for line in lines] == [("1", True), ("2", True), ("0", False)]
    assert cheapest(lines).digest == "1"
