"""Curves: the results of every trial by epoch, and its details on request."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from storage.records import EpochRecord, StageRun, Trial
from study.formatting import count_text
from study.report.contents import Contents
from study.report.figures.style import (
    FAINT,
    PALETTE,
    Drawing,
    Panel,
    axis,
    count_axis,
    figure,
    number,
    numbers,
    score_axis,
    score_format,
)
from study.stage_text import schedule_text
from trainers.schedule import Stage

NAMED = 20
"""How many of the best trials have a named line."""

BEHIND, BEHIND_POINTS = 500, 30
"""How many of the others are drawn behind them, and how many epochs of each.

Plotly draws every line as an SVG path.
"""

DETAIL_POINTS, LONGEST = 100_000, 200
"""How many epochs are listed in the details: of all stage runs, and of one."""

_DASHES = ("solid", "dash", "dot")


def curves(contents: Contents) -> Panel:
    """Draw validation loss and score by epoch: the best trials named, all others behind them.

    A point's `customdata` is its trial's number. `data` are the details of `details_of`.
    """
    trials = [trial for trial in contents.ranked if contents.epochs_of(trial.number)]
    if all(len(contents.epochs_of(trial.number)) < 2 for trial in trials):
        why = "From the second epoch of a trial on, curves are drawn here."
        return Panel(None, why, details_of(contents))
    metric = contents.study.metric
    behind = _evenly(trials[NAMED:], BEHIND)
    traces = [
        trace
        for panel in ("y", "y2")
        for trace in (
            *_behind(behind, contents, panel),
            *_named(trials[:NAMED], contents, panel),
        )
    ]
    last = max(len(contents.epochs_of(trial.number)) for trial in trials)
    losses = [epoch.valid_loss for trial in trials for epoch in contents.epochs_of(trial.number)]
    drawn = figure(
        traces,
        680,
        xaxis=count_axis("", last, anchor="y", matches="x2", showticklabels=False),
        xaxis2=count_axis("epoch", last, anchor="y2"),
        yaxis=axis("validation loss", domain=[0.53, 1], **_bounded(losses)),
        yaxis2=score_axis(metric, domain=[0, 0.47], anchor="x2"),
    )
    said = count_text(len(trials), "trial")
    if behind:
        others = len(trials) - NAMED
        some = f"{len(behind)} of the others" if len(behind) < others else "the others"
        said += f", the best {NAMED} in colour, {some} in grey"
    return Panel(drawn, said + ".", details_of(contents))


def details_of(contents: Contents) -> dict[str, Any]:
    """Return the details of each trial's training, each stage run once.

    `trials`: a list, in number order, of {n (the number), seed, role, state, score, score_text,
    loss, schedule (in words), runs (ids in training order), failure}. `runs`: by id {stage (from
    1), trains ("probe" or "network"), image_size, batch_size, epochs (planned), crop, dropout,
    shared (by so many trials), state, seconds, epoch, cycle, train_loss, valid_loss, accuracy,
    score, lr (of the head, at the epoch's first step)}, the last seven columns of equal length.
    `epoch` counts from 1 in the stage: where the plan has more epochs, or the columns are thinned
    out, it says which there are. A cycle restarts at the first epoch that has a higher `cycle`.
    `metric` is what `score` is; `higher_is_better` says which end of it wins, `share` whether it
    reads as per cent.
    """
    stages = _stages(contents)
    metric = contents.study.metric
    most = max(8, min(LONGEST, DETAIL_POINTS // max(len(contents.runs), 1)))
    return {
        "metric": metric.label,
        "higher_is_better": metric.higher_is_better,
        "share": metric.is_share,
        "trials": [_trial(trial, contents) for trial in contents.trials],
        "runs": {
            str(run): _run(contents.runs[run], stage, shared, contents, most)
            for run, (stage, shared) in stages.items()
        },
    }


def _stages(contents: Contents) -> dict[int, tuple[Stage, int]]:
    """Return for each stage run what it trains, and how many trials share it."""
    found: dict[int, tuple[Stage, int]] = {}
    for trial in contents.trials:
        stages = trial.schedule.stages
        for run, stage in zip(contents.links.get(trial.number, ()), stages, strict=False):
            if run in contents.runs:
                found[run] = (stage, found[run][1] + 1 if run in found else 1)
    return found


def _trial(trial: Trial, contents: Contents) -> dict[str, Any]:
    return {
        "n": trial.number,
        "seed": trial.seed,
        "role": trial.role.value,
        "state": contents.statuses.of_trial(trial).value,
        "score": number(trial.score, 6),
        "score_text": contents.text(trial.score),
        "loss": number(trial.loss),
        "schedule": schedule_text(trial.schedule),
        "runs": [run for run in contents.links.get(trial.number, ()) if run in contents.runs],
        "failure": trial.failure,
    }


def _run(run: StageRun, stage: Stage, shared: int, contents: Contents, most: int) -> dict[str, Any]:
    metric = contents.study.metric
    epochs = list(_thinned(contents.epochs.get(run.id, ()), most))
    rates = (stage.dropout,) if isinstance(stage.dropout, float) else stage.dropout
    return {
        "stage": run.position + 1,
        "trains": stage.train.value,
        "image_size": stage.image_size,
        "batch_size": stage.batch_size,
        "epochs": stage.epochs,
        "crop": stage.crop.value,
        "dropout": "/".join(f"{rate:g}" for rate in rates),
        "shared": shared,
        "state": contents.statuses.of_stage_run(run).value,
        "seconds": number(run.seconds),
        "epoch": [epoch.epoch for epoch in epochs],
        "cycle": [epoch.cycle for epoch in epochs],
        "train_loss": numbers(epoch.train_loss for epoch in epochs),
        "valid_loss": numbers(epoch.valid_loss for epoch in epochs),
        "accuracy": numbers(epoch.accuracy for epoch in epochs),
        "score": numbers(epoch.score(metric) for epoch in epochs),
        "lr": numbers(epoch.lrs[-1] if epoch.lrs else None for epoch in epochs),
    }


def _thinned(epochs: Sequence[EpochRecord], most: int) -> Iterator[EpochRecord]:
    """Yield at most about `most` of the epochs, evenly, and the first of each cycle."""
    step = math.ceil(len(epochs) / most)
    cycle = 0
    for place, epoch in enumerate(epochs):
        restarts, cycle = epoch.cycle != cycle, epoch.cycle
        if restarts or place % step == 0 or place == len(epochs) - 1:
            yield epoch


def _named(trials: Sequence[Trial], contents: Contents, panel: str) -> Iterator[dict[str, Any]]:
    for place, trial in enumerate(trials):
        epochs = contents.epochs_of(trial.number)
        x, y = _points(epochs, contents, panel, LONGEST)
        score = contents.text(trial.score)
        yield {
            "type": "scatter",
            "mode": "lines+markers" if len(x) == 1 else "lines",
            "name": f"trial {trial.number} · {score}",
            "legendgroup": str(trial.number),
            "showlegend": panel == "y",
            "x": x,
            "y": y,
            "customdata": [trial.number] * len(x),
            "xaxis": panel.replace("y", "x"),
            "yaxis": panel,
            "line": {
                "color": PALETTE[place % len(PALETTE)],
                "dash": _DASHES[place // len(PALETTE) % len(_DASHES)],
                "width": 2.5 if place == 0 else 1.3,
            },
            "hovertemplate": "trial %{customdata}, epoch %{x}: %{y:" + _form(contents, panel) + "}"
            "<extra></extra>",
        }


def _evenly(trials: Sequence[Trial], most: int) -> list[Trial]:
    step = max(len(trials) / most, 1)
    return [trials[int(place * step)] for place in range(min(len(trials), most))]


def _behind(trials: Sequence[Trial], contents: Contents, panel: str) -> Iterator[dict[str, Any]]:
    """Draw many trials as one line with gaps: one trace each would make the page slow."""
    x: list[float | None] = []
    y: list[float | None] = []
    picked: list[int | None] = []
    for trial in trials:
        some_x, some_y = _points(contents.epochs_of(trial.number), contents, panel, BEHIND_POINTS)
        x += [*some_x, None]
        y += [*some_y, None]
        picked += [trial.number] * (len(some_x) + 1)
    if trials:
        yield {
            "type": "scatter",
            "mode": "lines",
            "name": "others",
            "legendgroup": "others",
            "showlegend": panel == "y",
            "x": x,
            "y": y,
            "customdata": picked,
            "xaxis": panel.replace("y", "x"),
            "yaxis": panel,
            "line": {"color": FAINT, "width": 1},
            "opacity": max(0.4, 1 - len(trials) / BEHIND),
            "hovertemplate": "trial %{customdata}, epoch %{x}: %{y:" + _form(contents, panel) + "}"
            "<extra></extra>",
        }


def _points(
    epochs: Sequence[EpochRecord], contents: Contents, panel: str, most: int
) -> tuple[list[float | None], list[float | None]]:
    """Return epochs, counted over all stages, and their loss or score."""
    step = math.ceil(len(epochs) / most)
    kept = [place for place in range(len(epochs)) if place % step == 0 or place == len(epochs) - 1]
    metric = contents.study.metric
    values = (
        epochs[place].valid_loss if panel == "y" else epochs[place].score(metric) for place in kept
    )
    return [place + 1 for place in kept], numbers(values)


def _form(contents: Contents, panel: str) -> str:
    return ".4f" if panel == "y" else score_format(contents)


def _bounded(losses: Sequence[float]) -> dict[str, Any]:
    """Limit an axis so that diverged trials do not flatten the others; a double click shows all."""
    finite = sorted(loss for loss in losses if math.isfinite(loss))
    if not finite:
        return {}
    usual = finite[int(0.95 * (len(finite) - 1))]
    return {} if finite[-1] <= 3 * usual else {"range": [0.9 * finite[0], 1.3 * usual]}


FIGURES = (Drawing("curves", "curves", "All trials", curves),)
