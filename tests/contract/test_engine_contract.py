"""What every engine promises, wherever it trains."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from study.engines.base import (
    BatchesDone,
    Engine,
    EpochEnded,
    FailureKind,
    StageEnded,
    StageFailed,
    unwatched,
)
from tests.contract.conftest import FULL_DISK, told
from tests.engines import Failing, Inline, Telling
from trainers.base import LAST, StageTask
from trainers.errors import DatasetError, TrainingDiverged, UnreadablePhoto

FAILURES = [
    (TrainingDiverged("the loss is nan"), FailureKind.DIVERGED),
    (MemoryError(), FailureKind.OUT_OF_MEMORY),
    (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), FailureKind.OUT_OF_MEMORY),
    (RuntimeError("MPS backend Out Of Memory"), FailureKind.OUT_OF_MEMORY),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), FailureKind.OUT_OF_MEMORY),
    (FileNotFoundError(errno.ENOENT, "No such file", "a.jpg"), FailureKind.DATA),
    (UnreadablePhoto("a.jpg: not an image"), FailureKind.DATA),
    (DatasetError("a.jpg is not the photo that it was"), FailureKind.DATA),
    (RuntimeError("shapes do not fit"), FailureKind.BUG),
    (KeyError("epoch"), FailureKind.BUG),
    (PermissionError(errno.EACCES, "Permission denied"), FailureKind.BUG),
]


class TestEngineContract:
    """Run over every engine."""

    def test_epochs_come_in_order_and_then_the_end(
        self, make_engine: Callable[..., Engine], make_task: Callable[..., StageTask]
    ) -> None:
        """Each key has all its epochs, then exactly one end, and nothing after it."""
        engine = make_engine()
        assert engine.slots >= 1
        for number, key in enumerate("abc", 1):
            engine.submit(key, make_task(key, number))
        events = list(engine.events())
        assert told(events, "a") == [1, StageEnded]
        assert told(events, "b") == [1, 2, StageEnded]
        assert told(events, "c") == [1, 2, 3, StageEnded]
        assert {event.key for event in events} == set("abc")

    def test_batches_of_an_epoch_in_training_are_told(
        self,
        make_engine: Callable[..., Engine],
        make_task: Callable[..., StageTask],
        tmp_path: Path,
    ) -> None:
        """To who watches, while it trains; they are no events."""
        heard: list[BatchesDone] = []

        def hear(said: BatchesDone) -> None:
            heard.append(said)
            (tmp_path / "heard").touch()

        engine = make_engine(Telling(tmp_path / "heard"))
        engine.watch(hear)
        engine.submit("a", make_task("a", 3))
        assert told(list(engine.events()), "a") == [1, 2, 3, StageEnded]
        engine.watch(unwatched)
        assert set(heard) == {BatchesDone("a", epoch=2, done=3, total=8)}

    def test_nothing_submitted_is_nothing_told(self, make_engine: Callable[..., Engine]) -> None:
        """An idle engine ends at once, again and again."""
        engine = make_engine()
        assert list(engine.events()) == []
        assert list(engine.events()) == []

    def test_more_may_be_submitted_while_events_are_read(
        self, make_engine: Callable[..., Engine], make_task: Callable[..., StageTask]
    ) -> None:
        """The events go on until all that was submitted has ended."""
        engine, events, waiting = make_engine(), [], list("bcd")
        engine.submit("a", make_task("a"))
        for event in engine.events():
            events.append(event)
            if isinstance(event, StageEnded) and waiting:
                engine.submit(key := waiting.pop(0), make_task(key))
        for key in "abcd":
            assert told(events, key) == [1, 2, StageEnded]

    def test_an_engine_can_be_used_again(
        self, make_engine: Callable[..., Engine], make_task: Callable[..., StageTask]
    ) -> None:
        """What is submitted after the events ran out is trained when they are read again."""
        engine = make_engine()
        engine.submit("a", make_task("a"))
        list(engine.events())
        engine.submit("b", make_task("b"))
        assert told(list(engine.events()), "b") == [1, 2, StageEnded]

    def test_a_cancelled_stage_says_no_more_and_the_others_go_on(
        self, make_engine: Callable[..., Engine], make_task: Callable[..., StageTask]
    ) -> None:
        """Be it in training or still waiting, no event of it follows."""
        engine, events = make_engine(), []
        for key in "abc":
            engine.submit(key, make_task(key, 3))
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
        self, make_engine: Callable[..., Engine], make_task: Callable[..., StageTask]
    ) -> None:
        """The stage is trained anew, once: a trial was pruned and the next one begins alike."""
        engine, events = make_engine(), []
        engine.submit("a", make_task("a", 3))
        for event in engine.events():
            events.append(event)
            if len(events) == 2:
                engine.cancel("a")
                (make_task("a").folder / LAST).unlink()
                engine.submit("a", make_task("a", 3))
        assert told(events, "a") == [1, 2, 1, 2, 3, StageEnded]

    def test_a_waiting_stage_that_was_cancelled_and_submitted_again_is_trained_once(
        self, make_engine: Callable[..., Engine], make_task: Callable[..., StageTask]
    ) -> None:
        """Cancelling takes it out of the queue."""
        engine = make_engine()
        engine.submit("a", make_task("a"))
        engine.cancel("a")
        engine.submit("a", make_task("a"))
        assert told(list(engine.events()), "a") == [1, 2, StageEnded]

    def test_cancelling_what_is_not_there_changes_nothing(
        self, make_engine: Callable[..., Engine], make_task: Callable[..., StageTask]
    ) -> None:
        """Neither before, nor after its end."""
        engine = make_engine()
        engine.cancel("a")
        engine.submit("a", make_task("a"))
        assert told(list(engine.events()), "a") == [1, 2, StageEnded]
        engine.cancel("a")

    @pytest.mark.parametrize("after", [0, 1])
    @pytest.mark.parametrize(("error", "failure"), FAILURES, ids=lambda value: str(value)[:20])
    def test_a_failure_ends_its_stage_alone(
        self,
        make_engine: Callable[..., Engine],
        make_task: Callable[..., StageTask],
        error: Exception,
        failure: FailureKind,
        after: int,
    ) -> None:
        """It is told once, with its kind and a line of reason; the others are trained."""
        engine = make_engine(Failing(error, key="b", after=after))
        for key in "abc":
            engine.submit(key, make_task(key))
        events = list(engine.events())
        assert told(events, "b") == [*range(1, after + 1), StageFailed]
        assert told(events, "a") == told(events, "c") == [1, 2, StageEnded]
        failed = next(event for event in events if isinstance(event, StageFailed))
        assert failed.kind is failure
        assert failed.reason.startswith(type(error).__name__)

    def test_a_reason_is_one_line(
        self, make_engine: Callable[..., Engine], make_task: Callable[..., StageTask]
    ) -> None:
        """Torch's errors have many; the log has them."""
        engine = make_engine(Failing(RuntimeError("a mess:\n\tone\n\ttwo\n"), key="a"))
        engine.submit("a", make_task("a"))
        (failed,) = engine.events()
        assert isinstance(failed, StageFailed)
        assert failed.reason == "RuntimeError: a mess: one two"

    @pytest.mark.parametrize("error", FULL_DISK, ids=type)
    def test_a_full_disk_ends_everything(
        self,
        make_engine: Callable[..., Engine],
        make_task: Callable[..., StageTask],
        error: Exception,
    ) -> None:
        """No other trial would do better, so no trial counts as failed."""
        engine = make_engine(Failing(error, key="a", after=1))
        for key in "ab":
            engine.submit(key, make_task(key))
        events = engine.events()
        assert isinstance(next(events), EpochEnded)
        with pytest.raises(OSError, match="No space left") as raised:
            list(events)
        assert raised.value.errno == errno.ENOSPC

    def test_an_interrupt_is_no_failure(
        self,
        kind: object,
        make_engine: Callable[..., Engine],
        make_task: Callable[..., StageTask],
    ) -> None:
        """Ctrl-C in the middle of an epoch comes out, where that is in this process."""
        if not isinstance(kind, Inline):
            pytest.skip("workers do not hear it: see test_process_engine.py")
        engine = make_engine(Failing(KeyboardInterrupt(), key="a"))
        engine.submit("a", make_task("a"))
        with pytest.raises(KeyboardInterrupt):
            list(engine.events())
