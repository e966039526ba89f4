"""Output of `ls`, `show`, `doctor`, `gc` and `plan`."""

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from study.formatting import count_text, score_phrase, score_text, time_text
from study.history.doctor import Finding, Level
from study.history.trials import StageView, TrialLine, TrialList, TrialView
from study.sanitizing import printable, visible
from study.searching.statuses import Status
from study.selection.leaks import Judged
from study.stage_text import head_text
from study.views.chart import chart

if TYPE_CHECKING:  # not needed by `best` and `ls`
    from study.history.caches import CachedPhotos
    from study.history.cleanup import Cleaned
    from study.searching.plan import Plan

STATUS_STYLE = {
    Status.FAILED: "red",
    Status.PRUNED: "yellow",
    Status.RUNNING: "cyan",
    Status.WAITING: "dim",
}
_LEVEL_MARK = {Level.GOOD: "[green]ok[/]", Level.NOTICE: "[yellow]!![/]", Level.BAD: "[red]XX[/]"}
MANY_TRIALS = 500
ROOMY = 110
"""The terminal width for all columns; narrower ones show the most important ones."""


def print_trials(console: Console, listed: TrialList) -> None:
    """Print one line per trial; many of them without a table, which takes a millisecond a line."""
    names = ["trial", "seed", "role", "state", str(listed.metric), "loss", "epochs", "time"]
    rows = [_trial_cells(listed, line) for line in listed.trials]
    if len(rows) > MANY_TRIALS:
        widths = [max(map(len, column)) for column in zip(names, *rows, strict=False)]
        lines = (
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=False))
            for row in [names, *rows]
        )
        schedules = ["schedule", *(line.failure or line.schedule for line in listed.trials)]
        for text, schedule in zip(lines, schedules, strict=True):
            console.file.write(printable(visible(f"{text}  {schedule}")) + "\n")
        print_leaks(console, listed.judged)
        return
    left_out = ("role", "loss") if console.width < ROOMY else ()
    table = Table(title=f"study {escape(listed.study)}", title_justify="left", box=None)
    for name in (name for name in names if name not in left_out):
        table.add_column(name, justify="left" if name in ("role", "state") else "right")
    table.add_column("schedule", overflow="fold")
    for line, cells in zip(listed.trials, rows, strict=True):
        style = STATUS_STYLE.get(line.state)
        cells[3] = f"[{style}]{line.state}[/]" if style else line.state
        shown = (cell for name, cell in zip(names, cells, strict=True) if name not in left_out)
        table.add_row(*shown, _in_a_line(line))
    console.print(table)
    print_leaks(console, listed.judged)


def _in_a_line(line: TrialLine) -> Text | str:
    """Return why a trial failed, else as much of its schedule as fits: the rest is in `show`."""
    if line.failure:
        return escape(line.failure)
    return Text(line.schedule, no_wrap=True, overflow="ellipsis")


def print_leaks(console: Console, judged: Judged) -> None:
    """Print why the scores are too high, if they are."""
    if judged.leaks:
        console.print(f"[bold red]{judged.leaks}[/]", highlight=False)


def _trial_cells(listed: TrialList, line: TrialLine) -> list[str]:
    return [
        str(line.number),
        str(line.seed),
        line.role,
        line.state,
        score_text(listed.metric, line.score, listed.judged.photos),
        "-" if line.loss is None else f"{line.loss:.4f}",
        str(line.epochs),
        time_text(line.seconds) if line.seconds else "-",  # before it ends
    ]


def print_trial(console: Console, view: TrialView) -> None:
    """Print one trial: its outcome, its curves, its stages and their files."""
    line = view.line
    console.print(
        f"[bold]trial {line.number}[/] of study {escape(view.study)}: {line.state}, {line.role}, "
        f"seed {line.seed}, {view.metric} "
        f"{score_phrase(view.metric, line.score, view.judged.photos)}, {time_text(line.seconds)}",
        highlight=False,
    )
    print_leaks(console, view.judged)
    if line.failure:
        console.print(f"[red]{escape(line.failure)}[/]")
    head = head_text(view.hidden, view.levels)
    console.print(f"{view.backbone}, {head}, schedule {line.schedule_digest[:12]}")
    epochs = [epoch for stage in view.stages for epoch in stage.epochs]
    for name, values in (
        ("training loss", [epoch.train_loss for epoch in epochs]),
        ("validation loss", [epoch.valid_loss for epoch in epochs]),
        ("accuracy in %", [100 * epoch.accuracy for epoch in epochs]),
    ):
        if len(values) == 1:
            console.print(f"[bold]{name}[/] {values[0]:.4g}", highlight=False)
        elif values:
            console.print(f"[bold]{name}[/] over {len(values)} epochs")
            for row in chart(values):
                console.print(row, highlight=False)
    for stage in view.stages:
        _print_stage(console, view, stage)


def print_doctor(console: Console, findings: Sequence[Finding]) -> None:
    """Print the findings, and what to do about them."""
    for finding in findings:
        text = f"{_LEVEL_MARK[finding.level]} {escape(finding.what)}: {escape(finding.found)}"
        console.print(text, highlight=False)
        if finding.advice:
            console.print(f"   -> {escape(finding.advice)}", highlight=False)


