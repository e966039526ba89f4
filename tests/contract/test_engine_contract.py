"""What every engine promises, wherever it trains."""

import errno
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from study.engines.base import Engine, EpochEnded, Event, FailureKind, StageEnded, StageFailed
from study.engines.inline import InlineEngine
from tests.lab import schedule, stage
from trainers.base import LAST, StageTask, Trainer, TrainingDiverged
from trainers.data.photo import UnreadablePhoto
from trainers.metrics import EpochMetrics
from trainers.synthetic import SyntheticTrainer

MAKERS: list[Callable[[Trainer], Engine]] = [InlineEngine]

FAILURES = [
    (TrainingDiverged("the loss is nan"), FailureKind.DIVERGED),
    (MemoryError(), FailureKind.OUT_OF_MEMORY),
    (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), FailureKind.OUT_OF_MEMORY),
    (RuntimeError("MPS backend Out Of Memory"), FailureKind.OUT_OF_MEMORY),
    (FileNotFoundError(errno.ENOENT, "No such file", "a.jpg"), FailureKind.DATA),
    (UnreadablePhoto("a.jpg: not an image"), FailureKind.DATA),
    (RuntimeError("shapes do not fit"), FailureKind.BUG),
    (KeyError("epoch"), FailureKind.BUG),
    (PermissionError(errno.EACCES, "Permission denied"), FailureKind.BUG),
]


class Failing(SyntheticTrainer):
    """Fails where it is told to: at the start of the stage, or after some epochs."""

    def __init__(self, error: Exception, *, key: str, after: int = 0) -> None:
        super().__init__(np.array([0, 1]), 2)
        self.error, self.key, self.after = error, key, after

    def train(self, task: StageTask) -> Iterator[EpochMetrics]:
        """Train as far as it goes."""
        for metrics in super().train(task):
            if task.folder.name == self.key and metrics.epoch > self.after:
                raise self.error
            yield metrics


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[..., Engine]:
    """Give what makes an engine of each kind."""

    def make(trainer: Trainer | None = None) -> Engine:
        engine: Engine = request.param(trainer or SyntheticTrainer(np.array([0, 1, 1]), 2))
        return engine

    return make


@pytest.fixture
def task(tmp_path: Path) -> Callable[..., StageTask]:
    """Give what makes a task in a folder of its own, named as its key."""

    def task(key: str, epochs: int = 2) -> StageTask:
        (tmp_path / key).mkdir(exist_ok=True)
        return StageTask(schedule=schedule(stage(epochs=epochs)), seed=0, folder=tmp_path / key)

    return task


def told(events: list[Event], key: str) -> list[object]:
    """Give what was told of a key: numbers of epochs, and how it ended."""
    own = [event for event in events if event.key == key]
    return [event.metrics.epoch if isinstance(event, EpochEnded) else type(event) for event in own]


