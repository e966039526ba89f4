"""Events of a running search; the live view and the log lines are made from them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from storage.records import Trial
from study.budget import DeviceTime
from trainers.data.sources import LeftOut
from trainers.metrics import EpochMetrics, Metric
from trainers.schedule import Schedule


@dataclass(frozen=True)
class Working:
    """Work that takes a while, such as "reading photos"; it is over when `done` equals `total`.

    `total` is 0 as long as it is not known.
    """

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Notice:
    """A sentence that the user should read."""

    text: str


@dataclass(frozen=True)
class SearchStarted:
    """Before the first trial: trials ended and to go, repeats included.

    `to_go` is None if the search is not ended by a number of trials; `goal` describes in words what
    it counts. Scores are on `photos` validation photos.
    """

    study: str
    metric: Metric
    data: str
    done: int
    to_go: int | None
    device_time: DeviceTime
    best_score: float | None
    left_out: tuple[LeftOut, ...]
    goal: str = ""
    photos: int = 0


@dataclass(frozen=True)
class StageStarted:
    """A trial enters a stage (counted from 0); `epochs` are those of its whole schedule."""

    number: int
    schedule: Schedule
    seed: int
    position: int
    epochs_before: int


@dataclass(frozen=True)
class EpochProgress:
    """How many batches of the epoch that a trial trains are done, and of how many.

    `step` is that epoch's, counted as in `EpochFinished`: `step - 1 + done / total` epochs of the
    trial are trained. It comes at most four times a second, never in an epoch shorter than that,
    and from custom trainers only if they report batches. An epoch that does not fit into memory
    starts again: `done` may decrease.
    """

    number: int
    step: int
    done: int
    total: int


@dataclass(frozen=True)
class EpochFinished:
    """An epoch of a trial is recorded; `step` counts through the trial's stages from 1.

    `device_time` is the study's total with this epoch, `seconds_left` the expected rest of the
    search, None if nothing bounds it.
    """

    number: int
    step: int
    metrics: EpochMetrics
    device_time: DeviceTime
    seconds_left: float | None = None


@dataclass(frozen=True)
class Outlook:
    """A forecast, in the metric's unit.

    The expected `score` of the best so far, with its interval. `gain` is the expected improvement
    for as much compute again. It is `flat` if that is less than validation's noise could show.
    """

    score: float
    low: float
    high: float
    gain: float
    flat: bool


@dataclass(frozen=True)
class TrialFinished:
    """A trial has ended; `file` is its best weights, absent if it failed or was pruned.

    `outlook` is the current forecast, under a strategy that has one. `repeats` is the first trial
    of the same schedule, if it is not this one; `shared` is how many of its first stages another
    trial had trained, and that trial's number. `resumed` means that an earlier run of the search
    had begun it.
    """

    trial: Trial
    epochs: int
    file: str | None
    to_go: int | None
    outlook: Outlook | None = None
    repeats: int | None = None
    shared: tuple[int, int] | None = None
    resumed: bool = False
    seconds_left: float | None = None


Progress = (
    Working | Notice | SearchStarted | StageStarted | EpochProgress | EpochFinished | TrialFinished
)
Listener = Callable[[Progress], None]


def telling(listener: Listener, what: str) -> Callable[[int, int], None]:
    """Return a function that reports progress of some work to a listener."""
    return lambda done, total: listener(Working(what, done, total))


@contextmanager
def working(listener: Listener, what: str) -> Iterator[None]:
    """Report to a listener that some work without countable steps is being done."""
    listener(Working(what, 0, 0))
    try:
        yield
    finally:
        listener(Working(what, 1, 1))


def noticing(listener: Listener) -> Callable[[str], None]:
    """Return a function that sends notices to a listener."""
    return lambda text: listener(Notice(text))
