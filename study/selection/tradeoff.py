"""What other settings of a rule would give: a threshold, or how much is left to a person. Pure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.selection.goals import Goal
from study.statistics.folds import Labels
from trainers.decision import REJECTED, Decision

POINTS = 50
"""So many, at most, a trade-off curve has."""


@dataclass(frozen=True)
class TradeOff:
    """What another setting of the rule would give, on cross-fitted probabilities.

    `at` is, of two classes, the probability from which the first is named (nothing is rejected);
    of more, the expected cost above which a photo is rejected. `cost` is the mean over the photos
    that are answered, `rejected` the share of those that are not. `recalls` are `Operation`'s.
    """

    at: float
    recalls: tuple[float, ...]
    cost: float
    rejected: float


def by_threshold(
    labels: Labels, first: NDArray[np.float64], goal: Goal, decision: Decision
) -> tuple[TradeOff, ...]:
    """Name the first of two classes from each probability on that no other beats in both recalls.

    Just below such a one lies a photo of the second class, and at it one of the first.
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
    """Answer ever more photos, those with the least expected cost first."""
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
    """Return at most so many of the values, evenly, the first and the last among them."""
    kept: NDArray[np.float64] = values[
        np.unique(np.linspace(0, len(values) - 1, min(len(values), most)).round().astype(int))
    ]
    return kept


def recalls_of(labels: Labels, answers: NDArray[np.int64], n_classes: int) -> tuple[float, ...]:
    """Return the share of each class's photos not misclassified, or 0 where there is none."""
    seen = (answers == labels) | (answers == REJECTED)
    photos = np.bincount(labels, minlength=n_classes)
    caught = np.bincount(labels[seen], minlength=n_classes)
    return tuple((caught / np.maximum(photos, 1)).tolist())
