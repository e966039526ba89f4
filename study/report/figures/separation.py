"""How well a class is told from the others, at any threshold: ROC, and precision by recall."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.report.contents import Contents
from study.report.figures.probabilities import Answers
from study.report.figures.style import (
    GREY,
    PALETTE,
    Panel,
    figure,
    number,
    numbers,
    share_axis,
    shown,
)
from study.statistics.calibration import Labels

Floats = NDArray[np.float64]

WEAKEST = 12
POINTS = 150
_GRID = np.linspace(0, 1, 101)
_DASHES = ("solid", "dash")


@dataclass(frozen=True, eq=False)
class Sweep:
    """What one class's threshold gives, from the strictest on: three arrays of one length.

    `area` is that under the ROC curve, `precise` the average precision.
    """

    false: Floats
    caught: Floats
    precision: Floats
    area: float
    precise: float


def sweep(positive: NDArray[np.bool_], scores: Floats) -> Sweep:
    """Count, at each threshold, what is caught rightly and wrongly; photos of both kinds needed."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(positive[order])[ends].astype(float)
    named = ends + 1.0
    false = (named - hits) / max(int((~positive).sum()), 1)
    caught, precision = hits / max(int(positive.sum()), 1), hits / named
    # Each point begins a step: nothing is named at a threshold that no photo reaches.
    false, caught = np.append(0.0, false), np.append(0.0, caught)
    precision = np.append(precision[0], precision)
    area = float((np.diff(false) * (caught[1:] + caught[:-1]) / 2).sum())
    precise = float((np.diff(caught) * precision[1:]).sum())
    return Sweep(false, caught, precision, area, precise)


def separation(contents: Contents, answers: Answers) -> tuple[Panel, Panel]:
    """Draw ROC and precision by recall: of two classes one curve, of more one against all others.

    Shown are the `WEAKEST` by area and the mean over all classes. `data` are {class's index: area
    or average precision} of all classes that can be told.
    """
    sweeps = _sweeps(answers.labels, answers.plain)
    if not sweeps:
        why = "There are no validation photos of two classes to be told apart."
        return Panel(None, why), Panel(None, why)
    weakest = sorted(sweeps, key=lambda label: sweeps[label].area)[:WEAKEST]
    names = {label: shown(contents.classes[label], 30) for label in weakest}
    roc = [_diagonal()]
    precise = []
    if len(sweeps) > 1:
        roc.append(_mean("mean of all classes", _GRID, _mean_roc(list(sweeps.values()))))
        precise.append(_mean("mean of all classes", _GRID, _mean_precision(list(sweeps.values()))))
    for place, label in enumerate(weakest):
        one = sweeps[label]
        line = {
            "color": PALETTE[place % len(PALETTE)],
            "dash": _DASHES[place // len(PALETTE) % 2],
            "width": 1.5,
        }
        roc.append(_line(f"{names[label]} · {one.area:.4f}", one.false, one.caught, line))
        name = f"{names[label]} · {one.precise:.4f}"
        precise.append(_line(name, one.caught, one.precision, line))
    said = _said(contents, len(sweeps), len(weakest))
    return (
        Panel(
            figure(
                roc,
                360 + 14 * len(roc),
                xaxis=share_axis("false alarms"),
                yaxis=share_axis("caught (recall)"),
                showlegend=True,
            ),
            f"{said} with the area under each curve.",
            {str(label): number(each.area) for label, each in sweeps.items()},
        ),
        Panel(
            figure(
                precise,
                360 + 14 * len(precise),
                xaxis=share_axis("caught (recall)"),
                yaxis=share_axis("right, where named (precision)"),
                showlegend=True,
            ),
            f"{said} with each one's average precision.",
            {str(label): number(each.precise) for label, each in sweeps.items()},
        ),
    )


def _said(contents: Contents, told: int, drawn: int) -> str:
    if len(contents.classes) == 2:
        # A name is no markup here: the page escapes what is said.
        return f"How {contents.classes[1]} is told from {contents.classes[0]},"
    some = f"the {drawn} weakest of {told} classes" if drawn < told else f"all {told} classes"
    return f"Each class against all others, {some},"


def _sweeps(labels: Labels, table: Floats) -> dict[int, Sweep]:
    chosen = range(1, 2) if table.shape[1] == 2 else range(table.shape[1])
    kinds = {label: labels == label for label in chosen}
    return {
        label: sweep(mine, table[:, label])
        for label, mine in kinds.items()
        if mine.any() and not mine.all()
    }


def _mean_roc(sweeps: list[Sweep]) -> Floats:
    curves = [np.interp(_GRID, each.false, each.caught) for each in sweeps]
    mean: Floats = np.mean(curves, axis=0)
    return mean


def _mean_precision(sweeps: list[Sweep]) -> Floats:
    """Average the precision at each recall: the best that any threshold with that recall has."""
    curves = []
    for each in sweeps:
        best = np.maximum.accumulate(each.precision[::-1])[::-1]
        places = np.minimum(np.searchsorted(each.caught, _GRID), len(best) - 1)
        curves.append(best[places])
    mean: Floats = np.mean(curves, axis=0)
    return mean


def _line(name: str, x: Floats, y: Floats, line: dict[str, Any]) -> dict[str, Any]:
    some = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).round().astype(int))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": numbers(x[some].tolist()),
        "y": numbers(y[some].tolist()),
        "line": line,
        "hovertemplate": "%{x:.1%}, %{y:.1%}<extra>%{fullData.name}</extra>",
    }


def _mean(name: str, x: Floats, y: Floats) -> dict[str, Any]:
    return _line(name, x, y, {"color": GREY, "width": 3})


def _diagonal() -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "by chance",
        "x": [0, 1],
        "y": [0, 1],
        "line": {"color": GREY, "dash": "dot", "width": 1},
        "hoverinfo": "skip",
    }