class TestEngineContract:
    """Run over every engine."""

    def test_epochs_come_in_order_and_then_the_end(
        self, make: Callable[..., Engine], task: Callable[..., StageTask]
    ) -> None:
        """Each key has all its epochs, then exactly one end, and nothing after it."""
        engine = make()
        assert engine.slots >= 1
        for number, key in enumerate("abc", 1):
            engine.submit(key, task(key, number))
        events = list(engine.events())
        assert told(events, "a") == [1, StageEnded]
        assert told(events, "b") == [1, 2, StageEnded]
        assert told(events, "c") == [1, 2, 3, StageEnded]
        assert {event.key for event in events} == set("abc")

    def test_files_of_an_epoch_are_there_when_it_is_told(
        self, make: Callable[..., Engine], task: Callable[..., StageTask]
    ) -> None:
        """Who reads an event may take the files: each epoch has left new ones."""
        engine, one, seen = make(), task("a", 3), set()
        engine.submit("a", one)
        for event in engine.events():
            if isinstance(event, EpochEnded):
                seen.add(hashlib.sha256((one.folder / LAST).read_bytes()).hexdigest())
        assert seen

    def test_nothing_submitted_is_nothing_told(self, make: Callable[..., Engine]) -> None:
        """An idle engine ends at once, again and again."""
        engine = make()
        assert list(engine.events()) == []
        assert list(engine.events()) == []

    def test_more_may_be_submitted_while_events_are_read(
        self, make: Callable[..., Engine], task: Callable[..., StageTask]
    ) -> None:
        """The events go on until all that was submitted has ended."""
        engine, events, waiting = make(), [], list("bcd")
        engine.submit("a", task("a"))
        for event in engine.events():
            events.append(event)
            if isinstance(event, StageEnded) and waiting:
                engine.submit(key := waiting.pop(0), task(key))
        for key in "abcd":
            assert told(events, key) == [1, 2, StageEnded]

    def test_an_engine_can_be_used_again(
        self, make: Callable[..., Engine], task: Callable[..., StageTask]
    ) -> None:
        """What is submitted after the events ran out is trained when they are read again."""
        engine = make()
        engine.submit("a", task("a"))
        list(engine.events())
        engine.submit("b", task("b"))
        assert told(list(engine.events()), "b") == [1, 2, StageEnded]

    def test_a_cancelled_stage_says_no_more_and_the_others_go_on(
        self, make: Callable[..., Engine], task: Callable[..., StageTask]
    ) -> None:
        """Be it in training or still waiting, no event of it follows."""
        engine, events = make(), []
        for key in "abc":
            engine.submit(key, task(key, 3))
        for event in engine.events():
            events.append(event)
            if len(events) == 1:
                engine.cancel(event.key)
                engine.cancel("c")
        first = events[0].key
        assert told(events, first) == [1]
        assert told(events, "c") == ([1] if first == "c" else [])
        assert told(events, "b" if first == "a" else "a") == [1, 2, 3, StageEnded]

    def test_what_was_cancelled_can_be_submitted_again_at_once(
        self, make: Callable[..., Engine], task: Callable[..., StageTask]
    ) -> None:
        """The stage is trained anew, once: a trial was pruned and the next one begins alike."""
        engine, events = make(), []
        engine.submit("a", task("a", 3))
        for event in engine.events():
            events.append(event)
            if len(events) == 2:
                engine.cancel("a")
                (task("a").folder / LAST).unlink()
                engine.submit("a", task("a", 3))
        assert told(events, "a") == [1, 2, 1, 2, 3, StageEnded]

    def test_a_waiting_stage_that_was_cancelled_and_submitted_again_is_trained_once(
        self, make: Callable[..., Engine], task: Callable[..., StageTask]
    ) -> None:
        """Cancelling takes it out of the queue."""
        engine = make()
        engine.submit("a", task("a"))
        engine.cancel("a")
        engine.submit("a", task("a"))
        assert told(list(engine.events()), "a") == [1, 2, StageEnded]

    def test_cancelling_what_is_not_there_changes_nothing(
        self, make: Callable[..., Engine], task: Callable[..., StageTask]
    ) -> None:
        """Neither before, nor after its end."""
        engine = make()
        engine.cancel("a")
        engine.submit("a", task("a"))
        assert told(list(engine.events()), "a") == [1, 2, StageEnded]
        engine.cancel("a")

    @pytest.mark.parametrize("after", [0, 1])
    @pytest.mark.parametrize(("error", "kind"), FAILURES, ids=lambda value: str(value)[:20])
    def test_a_failure_ends_its_stage_alone(
        self,
        make: Callable[..., Engine],
        task: Callable[..., StageTask],
        error: Exception,
        kind: FailureKind,
        after: int,
    ) -> None:
        """It is told once, with its kind and a line of reason; the others are trained."""
        engine = make(Failing(error, key="b", after=after))
        for key in "abc":
            engine.submit(key, task(key))
        events = list(engine.events())
        assert told(events, "b") == [*range(1, after + 1), StageFailed]
        assert told(events, "a") == told(events, "c") == [1, 2, StageEnded]
        failed = next(event for event in events if isinstance(event, StageFailed))
        assert failed.kind is kind
        assert failed.reason.startswith(type(error).__name__)

    def test_a_reason_is_one_line(
        self, make: Callable[..., Engine], task: Callable[..., StageTask]
    ) -> None:
        """Torch's errors have many; the log has them."""
        engine = make(Failing(RuntimeError("a mess:\n\tone\n\ttwo\n"), key="a"))
        engine.submit("a", task("a"))
        (failed,) = engine.events()
        assert isinstance(failed, StageFailed)
        assert failed.reason == "RuntimeError: a mess: one two"

    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.ENOSPC, "No space left on device"),
            SafetensorError("while serializing: I/O error: No space left (os error 28)"),
        ],
    )
    def test_a_full_disk_ends_everything(
        self, make: Callable[..., Engine], task: Callable[..., StageTask], error: Exception
    ) -> None:
        """No other trial would fare better, so it is nobody's failure."""
        engine = make(Failing(error, key="a", after=1))
        for key in "ab":
            engine.submit(key, task(key))
        events = engine.events()
        assert isinstance(next(events), EpochEnded)
        with pytest.raises(OSError, match="No space left") as raised:
            next(events)
        assert raised.value.errno == errno.ENOSPC

    def test_an_interrupt_is_no_failure(
        self, make: Callable[..., Engine], task: Callable[..., StageTask]
    ) -> None:
        """Ctrl-C in the middle of an epoch comes out."""
        engine = make(Failing(KeyboardInterrupt(), key="a"))  # type: ignore[arg-type]
        engine.submit("a", task("a"))
        with pytest.raises(KeyboardInterrupt):
            list(engine.events())
