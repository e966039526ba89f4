"""How far an epoch is: told seldom, in whole numbers, and by the thread that trains alone."""

import multiprocessing
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from study.engines import inline, worker
from study.engines.base import BatchesDone, EpochEnded
from study.engines.inline import InlineEngine
from study.events import EpochProgress
from tests import lab
from tests.lab import Lab
from trainers.base import StageTask
from trainers.metrics import EpochMetrics
from trainers.synthetic import SyntheticTrainer


@dataclass
class Batches(SyntheticTrainer):
    """Calls `batches` in each epoch with what a trainer may call."""

    batches: Callable[[Callable[[int, int], None]], None]

    def __post_init__(self) -> None:
        super().__init__(np.array([0, 1]), 2)

    def train(self, task: StageTask) -> Generator[EpochMetrics, None, None]:
        """Train."""
        for metrics in super().train(task):
            self.batches(task.progress)
            yield metrics


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return a clock that stands still unless it is set."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(inline, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def heard(
    batches: Callable[[Callable[[int, int], None]], None], folder: Path, epochs: int = 1
) -> list[BatchesDone]:
    """Train such a stage; return what is told of its batches."""
    engine, found = InlineEngine(Batches(batches)), list[BatchesDone]()
    engine.watch(found.append)
    task = StageTask(schedule=lab.schedule(lab.stage(epochs=epochs)), seed=0, folder=folder)
    engine.submit("a", task)
    events = list(engine.events())
    assert len([event for event in events if isinstance(event, EpochEnded)]) == epochs
    return found


def test_batches_are_told_four_times_a_second(clock: SimpleNamespace, tmp_path: Path) -> None:
    """Of 1,024 batches in a second, and of the second epoch as such."""

    def batches(progress: Callable[[int, int], None]) -> None:
        for done in range(1024):
            clock.now += 1 / 1024
            progress(done, 1024)

    found = heard(batches, tmp_path, epochs=2)
    assert [said.epoch for said in found] == [1, 1, 1, 1, 2, 2, 2, 2]
    assert [said.done for said in found] == 2 * [255, 511, 767, 1023]


@pytest.mark.usefixtures("clock")
def test_a_short_epoch_tells_nothing(tmp_path: Path) -> None:
    """There is nothing to see in a quarter of a second."""
    assert heard(lambda progress: progress(1, 2), tmp_path) == []


@pytest.mark.parametrize(
    ("told", "shown"), [((-1, 4), (0, 4)), ((9, 4), (4, 4)), ((0, 0), (0, 1)), ((2.5, 4.0), (2, 4))]
)
def test_odd_numbers_are_made_whole(
    clock: SimpleNamespace, tmp_path: Path, told: tuple[int, int], shown: tuple[int, int]
) -> None:
    """Whatever a trainer of the user's own tells, a bar can be drawn of it."""

    def batches(progress: Callable[[int, int], None]) -> None:
        clock.now += 1
        progress(*told)

    (said,) = heard(batches, tmp_path)
    assert (said.done, said.total) == shown


def test_another_thread_is_not_heard(clock: SimpleNamespace, tmp_path: Path) -> None:
    """It would write into the middle of what the thread that trains says."""

    def batches(progress: Callable[[int, int], None]) -> None:
        clock.now += 1
        thread = threading.Thread(target=progress, args=(1, 2))
        thread.start()
        thread.join()

    assert heard(batches, tmp_path) == []


def test_a_worker_does_not_wait_for_a_coordinator_that_is_busy() -> None:
    """Once the line is full, more is not said: else a batch would wait."""
    ours, theirs = multiprocessing.Pipe()
    for number in range(20_000):
        worker._tell(ours, BatchesDone("a" * 64, 1, number, 20_000))
    assert theirs.recv() == BatchesDone("a" * 64, 1, 0, 20_000)
    theirs.close()
    worker._tell(ours, BatchesDone("a", 1, 1, 1))
    ours.close()


def test_a_search_tells_how_far_each_trial_is(clock: SimpleNamespace, tmp_path: Path) -> None:
    """By the trial's own epochs, also in its second stage."""
    mine = Lab(tmp_path, [lab.schedule(lab.stage(epochs=2), lab.stage(48))])

    def batches(progress: Callable[[int, int], None]) -> None:
        clock.now += 1
        progress(1, 2)

    mine.make_engine = lambda _: InlineEngine(Batches(batches))
    said = [each for each in mine.search() if isinstance(each, EpochProgress)]
    assert said == [EpochProgress(0, step, 1, 2) for step in (1, 2, 3)]
