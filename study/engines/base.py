"""The interface between the coordinator and where training runs: submit, then take events."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from trainers.base import StageTask
from trainers.metrics import EpochMetrics


class FailureKind(StrEnum):
    """Why a stage run ended badly."""

    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out of memory"
    DATA = "data"
    BUG = "bug"
    KILLED = "killed"


@dataclass(frozen=True)
class EpochEnded:
    """A stage run has finished an epoch; after its last one, its files are on disk."""

    key: str
    metrics: EpochMetrics


@dataclass(frozen=True)
class StageEnded:
    """A stage run has finished all its epochs."""

    key: str


@dataclass(frozen=True)
class StageFailed:
    """A stage run cannot go on."""

    key: str
    kind: FailureKind
    reason: str


@dataclass(frozen=True)
class Woken:
    """`Engine.wake` was called: who reads the events has something else to see to."""


@dataclass(frozen=True)
class BatchesDone:
    """How many batches of an epoch (from 1) in training are done, and of how many.

    For display only: it comes a few times a second, or never, and no decision depends on it.
    """

    key: str
    epoch: int
    done: int
    total: int


Watcher = Callable[[BatchesDone], None]
Event = EpochEnded | StageEnded | StageFailed | Woken


def unwatched(_: BatchesDone) -> None:
    """Ignore an engine's reports of batches, where nothing shows them."""


class Engine(Protocol):
    """Trains submitted stage runs in its slots."""

    @property
    def slots(self) -> int:
        """How many stage runs it can run at once."""
        ...

    def submit(self, key: str, task: StageTask) -> None:
        """Queue a stage run. More may be submitted while `events` is being read."""
        ...

    def events(self) -> Generator[Event, None, None]:
        """Yield what happens, until all that was submitted has ended.

        Closed before that, it leaves what is in training, whose files are then up to date.
        """
        ...

    def watch(self, watcher: Watcher) -> None:
        """Report batches to `watcher` from now on, from the thread that reads `events`."""
        ...

    def wake(self) -> None:
        """Have `events` yield `Woken` soon, where it would wait for long; any thread may ask."""
        ...

    def cancel(self, key: str) -> None:
        """Cancel the stage run whose epoch was last yielded; no event of it follows.

        When this returns, its files are up to date.
        """
        ...

    def close(self) -> None:
        """Release the engine's resources, such as its processes."""
        ...
