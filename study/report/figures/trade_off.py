"""What another threshold would cost, or leaving more photos to a person: for the page's slider."""

from typing import Any

import numpy as np

from study.goals import Goal
from study.report.contents import Contents
from study.report.figures.probabilities import Answers
from study.report.figures.style import PALETTE, Panel, axis, figure, number, numbers, shown
from study.tradeoff import TradeOff, by_doubt, by_threshold
from trainers.decision import Decision

MOST_RECALLS = 12


def trade_off(contents: Contents, answers: Answers) -> Panel:
    """Draw what each setting of the decision rule gives, on cross-fitted probabilities.

    By the prices of the study, or at 1 for each mistake. The figure's first shape is the line that
    marks a setting: the slider moves its `x0` and `x1`. `data` are {kind, classes, photos (by
    class), costs (C rows; None for more than 50 classes), priced (whether the study set prices),
    own (the rule's setting, or None), points}. Of kind "threshold" (two classes), a point is {at,
    recalls, cost, confusion}: from the probability `at` on the first class is named. Of kind
    "doubt", it is {at, answered (a share), cost, wrong}: photos whose expected cost is above `at`
    are left to a person, `cost` is per answered photo and `wrong` counts the mistakes among these.
    """
    goal = contents.selection.goal if contents.selection else None
    priced = goal is not None
    goal = goal or Goal(Decision.plain(len(contents.classes)).costs)
    curve, own = _curve(contents, answers, goal)
    photos = np.bincount(answers.labels, minlength=len(contents.classes)).tolist()
    two = len(contents.classes) == 2
    points = [_threshold(point, photos) if two else _doubt(point, answers, goal) for point in curve]
    data = {
        "kind": "threshold" if two else "doubt",
        "classes": list(contents.classes) if two else [],
        "photos": photos if two else [],
        "costs": [list(row) for row in goal.costs] if len(photos) <= 50 else None,
        "priced": priced,
        "own": number(own),
        "points": points,
    }
    cost = "cost per photo" if priced else "mistakes per photo"
    drawn = _by_threshold(contents, curve, cost) if two else _by_doubt(curve, cost)
    start = own if own is not None else curve[-1].at
    at = number(start if two else 1 - curve[-1].rejected)
    drawn["layout"]["shapes"] = [_mark(at)]
    prices = "the study's prices" if priced else "each mistake at 1, as no prices were set"
    return Panel(drawn, f"With {prices}; each photo is judged by what the others tell.", data)


def _curve(
    contents: Contents, answers: Answers, goal: Goal
) -> tuple[tuple[TradeOff, ...], float | None]:
    """Give the curve, that of `best` where it has one, and the rule's own setting."""
    operation = contents.selection.operation if contents.selection else None
    if operation is not None:
        rule = operation.decision
        return operation.trade_off, rule.threshold if len(goal.costs) == 2 else rule.reject_cost
    if len(goal.costs) == 2:
        rule = Decision(goal.costs)
        return by_threshold(answers.labels, answers.honest[:, 0], goal, rule), rule.threshold
    expected = answers.honest @ np.array(goal.costs)
    return by_doubt(answers.labels, expected.argmin(axis=1), expected.min(axis=1), goal), None


def _threshold(point: TradeOff, photos: list[int]) -> dict[str, Any]:
    # Of two classes a recall says all: the class's other photos are taken for the other class.
    first, second = (round(r * n) for r, n in zip(point.recalls, photos, strict=True))
    return {
        "at": number(point.at),
        "recalls": numbers(point.recalls),
        "cost": number(point.cost),
        "confusion": [[first, photos[0] - first], [photos[1] - second, second]],
    }


def _doubt(point: TradeOff, answers: Answers, goal: Goal) -> dict[str, Any]:
    expected = answers.honest @ np.array(goal.costs)
    answered = expected.min(axis=1) <= point.at
    wrong = (expected.argmin(axis=1) != answers.labels) & answered
    return {
        "at": number(point.at),
        "answered": number(1 - point.rejected),
        "cost": number(point.cost),
        "wrong": int(wrong.sum()),
    }


def _by_threshold(contents: Contents, curve: tuple[TradeOff, ...], cost: str) -> dict[str, Any]:
    first, second = (shown(name, 30) for name in contents.classes)
    x = numbers(point.at for point in curve)
    traces = [
        _line(f"recall of {name}", x, [point.recalls[label] for point in curve], label)
        for label, name in enumerate((first, second))
    ]
    traces.append(_line(cost, x, [point.cost for point in curve], 5) | {"yaxis": "y2"})
    return figure(
        traces,
        400,
        xaxis=axis(f"probability from which {first} is named"),
        yaxis=axis("recall", tickformat=".0%"),
        yaxis2=axis(
            cost, overlaying="y", side="right", tickmode="auto", showgrid=False, rangemode="tozero"
        ),
        margin={"l": 56, "r": 56, "t": 24, "b": 48},
    )


def _by_doubt(curve: tuple[TradeOff, ...], cost: str) -> dict[str, Any]:
    x = numbers(1 - point.rejected for point in curve)
    return figure(
        [_line(cost, x, [point.cost for point in curve], 5)],
        360,
        xaxis=axis("photos answered, the others left to a person", tickformat=".0%"),
        yaxis=axis(f"{cost} answered", rangemode="tozero"),
    )


# From one probability to the next, all get the answers of the next.
def _line(name: str, x: list[float | None], y: list[float], colour: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x,
        "y": numbers(y),
        "line": {"color": PALETTE[colour], "shape": "vh"},
        "hovertemplate": "%{x:.3g}: %{y:.3g}<extra>%{fullData.name}</extra>",
    }


def _mark(at: float | None) -> dict[str, Any]:
    return {
        "type": "line",
        "x0": at,
        "x1": at,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": "#888888", "dash": "dash", "width": 1.5},
    }
