"""What is beaten on its first folds is stopped, and nothing is lost by training these first."""

from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from storage.predictions import StoredPredictions
from storage.records import Role, State
from study.budget import device_time
from study.config.loading import load_config, settings_of
from study.config.schema import Strategy
from study.searching.coordinator import Searched
from study.searching.first_folds import ALPHA, FIRST, FirstFolds, is_beaten
from study.searching.policy import Halving, SearchPolicy
from study.searching.race_scores import Outcomes, Photos
from study.searching.running_trial import RunningTrial
from study.stage_tree import Node, StageTree, Trained
from tests.crashes import crash_in, crashes, dies_at, is_step
from tests.lab import LABELS, SECONDS, Lab, Noting, schedule, stage, trial_of
from tests.tiny_training import CPU, noise, numbers, tensors
from tests.tiny_training import schedule as tiny
from tests.tiny_training import stage as tiny_stage
from trainers.base import BEST, LAST, StageTask
from trainers.data.folds import in_folds
from trainers.data.manifest import Manifest
from trainers.finetuner import Finetuner
from trainers.metrics import EpochMetrics, Evaluation, Metric

MANY = np.tile(LABELS, 5)
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


@pytest.mark.parametrize("metric", [Metric.MACRO_F1, Metric("macro_auroc"), Metric.LOG_LOSS])
def test_of_several_labels_too(metric: Metric) -> None:
    """Rows of photos and labels are told as photos are; a photo's rows count together."""
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(60), 3)
    stopped = {0.0: 0, 2.0: 0}
    for worse in stopped:
        for _ in range(60):
            there = rng.random((60, 3)) < (0.5, 0.3, 0.2)
            hard = rng.normal(1.0, 1.5, there.shape)
            both = []
            for less in (0.0, worse):
                margin = hard - less + rng.normal(0, 0.7, there.shape)
                yes = 1 / (1 + np.exp(np.where(there, -margin, margin))).ravel()
                labels = (there + 2 * np.arange(3)).ravel()
                both.append(Evaluation(labels, np.stack([1 - yes, yes], 1).astype(np.float32)))
            stopped[worse] += is_beaten(both[1], both[0], metric, groups)
    assert stopped[0.0] <= 4
    assert stopped[2.0] > 50


# the search


