"""A running search: a row for each trial, and a line when it ends; in a pipe, only lines."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from storage.records import State
from study.budget import DeviceTime, progress_text
from study.events import (
    EpochFinished,
    EpochProgress,
    Notice,
    Outlook,
    SearchStarted,
    StageStarted,
    TrialFinished,
    Working,
)
from study.events import Progress as SearchProgress
from study.formatting import count_text, score_phrase, time_text
from study.sanitizing import printable
from study.views.live import Cell, bar, fitted
from study.views.terminal import UNBROKEN
from trainers.metrics import EpochMetrics, Metric
from trainers.schedule import Schedule, Train

WIDTH = 120
"""The maximum width of a trial's line; the rest is in `show`."""

REASON = 60
"""The maximum length of the reason for a failure."""

MARGIN = 3
"""Free columns at the end of a row, where a terminal shows ^C."""

SHORT = 0.5
"""Seconds after which work is shown."""


@dataclass
class _Row:
    """A trial in training: `step` of its epochs are done, and `batches` of the current one."""

    schedule: Schedule
    seed: int
    since: float
    position: int = 0
    step: int = 0
    batches: tuple[int, int] = (0, 0)
    latest: EpochMetrics | None = None

    @property
    def share(self) -> float:
        """The trained share of its epochs."""
        done, total = self.batches
        return (self.step + (done / total if total else 0.0)) / self.schedule.epochs


@dataclass
class _Work:
    what: str
    since: float
    done: int = 0
    total: int = 0


@dataclass
class _Search:
    """The progress of the search; its scores are on `photos` photos."""

    since: float
    metric: Metric = Metric.ACCURACY
    photos: int = 0
    done: int = 0
    to_go: int | None = None
    time: DeviceTime = field(default_factory=lambda: DeviceTime(0.0))
    best: float | None = None
    outlook: Outlook | None = None
    end: float | None = None  # when it is expected to be over

    def score(self, score: float | None) -> str:
        """Say a score."""
        return score_phrase(self.metric, score, self.photos)

    @property
    def counts(self) -> str:
        """The number of trials ended, and in all, or the device time."""
        if self.to_go is None:
            return f"{count_text(self.done, 'trial')}, {self.time}"
        budget = f", {self.time}" if self.time.budget else ""
        return f"{self.done}/{self.done + self.to_go}{budget}"

    @property
    def share(self) -> float:
        """The done share."""
        if self.to_go is None:
            return self.time.seconds / self.time.budget if self.time.budget else 0.0
        return self.done / max(self.done + self.to_go, 1)


