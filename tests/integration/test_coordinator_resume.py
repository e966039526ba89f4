"""A search that dies at any point goes on, and ends as one that was never disturbed."""

import pickle
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import pytest

from study.events import EpochFinished
from tests.crashes import check_end, chosen, crash_in, crashes, dies_at, is_step
from tests.lab import LABELS, Bench, Lab, Noting, schedule, stage
from trainers.base import LAST, StageTask
from trainers.metrics import EpochMetrics, Metric
from trainers.schedule import Schedule
from trainers.synthetic import _epochs_in

MakeLab = Callable[..., Lab]

ROOT = stage(64, epochs=2)
BAD = schedule(stage(64, 50.0))
"""A learning rate at which the synthetic trainer diverges."""

SCRIPT = (schedule(ROOT, stage(96)), schedule(ROOT, stage(128)), BAD)
SHORT = (schedule(stage(64), stage(96)), schedule(stage(64), stage(128)))

STEPS = [
    # before or after, whose, which, with what schedules
    ("before", "suggestions", "report", SHORT),
    ("before", "suggestions", "tell", SHORT),
    ("after", "suggestions", "tell", SHORT),
    ("before", "store", "add_trial", SHORT),
    ("before", "store", "begin_stage_run", SHORT),
    ("before", "store", "record_epoch", SHORT),
    ("before", "store", "seal_stage_run", SHORT),
    ("after", "store", "seal_stage_run", SHORT),
    ("before", "store", "fail_stage_run", (BAD,)),
    ("after", "store", "fail_stage_run", (BAD,)),
    ("before", "store", "finish_trial", SHORT),
    ("after", "store", "finish_trial", SHORT),
    ("before", "vault", "seal", SHORT),
    ("after", "vault", "seal", SHORT),
    ("before", "vault", "discard", (SHORT[0], BAD)),
]

QUICK = [STEPS[index] for index in (1, 3, 5, 7, 9, 12)]
"""One step of each kind, which are tried each time; `long` are the others."""

UNDISTURBED: dict[tuple[Schedule, ...], dict[str, Any]] = {}
"""What comes of a script if nothing happens, once it was tried."""


def undisturbed(make_lab: MakeLab, script: tuple[Schedule, ...]) -> dict[str, Any]:
    """Return what comes of a script if nothing happens."""
    if script not in UNDISTURBED:
        calm = make_lab(*script)
        calm.search()
        UNDISTURBED[script] = calm.outcome()
    return UNDISTURBED[script]


def test_killed_at_any_event_the_end_is_the_same(make_lab: MakeLab, every: bool) -> None:
    """Trials, scores, stage runs, epochs and files; nothing runs for ever, nothing is left over."""
    calm = make_lab(*SCRIPT)
    events = sum(map(is_step, calm.search()))
    assert events == 11
    for event in chosen(events, every=every):
        lab = make_lab(*SCRIPT)
        assert crashes(lab, dies_at(event))
        check_end(lab, calm.outcome(), f"after a crash at event {event}")


class Retelling(Noting):
    """Knows of an epoch before a crash what its file says: probabilities of two bytes."""

    def train(self, task: StageTask) -> Generator[EpochMetrics, None, None]:
        """Train as the synthetic trainer does."""
        known = _epochs_in(task.folder / LAST)
        for metrics in super().train(task):
            if metrics.epoch <= known:
                kept = pickle.loads(pickle.dumps(metrics.evaluation))  # noqa: S301 - made here
                yield replace(metrics, evaluation=kept)
            else:
                yield metrics


