"""The seam between who decides what to train and where it runs: submit, then take events."""

from collections.abc import Iterator
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


@dataclass(frozen=True)
class EpochEnded:
    """A stage run has finished an epoch; its files are on disk."""

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


Event = EpochEnded | StageEnded | StageFailed


class Engine(Protocol):
    """Runs submitted stage runs in its slots."""

    @property
    def slots(self) -> int:
        """How many stage runs it can run at once."""
        ...

    def submit(self, key: str, task: StageTask) -> None:
        """Queue a stage run. More may be submitted while `events` is being read."""
        ...

    def events(self) -> Iterator[Event]:
        """Yield what happens, until all that was submitted has ended."""
        ...

    def cancel(self, key: str) -> None:
        """Stop a stage run after the epoch it is in; no event of it follows."""
        ...