def dealt(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Deal photos into five folds, of all classes each."""
    return np.arange(len(labels)) % 5


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
            found = epoch.evaluation
            inside = task.first_folds > dealt(found.labels)
            part = Evaluation(found.labels[inside], found.probabilities[inside])
            yield replace(epoch, evaluation=part, accuracy=Metric.ACCURACY.of(part))


GOOD, BAD = schedule(stage(128, 1.1e-3, epochs=2)), schedule(stage(32, 1e-6, epochs=2))
BETTER = schedule(stage(128, epochs=2))


@pytest.fixture
def make(make_lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Lab]:
    """Return what makes a search in folds of a script, by halving."""
    real = Searched.__init__

    def in_folds_of(self: Searched, study: Any, labels: Any, *given: Any) -> None:
        real(self, study, labels, *given, fold_of=dealt(labels))

    monkeypatch.setattr(Searched, "__init__", in_folds_of)

    def lab(*script: Any, labels: Any = LABELS, **settings: Any) -> Lab:
        found = make_lab(*script, **({"strategy": Strategy.ASHA} | settings))
        found.trainer = InFolds(labels, 3)
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


# races

WEAK = schedule(stage(32, 1e-5, epochs=2))


def racing(
    make: Callable[..., Lab], strategy: Strategy = Strategy.INDEPENDENT, **settings: Any
) -> Lab:
    """Make a search in which a good and a weak schedule are given, and race."""
    lab = make(labels=MANY, finalists=2, **({"repeats": 3} | settings))
    lab.given = [WEAK, GOOD]
    lab.configure((), strategy=strategy, trials=2)
    return lab


def ends(lab: Lab) -> list[tuple[Any, ...]]:
    """Return schedule, seed, state and reason of each repeat."""
    with lab.reading() as (store, study, _):
        names = {GOOD.digest: "good", WEAK.digest: "weak"}
        return [
            (names[each.schedule_digest], each.seed, each.state, each.failure)
            for each in store.trials(study.id)
            if each.role is Role.REPEAT
        ]


DONE, OUT = (State.COMPLETE, None), (State.PRUNED, "beaten after 2 of 5 folds")
RACE = [
    ("good", 1, *DONE),
    ("weak", 1, *DONE),
    ("good", 2, *DONE),
    ("weak", 2, *OUT),
    ("good", 3, *DONE),
]


@pytest.mark.parametrize(
    "strategy", [Strategy.ASHA, pytest.param(Strategy.FORECAST, marks=pytest.mark.long)]
)
def test_a_repeat_that_is_beaten_leaves_the_race(
    make: Callable[..., Lab], strategy: Strategy
) -> None:
    """It trains two folds of its second seed, the winner all of its three; again, there is no more.

    Only second seeds are looked at, as nothing tells the luck of a first one.
    """
    lab = racing(make, strategy)
    lab.search()
    lab.check_order()
    assert ends(lab) == RACE
    assert lab.trainer.trained.count("first") == 2
    with lab.reading() as (store, study, _):
        assert device_time(store, study.id, 1, None).seconds == 7 * 2 * SECONDS
    lab.search()
    assert ends(lab) == RACE


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "after"),
    [("stop_stage_run", False), ("stop_stage_run", True), ("finish_trial", True)],
)
def test_a_race_that_was_killed_ends_the_same(
    make: Callable[..., Lab], method: str, after: bool
) -> None:
    """Also between the row of the stage run that was stopped and that of its trial."""
    calm = racing(make)
    calm.search()
    lab = racing(make)
    call = 1 if method == "stop_stage_run" else RACE.index(("weak", 2, *OUT)) + 3
    assert crashes(lab, lambda bench: crash_in(bench, "store", method, call, after=after))
    lab.search()
    lab.check_order()
    assert (ends(lab), lab.outcome()) == (RACE, calm.outcome())


@pytest.mark.slow
def test_a_race_that_was_killed_at_any_event_ends_the_same(make: Callable[..., Lab]) -> None:
    """Of its last events, those of the seeds that are looked at."""
    calm = racing(make)
    told = sum(map(is_step, calm.search()))
    for event in range(told // 2, told - 1):
        lab = racing(make)
        assert crashes(lab, dies_at(event))
        lab.search()
        assert (ends(lab), lab.outcome()) == (RACE, calm.outcome())


class Rows:
    """The predictions of one epoch, in which so many first photos are right."""

    def __init__(self, right: int) -> None:
        self.right = right

    def predictions(self, *_: Any) -> StoredPredictions:
        """Return them."""
        found = np.where(np.arange(len(MANY)) < self.right, MANY, (MANY + 1) % 3)
        sure = np.ones(len(MANY), np.float32)
        return StoredPredictions(found, sure, sure, None)


def test_a_repeat_counts_by_its_best_stage() -> None:
    """One that was better before its last stage is not beaten by what that makes of it."""
    photos = Photos(MANY, np.arange(len(MANY)) // 2)
    first = photos.within(np.arange(len(MANY)) < 120)
    assert first.groups is not None
    assert first.groups.max() == 59
    table = np.full((120, 3), 0.2, np.float32)
    table[np.arange(120), np.where(np.arange(120) < 60, MANY[:120], (MANY[:120] + 1) % 3)] = 0.6
    for right, mean in ((30, 0.5), (90, 0.75)):
        outcomes = Outcomes(Rows(right), Metric.ACCURACY, photos, first)  # type: ignore[arg-type]
        own = Evaluation(MANY[:120], table)
        assert outcomes.of_first(own, None).mean() == pytest.approx(0.5)
        found = outcomes.of_first(own, (1, 1))
        assert (found.mean(), len(found)) == (pytest.approx(mean), 60)


def test_what_the_exploration_stopped_is_trained_by_a_repeat() -> None:
    """Only the trial that began a stage run ends with it; others of its role train it whole."""
    config = load_config(settings_of(trials=3, strategy="asha"))
    policy = SearchPolicy(config, Halving(config))
    photos, folds = Photos(MANY), dealt(MANY)
    first = FirstFolds(None, config, policy, photos, folds)  # type: ignore[arg-type]
    node = Node("key", BAD, 0, None, trials=[3, 4])
    explored, repeat, other = (
        RunningTrial(trial_of(BAD, number, role=role))
        for number, role in ((3, Role.EXPLORE), (3, Role.REPEAT), (4, Role.REPEAT))
    )
    assert not first.was_stopped(explored, node)
    node.stopped = Trained((-0.5, 1.0), 1.0, 2.0)
    assert [first.was_stopped(each, node) for each in (explored, repeat, other)] == [
        True, True, False]  # fmt: skip
    node.trained = node.stopped
    assert not first.was_stopped(repeat, node)
