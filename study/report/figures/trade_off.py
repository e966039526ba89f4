"""The cost of other thresholds, or of rejecting more photos: for the page's slider."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from study.report.contents import Contents
from study.report.figures.probabilities import Answers, of_answers
from study.report.figures.style import (
    GREY,
    PALETTE,
    Drawing,
    Figure,
    Panel,
    axis,
    figure,
    number,
    numbers,
    shown,
)
from study.selection.goals import Goal
from study.selection.tradeoff import POINTS, TradeOff, by_threshold
from trainers.decision import Decision

Point = dict[str, Any]

FEW_CLASSES = 50
"""Maximum number of classes for which the page shows all prices."""


def trade_off(contents: Contents, answers: Answers) -> Panel:
    """Draw the result of each setting of the decision rule, on cross-fitted probabilities.

    By the prices of the study, or at 1 for each mistake. The figure's first shape is the line that
    marks a setting: the slider moves its `x0` and `x1`, to a point's `at` or `answered`. `data` are
    {kind, classes (of two), photos (of each of the two), costs (C rows; None of many classes),
    priced (whether the study set prices), own (the rule's setting, or None), points}. Of kind
    "threshold" (two classes), a point is {at, recalls, cost, confusion}: from the probability `at`
    on the first class is predicted. Of kind "doubt", it is {at, answered (a share), cost, wrong}:
    photos whose expected cost is above `at` are rejected, `cost` is per answered photo, and
    `wrong` counts the mistakes among these.
    """
    two = len(contents.classes) == 2
    draw = _thresholds if two else _doubts
    points, own, drawn = draw(contents, answers)
    operation = contents.selection.operation if contents.selection else None
    few = len(contents.classes) <= FEW_CLASSES
    data = {
        "kind": "threshold" if two else "doubt",
        "classes": list(contents.classes) if two else [],
        "photos": np.bincount(answers.labels, minlength=2).tolist() if two else [],
        "costs": [list(row) for row in _goal(contents).costs] if few else None,
        "priced": operation is not None,
        "own": number(own),
        "points": points,
    }
    start = min(points, key=lambda p: abs(p["at"] - own)) if own is not None else points[-1]
    drawn["layout"]["shapes"] = [_mark(start["at" if two else "answered"])]
    prices = "The study's costs" if operation else "Every mistake costs 1, as no costs were set"
    return Panel(drawn, f"{prices}; probabilities are calibrated on other photos.", data)


def _goal(contents: Contents) -> Goal:
    goal = contents.selection.goal if contents.selection else None
    return goal or Goal(Decision.plain(len(contents.classes)).costs)


def _cost(contents: Contents) -> str:
    priced = contents.selection and contents.selection.operation
    return "cost per photo" if priced else "mistakes per photo"


def _thresholds(contents: Contents, answers: Answers) -> tuple[list[Point], float | None, Figure]:
    """Return the settings for two classes, the rule's own, and the figure."""
    goal = _goal(contents)
    operation = contents.selection.operation if contents.selection else None
    rule = operation.decision if operation else Decision(goal.costs)
    curve = (
        operation.trade_off
        if operation
        else by_threshold(answers.labels, answers.calibrated[:, 0], goal, rule)
    )
    photos = np.bincount(answers.labels, minlength=2).tolist()
    points = [_threshold(point, photos) for point in curve]
    x = [point["at"] for point in points]
    names = [shown(name, 30) for name in contents.classes]
    cost = _cost(contents)
    drawn = figure(
        [
            *(
                _line(f"recall of {name}", x, [p["recalls"][label] for p in points], label)
                for label, name in enumerate(names)
            ),
            _line(cost, x, [p["cost"] for p in points], 5) | {"yaxis": "y2"},
        ],
        400,
        xaxis=axis(f"threshold: probability of {names[0]}"),
        yaxis=axis("recall", tickformat=".0%"),
        yaxis2=axis(
            cost,
            overlaying="y",
            side="right",
            tickmode="auto",
            showgrid=False,
            rangemode="tozero",
        ),
        margin={"l": 56, "r": 56, "t": 24, "b": 48},
    )
    return points, rule.threshold, drawn


def _threshold(point: TradeOff, photos: Sequence[int]) -> Point:
    # With two classes, all photos of a class beyond its recall are misclassified as the other.
    first, second = (round(r * n) for r, n in zip(point.recalls, photos, strict=True))
    return {
        "at": number(point.at),
        "recalls": numbers(point.recalls),
        "cost": number(point.cost),
        "confusion": [[first, photos[0] - first], [photos[1] - second, second]],
    }


def _doubts(contents: Contents, answers: Answers) -> tuple[list[Point], float | None, Figure]:
    """Return the settings for more classes, the rule's own, and the figure."""
    operation = contents.selection.operation if contents.selection else None
    if operation is None:
        points, own = _by_doubt(answers), None
    else:
        points = [_doubt(point, operation.photos) for point in operation.trade_off]
        own = operation.decision.reject_cost
    cost = _cost(contents)
    drawn = figure(
        [_line(cost, [p["answered"] for p in points], [p["cost"] for p in points], 5)],
        360,
        xaxis=axis("coverage (photos answered)", tickformat=".0%"),
        yaxis=axis(f"{cost} answered", rangemode="tozero"),
    )
    return points, own, drawn


def _doubt(point: TradeOff, photos: Sequence[int]) -> Point:
    # Recalls count rejected photos as right: the rest are mistakes.
    wrong = sum(n * (1 - recall) for recall, n in zip(point.recalls, photos, strict=True))
    return {
        "at": number(point.at),
        "answered": number(1 - point.rejected),
        "cost": number(point.cost),
        "wrong": round(wrong),
    }


def _by_doubt(answers: Answers) -> list[Point]:
    """Accept more and more photos, the most certain first, each mistake at 1.

    As `study.tradeoff.by_doubt`, which weighs prices, and would take seconds for a thousand
    classes.
    """
    doubt = 1 - answers.calibrated.max(axis=1)
    wrong = answers.calibrated.argmax(axis=1) != answers.labels
    order = np.argsort(doubt, kind="stable")
    some = np.linspace(0, len(order) - 1, min(len(order), POINTS)).round().astype(int)
    levels = np.unique(doubt[order][some])
    answered = np.searchsorted(doubt[order], levels, side="right")
    mistakes = np.cumsum(wrong[order])[answered - 1]
    return [
        {
            "at": number(at),
            "answered": number(count / len(order)),
            "cost": number(errors / count),
            "wrong": errors,
        }
        for at, count, errors in zip(
            levels.tolist(), answered.tolist(), mistakes.tolist(), strict=True
        )
    ]


# Between two settings the predictions of the next one apply.
def _line(name: str, x: list[float | None], y: list[float | None], colour: int) -> Point:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x,
        "y": y,
        "line": {"color": PALETTE[colour], "shape": "vh"},
        "hovertemplate": "%{x:.3g}: %{y:.3g}<extra>%{fullData.name}</extra>",
    }


def _mark(at: float | None) -> Point:
    return {
        "type": "line",
        "x0": at,
        "x1": at,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": GREY, "dash": "dash", "width": 1.5},
    }


FIGURES = (Drawing("trade_off", "confidence", "Trade-off", of_answers(trade_off)),)
