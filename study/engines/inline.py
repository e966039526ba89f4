"""The engine that trains in the coordinator's own process, one stage run after the other."""

import errno
import logging
import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Generator
from dataclasses import replace

from study.engines.base import (
    BatchesDone,
    EpochEnded,
    Event,
    FailureKind,
    StageEnded,
    StageFailed,
    Watcher,
    unwatched,
)
from trainers.base import StageTask, Trainer, is_device_lost, is_out_of_memory
from trainers.errors import DatasetError, DeviceLost, TrainingDiverged, UnreadablePhoto
from trainers.metrics import EpochMetrics

log = logging.getLogger(__name__)

TELL_EVERY = 0.25
"""Seconds between two reports on the batches of a stage run."""


class InlineEngine:
    """See `Engine`. One slot: this process.

    It is not a `WorkerPool`: there is nothing to wait for, retry or kill, and an error that would
    fail all other trials as well is raised, not reported as a failure.
    """

    slots = 1

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._waiting: deque[tuple[str, StageTask]] = deque()
        self._training: str | None = None
        self._epochs: Generator[EpochMetrics, None, None] | None = None
        self._watcher: Watcher = unwatched

    def watch(self, watcher: Watcher) -> None:
        """Report batches to `watcher` while an epoch trains."""
        self._watcher = watcher

    def submit(self, key: str, task: StageTask) -> None:
        """Queue a stage run."""
        self._waiting.append((key, task))

    def events(self) -> Generator[Event, None, None]:
        """Train what is queued, yielding each epoch."""
        try:
            while self._waiting:
                key, task = self._waiting.popleft()
                yield from self._train(key, task)
        finally:
            self._leave()

    def wake(self) -> None:
        """Do nothing: an epoch in training is not to be disturbed, and then comes its event."""

    def cancel(self, key: str) -> None:
        """Cancel the stage run after the epoch whose event was last yielded."""
        self._waiting = deque(waiting for waiting in self._waiting if waiting[0] != key)
        if self._training == key:  # not a mark on the key: it may be submitted again at once
            self._leave()

    def close(self) -> None:
        """Hold nothing."""

    def _train(self, key: str, task: StageTask) -> Generator[Event, None, None]:
        meter = _Meter(key, self._watcher)
        epochs = self._epochs = self._trainer.train(replace(task, progress=meter))
        self._training = key
        while self._training == key:
            try:
                metrics = next(epochs)
            except StopIteration:
                yield StageEnded(key)
                return
            except Exception as error:  # one trial may fail in any way; the search goes on
                if _is_full_disk(error):  # all other trials would fail as well
                    raise _full_disk() from error
                log.debug("%s", traceback.format_exc())
                _raise_if_lost(error)
                text = f"{type(error).__name__}: {error}"
                # torch's messages have many lines
                reason = " ".join(text.split()).removesuffix(":")
                yield StageFailed(key, _kind(error), reason)
                return
            meter.epoch = metrics.epoch + 1
            yield EpochEnded(key, metrics)

    def _leave(self) -> None:
        """Let the trainer write its state."""
        self._training = None
        if self._epochs is not None:
            try:
                self._epochs.close()
            except Exception as error:
                if _is_full_disk(error):
                    raise _full_disk() from error
                _raise_if_lost(error)
                raise
            self._epochs = None


class _Meter:
    """Forwards a trainer's reports of batches at a limited rate."""

    def __init__(self, key: str, watcher: Watcher) -> None:
        self.epoch = 1
        self._key, self._watcher = key, watcher
        self._thread, self._next = threading.get_ident(), time.monotonic() + TELL_EVERY

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        # A custom trainer may call from any thread, but the connection allows only one.
        if now < self._next or threading.get_ident() != self._thread:
            return
        self._next = now + TELL_EVERY
        whole = max(1, int(total))
        self._watcher(BatchesDone(self._key, self.epoch, min(max(0, int(done)), whole), whole))


def _raise_if_lost(error: Exception) -> None:
    """Raise `DeviceLost` for an error that would fail all other trials in this process as well."""
    if is_device_lost(error):
        raise DeviceLost(str(error).splitlines()[0]) from error


def _full_disk() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _is_full_disk(error: Exception) -> bool:
    # safetensors wraps system errors in its own class, with the number in the text.
    number = getattr(error, "errno", None)
    return number == errno.ENOSPC or f"os error {errno.ENOSPC})" in str(error)


def _kind(error: Exception) -> FailureKind:
    if isinstance(error, TrainingDiverged):
        return FailureKind.DIVERGED
    if is_out_of_memory(error):
        return FailureKind.OUT_OF_MEMORY
    if isinstance(error, UnreadablePhoto | DatasetError | FileNotFoundError):
        return FailureKind.DATA
    return FailureKind.BUG
