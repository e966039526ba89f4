"""ROC and precision-recall curves of each class against the others."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.report.contents import Contents
from study.report.figures.probabilities import Answers, of_answers
from study.report.figures.style import (
    GREY,
    PALETTE,
    Drawing,
    Panel,
    figure,
    number,
    numbers,
    share_axis,
    shown,
)
from study.statistics.folds import Labels

Floats = NDArray[np.float64]

WEAKEST = 12
POINTS = 150
_GRID = np.linspace(0, 1, 101)
_DASHES = ("solid", "dash")


@dataclass(frozen=True, eq=False)
class Sweep:
    """One class's rates at each threshold, from the strictest on: three arrays of one length.

    `false` are false positive rates, `recall` recalls. `area` is that under the ROC curve,
    `precise` the average precision.
    """

    false: Floats
    recall: Floats
    precision: Floats
    area: float
    precise: float


def sweep(positive: NDArray[np.bool_], scores: Floats) -> Sweep:
    """Count true and false positives at each threshold; photos of both kinds are needed."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(positive[order])[ends].astype(float)
    named = ends + 1.0
    false = (named - hits) / max(int((~positive).sum()), 1)
    recall, precision = hits / max(int(positive.sum()), 1), hits / named
    # Each point begins a step, from a threshold that no photo reaches.
    false, recall = np.append(0.0, false), np.append(0.0, recall)
    precision = np.append(precision[0], precision)
    area = float((np.diff(false) * (recall[1:] + recall[:-1]) / 2).sum())
    precise = float((np.diff(recall) * precision[1:]).sum())
    return Sweep(false, recall, precision, area, precise)


def roc(contents: Contents, answers: Answers) -> Panel:
    """Draw ROC curves: of two classes one, of more one for each class against all others.

    Shown are the `WEAKEST` by area and the mean over all classes. `data` are {class's index: area}
    of all classes that have an area.
    """
    return _curves(contents, answers, Curve.ROC)


def precision_recall(contents: Contents, answers: Answers) -> Panel:
    """Draw precision by recall, of the same classes as `roc`; `data` are average precisions."""
    return _curves(contents, answers, Curve.PRECISION)


class Curve(Enum):
    """A kind of curve over all thresholds: its axes and its summary value."""

    ROC = ("false positive rate", "recall", "the area under the curve")
    PRECISION = ("recall", "precision", "the average precision")

    def of(self, one: Sweep) -> tuple[Floats, Floats, float]:
        """Return a class's x and y, and their summary value."""
        if self is Curve.ROC:
            return one.false, one.recall, one.area
        return one.recall, one.precision, one.precise

    def mean(self, sweeps: list[Sweep]) -> Floats:
        """Return the mean of y over `_GRID`."""
        return _mean_roc(sweeps) if self is Curve.ROC else _mean_precision(sweeps)


def _curves(contents: Contents, answers: Answers, kind: Curve) -> Panel:
    sweeps = _sweeps(answers.labels, answers.plain)
    if not sweeps:
        return Panel(None, "This needs validation photos of two classes.")
    weakest = sorted(sweeps, key=lambda label: sweeps[label].area)[:WEAKEST]
    traces = [_diagonal()] if kind is Curve.ROC else []
    if len(sweeps) > 1:
        mean = kind.mean(list(sweeps.values()))
        traces.append(_line("mean of all classes", _GRID, mean, {"color": GREY, "width": 3}))
    for place, label in enumerate(weakest):
        x, y, sum_of = kind.of(sweeps[label])
        line = {
            "color": PALETTE[place % len(PALETTE)],
            "dash": _DASHES[place // len(PALETTE) % 2],
            "width": 1.5,
        }
        traces.append(_line(f"{shown(contents.classes[label], 30)} · {sum_of:.4f}", x, y, line))
    x_title, y_title, what = kind.value
    drawn = figure(
        traces,
        360 + 14 * len(traces),
        xaxis=share_axis(x_title),
        yaxis=share_axis(y_title),
        showlegend=True,
    )
    data = {str(label): number(kind.of(each)[2]) for label, each in sweeps.items()}
    return Panel(drawn, f"{_said(contents, len(sweeps), len(weakest))} with {what}.", data)


def _said(contents: Contents, told: int, drawn: int) -> str:
    if len(contents.classes) == 2:
        # Names are not escaped here: the page escapes this text.
        return f"{contents.classes[1]} against {contents.classes[0]},"
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
    curves = [np.interp(_GRID, each.false, each.recall) for each in sweeps]
    mean: Floats = np.mean(curves, axis=0)
    return mean


def _mean_precision(sweeps: list[Sweep]) -> Floats:
    """Average the precision at each recall: the best of all thresholds with that recall."""
    curves = []
    for each in sweeps:
        best = np.maximum.accumulate(each.precision[::-1])[::-1]
        places = np.minimum(np.searchsorted(each.recall, _GRID), len(best) - 1)
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


def _diagonal() -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "chance",
        "x": [0, 1],
        "y": [0, 1],
        "line": {"color": GREY, "dash": "dot", "width": 1},
        "hoverinfo": "skip",
    }


FIGURES = (
    Drawing("roc", "confidence", "ROC", of_answers(roc), place=2),
    Drawing(
        "precision_recall",
        "confidence",
        "Precision and recall",
        of_answers(precision_recall),
        place=3,
    ),
)