@pytest.mark.parametrize(
    ("metric", "every"),
    [
        pytest.param(Metric.F1, False, marks=pytest.mark.long),
        pytest.param(Metric.F1, True, marks=pytest.mark.slow),
        pytest.param(Metric.ACCURACY, True, marks=pytest.mark.slow),
    ],
)
def test_killed_at_any_event_calibrated_losses_are_the_same(
    make_lab: MakeLab, metric: Metric, every: bool
) -> None:
    """To the last bit, though the probabilities that are learnt of again were rounded."""

    def lab_of() -> Lab:
        lab = make_lab(*SHORT, metric=metric.value)
        lab.trainer = Retelling(LABELS, 3, metric=metric)
        return lab

    calm = lab_of()
    events = sum(map(is_step, calm.search()))
    with calm.reading() as (store, study, _):
        epochs = store.epochs_of_study(study.id)
        least = store.calibrated_losses(study)
    assert all((e.calibrated_loss or 0) > 0 for e in epochs)
    assert least.keys() == {epoch.stage_run_id for epoch in epochs}
    assert events == 8
    for event in chosen(events, every=every):
        lab = lab_of()
        assert crashes(lab, dies_at(event))
        check_end(lab, calm.outcome(), f"after a crash at event {event}")


@pytest.mark.slow
def test_killed_at_every_event_of_one_search_it_still_ends(make_lab: MakeLab) -> None:
    """A search that dies again and again, each time one event later, even among its repeats."""
    calm = make_lab(*SHORT, repeats=1, finalists=2)
    calm.search()
    lab, deaths = make_lab(*SHORT, repeats=1, finalists=2), 0
    while crashes(lab, dies_at(deaths)):
        lab.check_order(over=False)
        deaths += 1
        assert deaths < 20
    assert deaths > 3
    check_end(lab, calm.outcome(), "after many crashes")


@pytest.mark.parametrize(
    ("when", "owner", "method", "script"),
    [pytest.param(*step, marks=() if step in QUICK else pytest.mark.long) for step in STEPS],
)
def test_killed_around_every_step_the_end_is_the_same(
    make_lab: MakeLab, every: bool, when: str, owner: str, method: str, script: tuple[Schedule, ...]
) -> None:
    """Before or after each call that writes something, in whatever trial; sampled: in the last."""
    expected, call = undisturbed(make_lab, script), 1 if every else len(script)

    def prepare(bench: Bench) -> None:
        crash_in(bench, owner, method, call, after=when == "after")

    while crashes(lab := make_lab(*script), prepare):
        check_end(lab, expected, f"{when} call {call} of {method}")
        call += 1
        if not every:
            break
    assert call > len(script), f"{method} was called less than once for each schedule"


def test_stopped_after_any_epoch_the_next_run_goes_on(make_lab: MakeLab, every: bool) -> None:
    """The polite way: the epoch at hand is recorded, its trial stays open, no epoch is lost."""
    expected = undisturbed(make_lab, SCRIPT)
    for last in range(1, 4) if every else (2,):
        lab = make_lab(*SCRIPT)
        lab.search(stop=lambda lab=lab, last=last: epochs_told(lab) >= last)
        assert epochs_told(lab) == last
        check_end(lab, expected, f"after a stop at epoch {last}")


def epochs_told(lab: Lab) -> int:
    """Count the epochs told so far."""
    return sum(isinstance(news, EpochFinished) for news in lab.told)


def test_a_search_told_to_stop_begins_nothing(make_lab: MakeLab) -> None:
    """Interrupted while it starts, it leaves the budget to the next run."""
    lab = make_lab(*SCRIPT)
    assert lab.search(stop=lambda: True) == []
    with lab.reading() as (store, study, _):
        assert store.trials(study.id) == []


def test_epochs_on_disk_are_not_trained_again(make_lab: MakeLab) -> None:
    """A stage goes on from its `last` weights: what they know is only told again."""
    lab = make_lab(schedule(stage(64, epochs=5)))
    assert crashes(lab, dies_at(3))
    folder = next((lab.folder / "lab" / "stages").glob("*/*"))
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {"best.safetensors", "last.safetensors"} == written.keys()
    told = lab.search()
    assert sum(isinstance(news, EpochFinished) for news in told) == 5
    lab.check_order()
