"""Results of other settings of a decision rule: the threshold, or the share of rejections. Pure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.selection.goals import Goal
from study.statistics.folds import Labels
from trainers.decision import REJECTED, Decision

POINTS = 50
"""Maximum number of points of a trade-off curve."""


@dataclass(frozen=True)
class TradeOff:
    """The result of another setting of the rule, on cross-fitted probabilities.

    `at` is, with two classes, the probability from which the first is predicted (nothing is
    rejected); with more, the expected cost above which a photo is rejected. `cost` is the mean over
    accepted photos, `rejected` the share of the others. `recalls` are `Operation`'s.
    """

    at: float
    recalls: tuple[float, ...]
    cost: float
    rejected: float


def by_threshold(
    labels: Labels, first: NDArray[np.float64], goal: Goal, decision: Decision
) -> tuple[TradeOff, ...]:
    """Return the settings of two classes: all thresholds that no other one beats in both recalls.

    Just below such a threshold is a photo of the second class, and at it one of the first.
    """
    values, where = np.unique(first, return_inverse=True)
    ours = np.bincount(where[labels == 0], minlength=len(values)) > 0
    theirs = np.bincount(where[labels == 1], minlength=len(values)) > 0
    corners = values[ours & np.append(True, theirs[:-1])]
    own = [] if decision.threshold is None else [decision.threshold]
    return tuple(
        _trade_off(float(at), labels, np.where(first >= at, 0, 1), goal)
        for at in np.unique([*_thinned(corners, POINTS - 1), *own])
    )


def by_doubt(
    labels: Labels, answers: NDArray[np.int64], doubt: NDArray[np.float64], goal: Goal
) -> tuple[TradeOff, ...]:
    """Accept more and more photos, those with the least expected cost first."""
    return tuple(
        _trade_off(float(at), labels, np.where(doubt > at, REJECTED, answers), goal)
        for at in np.unique(_thinned(np.sort(doubt), POINTS))
    )


def _trade_off(at: float, labels: Labels, answers: NDArray[np.int64], goal: Goal) -> TradeOff:
    answered = answers != REJECTED
    prices = goal.priced.prices(labels[answered], answers[answered])
    recalls = recalls_of(labels, answers, len(goal.costs))
    return TradeOff(at, recalls, float(prices.mean()), float(1 - answered.mean()))


def _thinned(values: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """Return a limited number of the values, evenly spaced, including the first and the last."""
    kept: NDArray[np.float64] = values[
        np.unique(np.linspace(0, len(values) - 1, min(len(values), most)).round().astype(int))
    ]
    return kept


def recalls_of(labels: Labels, answers: NDArray[np.int64], n_classes: int) -> tuple[float, ...]:
    """Return the share of each class's photos not misclassified, 0 for a class without photos."""
    seen = (answers == labels) | (answers == REJECTED)
    photos = np.bincount(labels, minlength=n_classes)
    caught = np.bincount(labels[seen], minlength=n_classes)
    return tuple((caught / np.maximum(photos, 1)).tolist())