class SearchView:
    """Listens to a search and shows it. Use as a context."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._shows = console.is_terminal and not console.is_dumb_terminal
        self._ascii = console.options.ascii_only
        self._search = _Search(clock())
        self._started = self._trains = False
        self._rows: dict[int, _Row] = {}
        self._waiting: dict[int, _Row] = {}  # between two stages
        self._work: _Work | None = _Work("preparing", clock())
        self._to_beat: float | None = None
        self._probed_texts: set[str] = set()
        self._spinner = Spinner("line" if self._ascii else "dots")
        self._live = Live(
            get_renderable=self._render, console=console, transient=True, refresh_per_second=5
        )

    def __enter__(self) -> Self:
        if self._shows:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._shows:
            self._live.stop()

    def __call__(self, told: SearchProgress) -> None:
        """Show an event."""
        match told:
            case Working():
                self._working(told)
            case Notice(text):
                self._print(text, wrap=True)
            case SearchStarted():
                self._search_started(told)
            case StageStarted():
                self._stage_started(told)
            case EpochProgress(number, step, done, total):
                if row := self._rows.get(number):
                    row.step, row.batches = step - 1, (done, total)
            case EpochFinished():
                self._epoch_finished(told)
            case TrialFinished():
                self._trial_finished(told)

    def _working(self, told: Working) -> None:
        now, work = self._clock(), self._work
        if told.done == told.total > 0:
            self._work = None if self._trains else _Work("preparing", now)
        elif work is not None and work.what == told.what:
            work.done, work.total = told.done, told.total
        else:
            self._work = _Work(told.what, now, told.done, told.total)

    def _search_started(self, told: SearchStarted) -> None:
        self._search = _Search(
            self._search.since,
            told.metric,
            told.photos,
            told.done,
            told.to_go,
            told.device_time,
            told.best_score,
        )
        self._started = True
        self._print(f"study {told.study}: {told.data}", wrap=True)
        for left_out in told.left_out[:20]:
            self._print(f"  left out {left_out.path!r}: {left_out.reason}")
        if len(told.left_out) > 20:
            self._print(f"  and {len(told.left_out) - 20} more left out")
        self._print(progress_text(told.done, told.to_go, told.device_time), wrap=True)
        if told.goal:
            of = told.done + (told.to_go or 0)
            self._print(f"{told.done}/{of}: trials that have ended, of {told.goal}", wrap=True)
        self._print("#: the order in which trials began; *: the best so far", wrap=True)

    def _stage_started(self, told: StageStarted) -> None:
        self._trains, self._work = True, None
        row = self._waiting.pop(told.number, None)
        since = row.since if row else self._clock()
        self._rows[told.number] = _Row(
            told.schedule, told.seed, since, told.position, told.epochs_before
        )

    def _epoch_finished(self, told: EpochFinished) -> None:
        epoch, search = told.metrics, self._search
        search.time = told.device_time
        self._expect(told.seconds_left)
        row = self._rows.get(told.number)
        if row is None:
            return
        row.step, row.batches, row.latest = told.step, (0, 0), epoch
        stage = row.schedule.stages[row.position]
        if stage.train is Train.PROBE:
            self._probed(stage.image_size, epoch)
        boundaries = accumulate(each.epochs for each in row.schedule.stages[:-1])
        if told.step in boundaries:  # the search decides which stage is trained next
            self._waiting[told.number] = self._rows.pop(told.number)

    def _probed(self, size: int, epoch: EpochMetrics) -> None:
        """Show the result of a plain classifier at once, before anything is tuned."""
        metric, text = self._search.metric, probe_text(size, epoch, self._search.metric)
        if text in self._probed_texts:  # by a trial that shares the stage
            return
        self._probed_texts.add(text)
        score = epoch.score(metric)
        best = self._to_beat is None or _is_better(metric, score, self._to_beat)
        self._to_beat = score if best else self._to_beat
        self._print(text + (": the number to beat" if best else ""))

    def _trial_finished(self, told: TrialFinished) -> None:
        trial, search = told.trial, self._search
        better = False
        if trial.state is State.COMPLETE and trial.score is not None and trial.loss is not None:
            ranks = [
                search.metric.rank(s, 0.0) for s in (trial.score, search.best) if s is not None
            ]
            better = len(ranks) == 1 or ranks[0] < ranks[1]
            search.best = trial.score if better else search.best
        search.done, search.to_go, search.outlook = search.done + 1, told.to_go, told.outlook
        self._expect(told.seconds_left)
        for rows in (self._rows, self._waiting):
            rows.pop(trial.number, None)
        cells = trial_cells(told, search.score(trial.score), best=better)
        counts = [] if self._shows else [Cell(search.counts, 65)]
        file = [Cell(told.file, 85)] if better and told.file else []
        width = min(WIDTH, self._console.width) if self._shows else WIDTH
        if file and fitted([*cells, *file, *counts], UNBROKEN).cell_len > width:
            self._print(fitted([*cells, *counts], WIDTH))
            self._print(fitted([Cell("   ", 100), *file], WIDTH))
        else:
            self._print(fitted([*cells, *file, *counts], WIDTH))

    def _expect(self, seconds_left: float | None) -> None:
        self._search.end = None if seconds_left is None else self._clock() + seconds_left

    # what is drawn

    def _render(self) -> Group:
        return Group(*self.rows(self._console.width - MARGIN))

    def rows(self, width: int) -> list[Text]:
        """Return the live view in rows of at most `width` columns."""
        now = self._clock()
        self._spinner.text = ""
        sign = str(self._spinner.render(now))
        return [fitted(cells, width) for cells in self._cells(sign, now)]

    def _cells(self, sign: str, now: float) -> Iterator[list[Cell]]:
        """Yield the rows of the live view: the search, its trials, other work."""
        if self._started:
            yield [Cell(f"{sign} trials {self._search.counts}", 100), *self._search_cells(now)]
        for number, row in sorted(self._rows.items()):
            yield [Cell(f"{sign} #{number}", 100), *self._row_cells(row, now)]
        work = self._work
        if work is not None and now - work.since >= SHORT:
            counts = f"{work.done:,}/{work.total:,}" if work.total else ""
            progress = bar(work.done / work.total, 20, ascii_only=self._ascii) if counts else ()
            since = time_text(now - work.since)
            yield [Cell(f"{sign} {work.what}", 100), *progress, Cell(counts, 50), Cell(since, 30)]

    def _search_cells(self, now: float) -> Iterator[Cell]:
        search = self._search
        yield from bar(search.share, 20, ascii_only=self._ascii)[:1]
        if search.best is not None:
            yield Cell(f"best {search.score(search.best)}", 90, "bold")
        yield Cell(f"{time_text(now - search.since)} so far", 70)
        if search.end is not None and search.end > now:
            yield Cell(f"about {time_text(search.end - now)} left", 80)
        if self._waiting:
            yield Cell(f"{len(self._waiting)} between stages", 15)
        if search.outlook is not None:
            yield Cell(outlook_text(search.outlook, search.metric), 10)

    def _row_cells(self, row: _Row, now: float) -> Iterator[Cell]:
        stage, epoch = row.schedule.stages[row.position], row.latest
        yield from bar(row.share, 60, ascii_only=self._ascii)
        if stage.train is Train.PROBE:
            yield Cell(f"probe at {stage.image_size} px", 80)
        else:
            yield Cell(f"epoch {min(row.step + 1, row.schedule.epochs)}/{row.schedule.epochs}", 90)
            yield Cell(f"stage {row.position + 1}/{len(row.schedule.stages)}", 50)
            yield Cell(f"{stage.image_size} px", 55)
        if epoch is not None:
            yield Cell(self._search.score(epoch.score(self._search.metric)), 70)
        yield Cell(time_text(now - row.since), 65)
        yield Cell(f"seed {row.seed}", 40)
        if epoch is not None and stage.train is not Train.PROBE:
            yield Cell(f"{epoch.images_per_second:.0f} images/s", 30)
            yield Cell(f"lr {epoch.lrs[-1]:.2g}", 20)

    def _print(self, line: str | Text, *, wrap: bool = False) -> None:
        """Print a line; a terminal breaks it where it ends, or with `wrap` between words."""
        text = printable(line) if isinstance(line, str) else line
        broken = wrap and self._shows
        self._console.print(text, markup=False, highlight=False, soft_wrap=not broken)


def _is_better(metric: Metric, score: float, other: float) -> bool:
    return metric.rank(score, 0.0) < metric.rank(other, 0.0)


def probe_text(size: int, epoch: EpochMetrics, metric: Metric) -> str:
    """Return the result of a probe on the validation photos."""
    found = epoch.evaluation.confusion
    photos = int(found.sum())
    made = f"{count_text(photos - int(found.trace()), 'error')} of {photos:,}"
    score = score_phrase(metric, epoch.score(metric), photos)
    shown = score if metric is Metric.ACCURACY else f"{metric} {score}"
    return f"probe at {size} px: {made} ({shown})"


def outlook_text(outlook: Outlook, metric: Metric) -> str:
    """Return the forecast of the best so far, and the gain of as much compute again."""
    score, low, high = (score_phrase(metric, x) for x in (outlook.score, outlook.low, outlook.high))
    sign = "+" if metric.higher_is_better else "-"
    gain = f"{sign}{score_phrase(metric, outlook.gain)}"
    return f"expected {score} ({low} to {high}); as much compute again: {gain}"


def trial_cells(told: TrialFinished, score: str, *, best: bool) -> list[Cell]:
    """Return a trial's line: number, score, seconds, sizes, epochs, seed, and remarks."""
    trial = told.trial
    number, failed = f"#{trial.number}", trial.state is State.FAILED
    result = "failed" if failed else f"{'*' if best else ' '}{score}"
    notes, why = "; ".join(_notes(told)), (trial.failure or "") if failed else ""
    return [
        Cell(f"{number:<3} {result}", 100, "red" if failed else "bold" if best else ""),
        Cell(time_text(trial.seconds), 70),
        Cell(_sizes(told), 75),
        Cell(f"{told.epochs} ep", 60),
        Cell(f"seed {trial.seed}", 80),
        Cell(f"({notes})" if notes else "", 82),
        Cell(why if len(why) <= REASON else f"{why[:REASON]}...", 95),
    ]


def _sizes(told: TrialFinished) -> str:
    """Return the image sizes of the stages that were trained, or begun."""
    stages = told.trial.schedule.stages
    before = accumulate((stage.epochs for stage in stages[:-1]), initial=0)
    begun = [stage for stage, epochs in zip(stages, before, strict=True) if epochs < told.epochs]
    return ">".join(str(stage.image_size) for stage in begun or stages[:1]) + " px"


def _notes(told: TrialFinished) -> Iterator[str]:
    trial, stages = told.trial, told.trial.schedule.stages
    if trial.state is State.PRUNED:
        done = sum(end <= told.epochs for end in accumulate(stage.epochs for stage in stages))
        yield trial.failure or f"pruned after {done} of {count_text(len(stages), 'stage')}"
    if told.repeats is not None:
        yield f"repeat of #{told.repeats}"
    if told.shared is not None:
        count, other = told.shared
        yield f"same first {f'{count} stages' if count > 1 else 'stage'} as #{other}"
    if told.resumed:
        yield "resumed"