def print_cached(console: Console, files: "Sequence[CachedPhotos]", *, deleted: bool) -> None:
    """Print the files of decoded photos, the folders of fetched ones, and their sizes."""
    for file in files:
        text = f"{file.size / 1e6:10.1f} MB  {file.path}"
        console.print(escape(text), soft_wrap=True, highlight=False)
        if file.trouble:
            text = f"   -> not whole: {escape(file.trouble)}; the next search decodes them again"
            console.print(text, soft_wrap=True, highlight=False)
    size = f"{sum(file.size for file in files) / 1e6:.1f} MB of cached photos"
    if not files:
        console.print("no photos are cached")
    else:
        console.print(f"{size} deleted" if deleted else f"{size}; --delete deletes them")


def print_spare(console: Console, cleaned: "Cleaned") -> None:
    """Print the weights files that can be deleted, why, and their total size."""
    for file in cleaned.files:
        text = f"{file.size / 1e6:10.1f} MB  {file.path}: {file.reason}"
        console.print(escape(text), soft_wrap=True, highlight=False)
    size, kept = f"{cleaned.size / 1e6:.1f} MB", f"{cleaned.kept_size / 1e6:.1f} MB"
    gone = f"{count_text(len(cleaned.files), 'weights file')}, {size}"
    left = f"{cleaned.kept} stay, {kept}"
    if cleaned.deleted:
        console.print(f"{gone}, deleted; {left}", highlight=False)
    else:
        console.print(f"{gone}, can go; {left}; --delete deletes them", highlight=False)
    if cleaned.predictions:
        size = f"{cleaned.predictions_size / 1e6:.1f} MB"
        done = "shortened" if cleaned.deleted else "can be shortened"
        text = f"predictions of {cleaned.predictions} epochs in the database, {size}, {done}"
        console.print(text, highlight=False)


def print_plan(console: Console, found: "Plan") -> None:
    """Print the estimated cost of a search."""
    table = Table(title=f"study {escape(found.study)}", title_justify="left", box=None)
    for name in ("stage", "s / epoch", "", "epochs", "time"):
        table.add_column(name, justify="left" if name in ("", "stage") else "right")
    for line in found.stages:
        known = "as trained" if line.measured else "timed now"
        seconds = f"{line.seconds_per_epoch:.1f}"
        table.add_row(line.stage, seconds, known, str(line.epochs), time_text(line.seconds))
    console.print(table)
    slots = f" on {found.slots} slots" if found.slots > 1 else ""
    trials = count_text(found.trials, "trial")
    if found.budget is not None:
        what = f"{time_text(found.budget)} of device time buy about {trials}"
    else:
        what = f"{trials} in all, without repeats"
    about = "at most about" if found.at_most else "about"
    console.print(
        f"{what}: {about} {time_text(found.wall_seconds)}{slots}, "
        f"{time_text(found.device_seconds)} of device time; "
        f"{time_text(found.alone_seconds)} if every trial were trained alone to its end",
        highlight=False,
    )
    if found.crowds:
        console.print(_crowd_text(found), highlight=False)
    if found.at_most:
        console.print("less where trials are beaten after their first folds", highlight=False)


def _crowd_text(found: "Plan") -> str:
    """Say which number of workers pays."""
    best = max(found.crowds, key=lambda crowd: crowd.times)
    device = "the GPU" if found.device == "auto" else found.device
    if best.times > 1:
        said = f"{best.workers} workers on {device} train {best.times:.1f} times as fast as 1"
        return f"{said}: --workers-per-device {best.workers}"
    return f"1 worker on {device} is best: {best.workers} train {best.times:.1f} times as fast"


def _print_stage(console: Console, view: TrialView, stage: StageView) -> None:
    shared = (
        "" if stage.trained_by == view.line.number else f", trained by trial {stage.trained_by}"
    )
    if stage.taken_from is not None:
        shared += f", trained by study {escape(stage.taken_from)}"
    console.print(f"[bold]stage {stage.position + 1}[/]: {stage.state}{shared}")
    console.print(f"  {escape(stage.text)}", highlight=False)
    _print_speed(console, stage)
    losses = [e.calibrated_loss for e in stage.epochs if e.calibrated_loss is not None]
    if losses:
        console.print(
            f"  lowest validation loss after calibration {min(losses):.4f}", highlight=False
        )
    for file in stage.files:
        console.print(
            f"  {file.kind}: {escape(view.folder)}/{escape(file.path)} "
            f"({file.size / 1e6:.1f} MB, sha256 {file.sha256[:12]})",
            soft_wrap=True,
            highlight=False,
        )


def _print_speed(console: Console, stage: StageView) -> None:
    if not stage.epochs:
        return
    text = f"{median(epoch.images_per_second for epoch in stage.epochs):.0f} images/s"
    waits = [epoch.data_wait for epoch in stage.epochs if epoch.data_wait is not None]
    if waits:
        text += f", {100 * median(waits):.1f} % of the time waiting for data"
    parts = [epoch.micro_batch for epoch in stage.epochs if epoch.micro_batch]
    if parts:
        text += f"; memory was short: batches were split into parts of {min(parts)}"
    console.print(f"  {text}", highlight=False)
