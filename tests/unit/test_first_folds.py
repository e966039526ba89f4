"""What is beaten on its first folds is stopped, and nothing is lost by training these first."""

from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.records import State
from study.budget import device_time
from study.config.schema import Strategy
from study.searching.coordinator import Searched
from study.searching.first_folds import ALPHA, FIRST, is_beaten
from study.stage_tree import StageTree
from tests.crashes import crash_in, crashes, dies_at
from tests.lab import LABELS, SECONDS, Lab, Noting, schedule, stage
from tests.tiny_training import CPU, noise, numbers, tensors
from tests.tiny_training import schedule as tiny
from tests.tiny_training import stage as tiny_stage
from trainers.base import BEST, LAST, StageTask
from trainers.data.folds import in_folds
from trainers.data.manifest import Manifest
from trainers.finetuner import Finetuner
from trainers.metrics import EpochMetrics, Evaluation, Metric

FOLDS = np.arange(len(LABELS)) % 5
AVERAGED = {"cycle_len": 2, "ema": 0.5, "frozen": 0.5}

# the networks


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Deal 20 photos into 3 folds."""
    return in_folds(noise(tmp_path_factory.mktemp("photos"), 12, 8), 3, seed=0)


@pytest.mark.parametrize(
    ("killed", "fields"),
    [
        (True, {"cycle_len": 2}),
        pytest.param(False, {"cycle_len": 2}, marks=pytest.mark.long),
        *(pytest.param(killed, AVERAGED, marks=pytest.mark.long) for killed in (False, True)),
    ],
)
def test_the_first_folds_trained_first_are_the_same_networks(
    photos: Manifest, tmp_path: Path, fields: dict[str, Any], killed: bool
) -> None:
    """To the last bit, files and numbers, also where either part is cut after an epoch."""
    mine = tiny(tiny_stage(**fields))

    def train(folder: Path, first: int = 0) -> list[EpochMetrics]:
        folder.mkdir(exist_ok=True)
        task = StageTask(schedule=mine, seed=3, folder=folder, first_folds=first)
        if killed and folder.name == "parts":
            leaving = Finetuner(photos, compute=CPU, checkpoint_seconds=0).train(task)
            next(leaving)
            leaving.close()
        return list(Finetuner(photos, compute=CPU).train(task))

    whole, first = train(tmp_path / "whole"), train(tmp_path / "parts", FIRST)
    assert [epoch.epoch for epoch in first] == [1, 2]
    for epoch, of_all in zip(first, whole, strict=True):
        inside = of_all.evaluation.probabilities[photos.fold_of < FIRST]
        assert np.allclose(epoch.evaluation.probabilities, inside, atol=1e-3)  # as files round
    then = train(tmp_path / "parts")
    assert [numbers(epoch) for epoch in then] == [numbers(epoch) for epoch in whole]
    for name in (LAST, BEST):
        assert tensors(tmp_path / "parts" / name) == tensors(tmp_path / "whole" / name)


# the decision


def told(rng: np.random.Generator, worse: float, n: int) -> tuple[Evaluation, Evaluation]:
    """Make what two networks say of n photos, three in four of them known well."""
    labels, hard = rng.integers(0, 2, n), rng.normal(1.5, 1.5, n)
    both = []
    for less in (0.0, worse):
        margin = hard - less + rng.normal(0, 0.7, n)
        true = 1 / (1 + np.exp(-margin))
        table = np.stack([np.where(labels == k, true, 1 - true) for k in (0, 1)], 1)
        both.append(Evaluation(labels, table.astype(np.float32)))
    return both[0], both[1]


def share_stopped(worse: float, n: int = 120, times: int = 400) -> float:
    """Return how often the second of two is stopped, which is worse by so much."""
    rng = np.random.default_rng(0)
    pairs = (told(rng, worse, n) for _ in range(times))
    return float(np.mean([is_beaten(own, rival, Metric.ACCURACY) for rival, own in pairs]))


def test_as_good_as_the_best_is_hardly_ever_stopped_and_far_worse_is() -> None:
    """In 400 draws of 120 photos; one that is better by the metric never is."""
    assert share_stopped(0.0) <= ALPHA + 0.015
    assert share_stopped(1.0) > 0.9
    rng = np.random.default_rng(1)
    rival, own = told(rng, 0.0, 50)
    assert not is_beaten(own, own, Metric.ACCURACY)
    assert not is_beaten(rival, rival, Metric.F1, np.arange(50) // 2)


# the search


class InFolds(Noting):
    """Says of the first folds alone what it says of all photos, if it is asked for them."""

    def train(self, task: StageTask) -> Generator[EpochMetrics, None, None]:
        """Train as the synthetic trainer does."""
        if task.first_folds:
            self.trained.append("first")
        for epoch in super().train(task):
            if not task.first_folds:
                yield epoch
                continue
            inside, found = task.first_folds > FOLDS, epoch.evaluation
            part = Evaluation(found.labels[inside], found.probabilities[inside])
            yield replace(epoch, evaluation=part, accuracy=Metric.ACCURACY.of(part))


GOOD, BAD = schedule(stage(128, 1.1e-3, epochs=2)), schedule(stage(32, 1e-6, epochs=2))
BETTER = schedule(stage(128, epochs=2))


@pytest.fixture
def make(make_lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Lab]:
    """Return what makes a search in folds of a script, by halving."""
    real = Searched.__init__

    def in_folds_of(self: Searched, *given: Any) -> None:
        real(self, *given, fold_of=FOLDS)

    monkeypatch.setattr(Searched, "__init__", in_folds_of)

    def lab(*script: Any, **settings: Any) -> Lab:
        found = make_lab(*script, strategy=Strategy.ASHA, **settings)
        found.trainer = InFolds(LABELS, 3)
        return found

    return lab


def test_what_is_beaten_is_stopped_and_counted(make: Callable[..., Lab]) -> None:
    """Rows say why, and what it took; what is better is trained on all folds."""
    lab = make(GOOD, BAD, BETTER)
    lab.search()
    assert lab.trainer.trained.count("first") == 2  # the first trial has no rival
    with lab.reading() as (store, study, _):
        trials, runs = store.trials(study.id), store.stage_runs(study.id)
        assert [trial.state for trial in trials] == [
            State.COMPLETE, State.PRUNED, State.COMPLETE]  # fmt: skip
        assert [trial.failure for trial in trials] == [None, "beaten after 2 of 5 folds", None]
        assert [run.state for run in runs] == [trial.state for trial in trials]
        assert store.epochs(runs[1].id) == []
        assert device_time(store, study.id, 1, None).seconds == 6 * SECONDS
        stopped = StageTree.of(store, study).find(runs[1].key)
        assert stopped is not None
        assert stopped.stopped is not None
        assert stopped.trained is None
        assert stopped.stopped.loss == runs[1].first_loss
    lab.check_order()


@pytest.mark.long
def test_killed_anywhere_it_decides_the_same(make: Callable[..., Lab], every: bool) -> None:
    """Around each step of a search of which one stage run is beaten, and at its events."""
    calm = make(GOOD, BAD, BETTER)
    calm.search()
    moments = [dies_at(event) for event in (range(8) if every else (3, 5))]
    for after in (False, True):
        moments.append(
            lambda bench, after=after: crash_in(bench, "store", "stop_stage_run", 1, after=after)
        )
    for moment in moments:
        lab = make(GOOD, BAD, BETTER)
        assert crashes(lab, moment)
        lab.search()
        lab.check_order()
        assert lab.outcome() == calm.outcome()


def test_a_stage_that_others_go_on_from_is_not_stopped(make: Callable[..., Lab]) -> None:
    """Not before the last stage of a trial, whatever it comes to."""
    lab = make(GOOD, schedule(*BAD.stages, stage(128, epochs=2)))
    lab.search()
    with lab.reading() as (store, study, _):
        assert store.trials(study.id)[1].failure is None
