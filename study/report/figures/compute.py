"""Compute time by stage, and the time saved by sharing stage runs."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from study.formatting import time_text
from study.report.contents import Contents
from study.report.figures.style import (
    PALETTE,
    Drawing,
    Panel,
    axis,
    figure,
    number,
    time_unit,
)

Group = tuple[int, int]
"""A stage, counted from 1, and an image size."""


def compute(contents: Contents) -> Panel:
    """Draw the time that stage runs took, and the time that sharing them saved, by image size.

    A stage run that n trials use took its time once, and saved it n - 1 times. `data` are {stage,
    image_size, spent, saved}, in seconds.
    """
    spent, saved = _seconds(contents)
    groups = sorted(spent)
    total, less = sum(spent.values()), sum(saved.values())
    if not total:
        return Panel(None, "Once a stage has been trained, the time it took is drawn here.")
    unit, each = time_unit(max(spent[group] + saved[group] for group in groups))
    drawn = figure(
        [_bars("spent", spent, each, PALETTE[0]), _bars("saved", saved, each, PALETTE[1])],
        160 + 34 * len(groups),
        barmode="stack",
        uniformtext={"minsize": 9, "mode": "hide"},
        xaxis=axis(unit),
        yaxis=axis(
            tickvals=list(range(len(groups))),
            ticktext=[f"stage {stage}, {size} px" for stage, size in groups],
            autorange="reversed",
            showgrid=False,
        ),
    )
    said = f"{time_text(total)} spent; trials share no stage yet, so nothing is saved."
    if less:
        said = (
            f"{time_text(total)} spent; without shared stages it would have been "
            f"{time_text(total + less)}: {100 * less / (total + less):.0f} % saved."
        )
    data = [
        {"stage": stage, "image_size": size, "spent": number(spent[stage, size])}
        | {"saved": number(saved[stage, size])}
        for stage, size in groups
    ]
    return Panel(drawn, said, data)


def _seconds(contents: Contents) -> tuple[dict[Group, float], dict[Group, float]]:
    used = Counter(run for runs in contents.links.values() for run in runs)
    spent: dict[Group, float] = defaultdict(float)
    saved: dict[Group, float] = defaultdict(float)
    for run in contents.runs.values():
        group = (run.position + 1, run.image_size)
        # Of a running one only the epochs have times.
        known = run.seconds or sum(epoch.seconds for epoch in contents.epochs.get(run.id, ()))
        seconds = number(known) or 0.0
        spent[group] += seconds
        saved[group] += seconds * max(used[run.id] - 1, 0)
    return spent, saved


def _bars(name: str, seconds: Mapping[Group, float], unit: float, colour: str) -> dict[str, Any]:
    groups = sorted(seconds)
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": list(range(len(groups))),
        "x": [number(seconds[group] / unit) for group in groups],
        "text": [time_text(seconds[group]) for group in groups],
        "textposition": "inside",
        "textangle": 0,
        "marker": {"color": colour},
        "hovertemplate": name + " %{text}<extra></extra>",
    }


FIGURES = (Drawing("compute", "compute", "Spent and saved", compute, place=1),)
