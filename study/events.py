"""What a search tells while it runs; the live view and the log lines are made of these."""

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
    """Something that takes a while, such as "reading photos"; it is over when all is done.

    `total` is 0 as long as it is not known how much there is to do.
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
    """Before the first trial: what there is and what is to come, repeats included.

    `to_go` is None where not a number of trials ends the search; `goal` says in words what it
    counts. Scores are of so many validation `photos`.
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
    """So many batches of the epoch that a trial trains are done, of so many.

    `step` is that epoch's, counted as in `EpochFinished`: `step - 1 + done / total` epochs of the
    trial are trained. It comes at most four times a second, never in an epoch that is shorter than
    that, and from users' own trainers only if they tell. An epoch that does not fit into memory
    begins again: `done` may fall.
    """

    number: int
    step: int
    done: int
    total: int


@dataclass(frozen=True)
class EpochFinished:
    """An epoch of a trial is recorded; `step` counts through the trial's stages from 1.

    `device_time` is what the study has taken with it, `seconds_left` how long the search is
    expected to go on, None where nothing bounds it.
    """

    number: int
    step: int
    metrics: EpochMetrics
    device_time: DeviceTime
    seconds_left: float | None = None


@dataclass(frozen=True)
class Outlook:
    """What is expected, in the metric's unit: the `score` of the best so far, and how sure that is.

    `gain` is by how much the best would improve for as much compute again. It is `flat` where that
    is less than what validation's noise could show.
    """

    score: float
    low: float
    high: float
    gain: float
    flat: bool


@dataclass(frozen=True)
class TrialFinished:
    """A trial has ended; `file` is its best weights, absent if it failed or was pruned.

    `outlook` is what is expected now, under a strategy that expects anything. `repeats` is the
    first trial of the same schedule, if it is not this one; `shared` are how many of its first
    stages another trial had trained for it, and that trial's number. `resumed` says that an earlier
    run of the search had begun it.
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
    """Return what tells a listener how far some work is."""
    return lambda done, total: listener(Working(what, done, total))


@contextmanager
def working(listener: Listener, what: str) -> Iterator[None]:
    """Tell a listener that some work is being done, of which nothing can be counted."""
    listener(Working(what, 0, 0))
    try:
        yield
    finally:
        listener(Working(what, 1, 1))


def noticing(listener: Listener) -> Callable[[str], None]:
    """Return what tells a listener sentences."""
    return lambda text: listener(Notice(text))
