"""What every engine leaves on disk of a stage that it does not train to its end."""

import errno
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from study.engines.base import Engine, Event, StageEnded
from tests import tiny_training
from tests.cluster import OnRay
from tests.contract.conftest import FULL_DISK, told
from tests.engines import FailingWhenLeft, Late, Processes, epochs_in
from tests.tiny_training import epoch_of_best, epochs_in_last
from trainers.base import LAST, StageTask
from trainers.finetuner import Finetuner


@dataclass(frozen=True)
class Left:
    """An engine that is reading out the stage of a real trainer, which has not written yet."""

    engine: Engine
    events: Generator[Event, None, None]
    task: StageTask

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.task.folder


@pytest.fixture
def left(make_engine: Callable[..., Engine], kind: object, tmp_path: Path) -> Left:
    """Train two of three epochs."""
    if kind in (Processes(2), OnRay()):  # torch takes seconds in each process
        engine = make_engine(Late(np.array([0, 1]), 2))
    else:
        photos = tiny_training.noise(tmp_path / "photos", 8, 4)
        engine = make_engine(Finetuner(photos, compute=tiny_training.CPU, checkpoint_seconds=1e9))
    folder = tmp_path / "a"
    folder.mkdir()
    mine = tiny_training.schedule(tiny_training.stage(cycle_len=3))
    task = StageTask(schedule=mine, seed=0, folder=folder)
    engine.submit("a", task)
    events = engine.events()
    assert told([next(events), next(events)], "a") == [1, 2]
    assert list(folder.iterdir()) == []
    return Left(engine, events, task)


def epochs_reached(folder: Path) -> int:
    """Count the epochs that LAST knows, whichever trainer wrote it."""
    return epochs_in_last(folder) or epochs_in(folder / LAST)


class TestLeavingContract:
    """What is on disk of a stage that is not trained to its end."""

    def test_a_cancelled_stage_has_its_files(self, left: Left) -> None:
        """Once `cancel` has returned, the weights of the best epoch may be taken."""
        left.engine.cancel("a")
        assert epochs_reached(left.folder) == 2
        assert epoch_of_best(left.folder) in (1, 2)
        assert list(left.events) == []

    def test_a_stage_has_its_files_when_events_are_closed(self, left: Left) -> None:
        """No epoch that was reported is lost when the reader stops."""
        left.events.close()
        assert epochs_reached(left.folder) == 2
        assert epoch_of_best(left.folder) in (1, 2)

    def test_cancelling_another_leaves_it_in_training(self, left: Left) -> None:
        """Only the stage that is meant is left."""
        left.engine.cancel("b")
        assert list(left.folder.iterdir()) == []
        assert told(list(left.events), "a") == [3, StageEnded]
        assert epochs_reached(left.folder) == 3

    def test_what_was_left_is_gone_on_with(self, left: Left) -> None:
        """Submitted again, a stage tells its epochs again and trains those that are missing."""
        left.events.close()
        left.engine.submit("a", left.task)
        assert told(list(left.engine.events()), "a") == [1, 2, 3, StageEnded]

    @pytest.mark.parametrize("error", FULL_DISK, ids=type)
    @pytest.mark.parametrize("cancelled", [True, False])
    def test_a_full_disk_is_told_by_its_number(
        self,
        make_engine: Callable[..., Engine],
        make_task: Callable[..., StageTask],
        error: Exception,
        cancelled: bool,
    ) -> None:
        """Also where it shows only when a stage is left, whatever library has found out."""
        engine = make_engine(FailingWhenLeft(error))
        engine.submit("a", make_task("a"))
        events = engine.events()
        next(events)
        with pytest.raises(OSError, match="No space left") as raised:
            engine.cancel("a") if cancelled else events.close()
        assert raised.value.errno == errno.ENOSPC
        events.close()  # collected later, it would leave what the next test trains

    def test_another_failure_to_leave_comes_out_as_it_is(
        self, make_engine: Callable[..., Engine], make_task: Callable[..., StageTask]
    ) -> None:
        """Incomplete files are never used as complete ones."""
        engine = make_engine(FailingWhenLeft(PermissionError(errno.EACCES, "Permission denied")))
        engine.submit("a", make_task("a"))
        events = engine.events()
        next(events)
        with pytest.raises(PermissionError):
            engine.cancel("a")
        events.close()
