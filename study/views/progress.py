"""A search while it runs: two bars and a line a trial; without a terminal, the lines alone."""

from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from storage.records import State
from study.budget import DeviceTime, progress_text
from study.events import (
    EpochFinished,
    Notice,
    Outlook,
    SearchStarted,
    StageStarted,
    TrialFinished,
    Working,
)
from study.events import Progress as SearchProgress
from study.formatting import count_text, schedule_text, score_text
from trainers.metrics import EpochMetrics, Metric
from trainers.schedule import Stage, Train


class _Done(MofNCompleteColumn):
    """So many of so many, or what a task's `done` says instead."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["done"]) if "done" in task.fields else super().render(task)


class SearchView:
    """Listens to a search and shows it. Use as a context."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._metric = Metric.ACCURACY
        self._best: float | None = None
        self._outlook: Outlook | None = None
        self._done = 0
        self._to_go: int | None = None
        self._time = DeviceTime(0.0)
        self._stages: dict[int, str] = {}  # of the trials in training
        self._probes: dict[int, int] = {}  # of those in a probe, its image size
        self._to_beat: float | None = None
        self._probed_texts: set[str] = set()
        self._tasks: dict[int, TaskID] = {}
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _Done(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._trials = self._bars.add_task("trials", total=None, note="", visible=False)
        self._work = self._bars.add_task("", total=None, note="", visible=False)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, told: SearchProgress) -> None:
        """Show what a search tells."""
        match told:
            case Working(what, done, total):
                self._bars.update(
                    self._work, description=what, completed=done, total=total, visible=True
                )
            case Notice(text):
                self._print(escape(text))
            case SearchStarted():
                self._started(told)
            case StageStarted():
                self._stage_started(told)
            case EpochFinished():
                self._epoch_finished(told)
            case TrialFinished():
                self._trial_finished(told)

    def _started(self, told: SearchStarted) -> None:
        self._metric, self._best = told.metric, told.best_score
        self._print(f"study [bold]{escape(told.study)}[/]: {escape(told.data)}")
        for left_out in told.left_out[:20]:
            self._print(f"  left out {escape(repr(left_out.path))}: {escape(left_out.reason)}")
        if len(told.left_out) > 20:
            self._print(f"  and {len(told.left_out) - 20} more left out")
        self._done, self._to_go, self._time = told.done, told.to_go, told.device_time
        self._print(progress_text(told.done, told.to_go, told.device_time))
        self._bars.reset(self._trials, visible=True)
        self._show_progress()

    def _stage_started(self, told: StageStarted) -> None:
        stage = told.schedule.stages[told.position]
        text = f"stage {told.position + 1}/{len(told.schedule.stages)}"
        self._stages[told.number] = text
        if stage.train is Train.PROBE:
            self._probes[told.number] = stage.image_size
        else:
            self._probes.pop(told.number, None)
        self._bars.update(self._work, visible=False)
        if told.number not in self._tasks:
            self._tasks[told.number] = self._bars.add_task("", note="")
        self._bars.update(
            self._tasks[told.number],
            description=f"trial {told.number} seed {told.seed}",
            completed=told.epochs_before,
            total=told.schedule.epochs,
            note=f"{text}  {_stage_text(stage)}",
        )

    def _epoch_finished(self, told: EpochFinished) -> None:
        epoch, self._time = told.metrics, told.device_time
        self._show_progress()
        if size := self._probes.pop(told.number, None):
            self._probed(size, epoch)
        note = (
            f"{self._stages.get(told.number, '')}  epoch {epoch.epoch}  lr {epoch.lrs[-1]:.2g}  "
            f"{epoch.images_per_second:.0f} images/s  "
            f"{score_text(self._metric, epoch.score(self._metric))}"
        )
        if told.number in self._tasks:
            self._bars.update(self._tasks[told.number], completed=told.step, note=note)

    def _probed(self, size: int, epoch: EpochMetrics) -> None:
        """Show at once what a plain classifier makes of the photos, before anything is tuned."""
        metric, text = self._metric, probe_text(size, epoch, self._metric)
        if text in self._probed_texts:  # by a trial that shares the stage
            return
        self._probed_texts.add(text)
        score = epoch.score(metric)
        best = self._to_beat is None or metric.rank(score, 0.0) < metric.rank(self._to_beat, 0.0)
        self._to_beat = score if best else self._to_beat
        self._print(text + (": the number to beat" if best else ""))

    def _trial_finished(self, told: TrialFinished) -> None:
        trial, metric = told.trial, self._metric
        if trial.state is State.COMPLETE and trial.score is not None and trial.loss is not None:
            best = trial.score if self._best is None else self._best
            self._best = min((best, trial.score), key=lambda score: metric.rank(score, 0.0))
        self._done, self._to_go, self._outlook = self._done + 1, told.to_go, told.outlook
        self._show_progress()
        if task := self._tasks.pop(trial.number, None):
            self._bars.remove_task(task)
        spent = f" ({count_text(self._done, 'trial')}, {self._time})" if self._time.budget else ""
        self._print(trial_text(told, metric) + spent)

    def _show_progress(self) -> None:
        """Show how far the search is: by trials, or by time where no number of them ends it."""
        done, to_go, time = self._done, self._to_go, self._time
        note = f"best {score_text(self._metric, self._best)}"
        if self._outlook is not None:
            note += f", {outlook_text(self._outlook, self._metric)}"
        if to_go is None:
            text = f"{done}, {time}"
            self._bars.update(
                self._trials, completed=time.seconds, total=time.budget, done=text, note=note
            )
        else:
            note = f"{time}  {note}" if time.budget else note
            self._bars.update(self._trials, completed=done, total=done + to_go, note=note)

    def _print(self, line: str) -> None:
        self._bars.console.print(line, highlight=False, soft_wrap=True)


def probe_text(size: int, epoch: EpochMetrics, metric: Metric) -> str:
    """Say what a probe makes of the validation photos."""
    found, score = epoch.evaluation.confusion, score_text(metric, epoch.score(metric))
    photos = int(found.sum())
    made = f"{count_text(photos - int(found.trace()), 'error')} of {photos:,}"
    shown = f"{score} %" if metric is Metric.ACCURACY else f"{metric} {score}"
    return f"probe at {size} px: [bold]{made}[/] ({shown})"


def outlook_text(outlook: Outlook, metric: Metric) -> str:
    """Say what is expected of the best so far, and what as much compute again would bring."""
    score, low, high = (score_text(metric, x) for x in (outlook.score, outlook.low, outlook.high))
    sign = "+" if metric.higher_is_better else "-"
    gain = f"{sign}{score_text(metric, outlook.gain)}"
    return f"expected {score} ({low} to {high}); as much compute again: {gain}"


def trial_text(told: TrialFinished, metric: Metric) -> str:
    """Return the article's line: epochs, score, hyperparameters, file."""
    trial = told.trial
    head = f"trial {trial.number} seed {trial.seed}: "
    if trial.state is State.FAILED:
        return f"{head}[red]failed[/], {escape(trial.failure or '')}"
    score = score_text(metric, trial.score)
    what = "" if trial.state is State.COMPLETE else f"{trial.state}, "
    text = f"{head}{what}{told.epochs} epochs, {metric} [bold]{score}[/], {trial.seconds:.1f} s, "
    text += escape(schedule_text(trial.schedule))
    return f"{text}, saved as {escape(told.file)}" if told.file else text


def _stage_text(stage: Stage) -> str:
    if stage.train is Train.PROBE:
        return f"probe at {stage.image_size} px"
    return f"{stage.image_size} px  lr {stage.lrs[-1]:g}"
