"""From validation predictions to a decision rule, and its cost. Pure.

The rule is fitted on the photos that score it, and the weights were chosen by them, which makes
scores optimistic. So each photo is also decided by weights chosen and a rule fitted without it
(cross-fitting): those decisions give the unbiased numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from study.selection.goals import Goal, goal_of, parse_recalls
from study.selection.tradeoff import TradeOff, by_doubt, by_threshold, recalls_of
from study.statistics.folds import Labels, deal
from study.statistics.groups import Groups, of_groups
from trainers.decision import REJECTED, Decision
from trainers.metrics import confusion_matrix
from trainers.temperature import fit_temperature

__all__ = [
    "Goal",
    "Operation",
    "TradeOff",
    "fit_decision",
    "goal_of",
    "operate",
    "parse_recalls",
    "photos_needed",
]

Table = NDArray[np.float32] | NDArray[np.float64]
"""Each photo's raw probabilities, shape (n, C)."""

CONFIDENCE = 0.9
"""The confidence that a minimum recall holds on new photos, if there are enough photos."""

DEAREST = 1e6
"""The maximum factor on the price of missing a class: a photo that needs more is mislabelled."""

FOLDS, PARTINGS = 5, 5
_ROUNDS, _RESAMPLES = 20, 2000

Chosen = Callable[[NDArray[np.bool_]], Sequence[Table]]
"""Returns the probabilities (n, C) of the weights that a set of photos chooses.

Takes several sets, as masks (F, n), and returns one table for each.
"""


@dataclass(frozen=True)
class Operation:
    """A rule fitted on all photos, with its cross-fitted and its optimistic numbers.

    Cross-fitted, each photo decided by weights chosen and a rule fitted without it: `cost`, the
    mean price per photo in the goal's prices, with a 95 % interval; `plain_cost`, the cost of
    predicting the most probable class; `confusion` (C, C), row true, column predicted, and
    `rejected` beside it; `recalls`, the share of each class's photos that are not misclassified (a
    rejected one is not; 0 if there are no photos); and `feasible`, whether the goal's recalls held.
    `apparent_cost` is the rule's on the photos it was fitted on, `photos` the count per class.
    """

    decision: Decision
    cost: float
    cost_interval: tuple[float, float]
    apparent_cost: float
    plain_cost: float
    confusion: list[list[int]]
    rejected: int
    recalls: tuple[float, ...]
    feasible: bool
    trade_off: tuple[TradeOff, ...]
    photos: tuple[int, ...]


def fit_decision(labels: Labels, probabilities: Table, goal: Goal) -> Decision:
    """Fit a temperature, and raise prices where the goal asks for recalls.

    The rule is then Bayes' rule under the costs. A minimum recall of a class is met by the smallest
    factor on the price of missing it. If it were just met on n of its photos, it would fail on new
    photos about half of the time; so as many are recalled as make it hold for new photos with
    `CONFIDENCE`, whatever their distribution (a tolerance limit, Wilks 1941): at most m are missed,
    where m or fewer of n would have a probability of 1 - CONFIDENCE if the recall were just the
    minimum. If n is too small for that (`photos_needed`), all n are recalled, and the recall may
    fail. Raises ValueError for invalid predictions, or those of other classes.
    """
    _check_predictions(labels, probabilities, len(goal.costs))
    temperature = fit_temperature(labels, probabilities)
    if not goal.recalls:
        return Decision(goal.costs, temperature, goal.reject_cost)
    calibrated = Decision(goal.costs, temperature).calibrated(probabilities)
    raised = _raised(labels, calibrated, goal)
    return Decision(tuple(map(tuple, raised.tolist())), temperature, goal.reject_cost)


def _check_predictions(labels: Labels, probabilities: Table, n_classes: int) -> None:
    """Raise ValueError unless these are predictions for at least one photo and all classes."""
    if probabilities.shape != (len(labels), n_classes) or not len(labels):
        raise ValueError(
            f"probabilities must be a row for each of at least 1 labels, with {n_classes} classes, "
            f"got shape {probabilities.shape} and {len(labels)} labels"
        )
    if not 0 <= labels.min() <= labels.max() < n_classes:
        raise ValueError(f"labels must be from 0 to {n_classes - 1}, got {labels.max()}")
    if not (np.isfinite(probabilities).all() and (probabilities >= 0).all()):
        raise ValueError("probabilities must be finite and at least 0")


def photos_needed(least: float) -> int:
    """Return how many photos of a class its minimum recall needs to be reliable."""
    return 0 if least == 1 else int(np.ceil(np.log(1 - CONFIDENCE) / np.log(least)))


def _raised(labels: Labels, calibrated: NDArray[np.float64], goal: Goal) -> NDArray[np.float64]:
    """Return the costs with the rows of constrained classes raised, shape (C, C).

    Recalls that cannot hold together are tried without a margin, then without the last one.
    """
    for kept in range(len(goal.recalls), 0, -1):
        for sure in (True, False):
            caught = _to_catch(labels, calibrated, goal, kept, sure=sure)
            raised = _together(labels, calibrated, goal, caught)
            if raised is not None:
                return raised
    return np.array(goal.costs)


def _to_catch(
    labels: Labels, calibrated: NDArray[np.float64], goal: Goal, kept: int, *, sure: bool
) -> dict[int, int]:
    """Return how many photos of each constrained class must not be missed.

    Those that no factor up to `DEAREST` recalls are given up.
    """
    caught = {}
    for label, least in goal.recalls[:kept]:
        own = calibrated[labels == label]
        needed = _factors(own, np.array(goal.costs), label, goal.reject_cost)
        enough = len(own) - _misses(len(own), least) if sure else ceil(least * len(own) - 1e-9)
        caught[label] = min(enough, int((needed <= DEAREST).sum()))
    return caught


def _together(
    labels: Labels, calibrated: NDArray[np.float64], goal: Goal, caught: dict[int, int]
) -> NDArray[np.float64] | None:
    """Return the costs, shape (C, C), under which all those are recalled; None if none are found.

    A class with higher costs takes photos from another, which may then need higher costs as well:
    factors only grow, in turns, until all recalls hold.
    """
    costs = np.array(goal.costs)
    factors = np.ones(len(costs))
    for _ in range(_ROUNDS):
        before = factors.copy()
        for label, enough in caught.items():
            scaled = costs * factors[:, None]
            scaled[label] = costs[label]
            needed = np.sort(_factors(calibrated[labels == label], scaled, label, goal.reject_cost))
            factors[label] = max([factors[label], *needed[enough - 1 : enough]])
        if factors.max() > DEAREST:
            return None
        if (factors == before).all():
            return costs * factors[:, None]
    return None


def _factors(
    own: NDArray[np.float64], costs: NDArray[np.float64], label: int, reject_cost: float | None
) -> NDArray[np.float64]:
    """Return the factor on row `label` from which each of its photos is no longer missed, (n,).

    As the factor grows, predicting the class costs the same and predicting another more: so a photo
    is missed up to one factor and not beyond it, where it is recalled or rejected.
    """
    prices = own[:, [label]] * costs[label]
    others = own @ costs - prices
    bound = np.minimum(others[:, label], np.inf if reject_cost is None else reject_cost)
    lacking = np.maximum(bound[:, None] - others, 0)
    lacking[:, label] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.where(lacking > 0, lacking / prices, 0)
    # At the factor itself two predictions cost the same; slightly above it, the class is cheaper.
    most: NDArray[np.float64] = factors.max(axis=1) * (1 + 1e-9)
    return most


def _misses(photos: int, least: float) -> int:
    """Return how many photos of a class may be missed for its recall to be reliable."""
    from scipy.special import bdtr  # the binomial distribution's; scipy.stats takes a second more

    fewer = bdtr(np.arange(photos + 1), photos, 1 - least) <= 1 - CONFIDENCE
    return max(int(fewer.sum()) - 1, 0)


def operate(
    labels: Labels,
    probabilities: Table,
    goal: Goal,
    *,
    folds: int = FOLDS,
    seed: int = 0,
    chosen: Chosen | None = None,
    groups: Groups | None = None,
) -> Operation:
    """Fit the rule, and estimate by cross-fitting its cost, and the choice's, on new photos.

    Takes n labels and the (n, C) probabilities of the chosen weights, n at least 2. Without
    `chosen`, these weights are fixed, whatever the photos. There are fewer folds, at least 2, if a
    class has fewer photos; `groups` (n,) stay together. The split into folds is random: of
    `PARTINGS` the one with the median cost is returned. With a minimum recall, rules fitted without
    a fold have the margin for fewer photos than the rule itself: the cost is then off in either
    direction, by 7 % on 40 photos and by 2 % on 300 (simulated). Raises ValueError as
    `fit_decision` does.
    """
    if folds < 2 or len(labels) < 2:
        raise ValueError(f"folds and photos must be at least 2, got {folds} and {len(labels)}")
    decision = fit_decision(labels, probabilities, goal)
    choice = chosen or (lambda inside: [probabilities] * len(inside))
    partings = [
        _answered(labels, goal, deal(labels, folds, seed + parting, groups), choice)
        for parting in range(PARTINGS)
    ]
    prices = np.stack([goal.priced.prices(labels, each.answers) for each in partings])
    middle = int(np.argsort(prices.mean(axis=1), kind="stable")[PARTINGS // 2])
    told, n_classes = partings[middle], len(goal.costs)
    if n_classes == 2:
        curve = by_threshold(labels, told.first, goal, decision)
    else:
        curve = by_doubt(labels, told.cheapest, told.doubt, goal)
    answered = told.answers != REJECTED
    recalls = recalls_of(labels, told.answers, n_classes)
    photos = np.bincount(labels, minlength=n_classes)
    apparent = goal.priced.prices(labels, decision.decide(probabilities))
    return Operation(
        decision=decision,
        cost=float(prices[middle].mean()),
        cost_interval=_interval(of_groups(prices, groups), max(map(max, goal.costs)), seed),
        apparent_cost=float(apparent.mean()),
        plain_cost=float(goal.priced.prices(labels, told.likeliest).mean()),
        confusion=confusion_matrix(labels[answered], told.answers[answered], n_classes).tolist(),
        rejected=int((~answered).sum()),
        recalls=recalls,
        feasible=all(photos[label] and recalls[label] >= least for label, least in goal.recalls),
        trade_off=curve,
        photos=tuple(photos.tolist()),
    )


@dataclass(frozen=True, eq=False)
class _Answered:
    """Cross-fitted decisions for each photo, (n,) each.

    The `cheapest` class, its expected cost (`doubt`), the `answers`, including rejections, the
    `likeliest` class, and the `first` class's calibrated probability.
    """

    cheapest: NDArray[np.int64]
    doubt: NDArray[np.float64]
    answers: NDArray[np.int64]
    likeliest: NDArray[np.int64]
    first: NDArray[np.float64]


def _answered(labels: Labels, goal: Goal, dealt: NDArray[np.int64], chosen: Chosen) -> _Answered:
    cheapest, likeliest = np.empty((2, len(labels)), np.int64)
    doubt, first = np.empty((2, len(labels)))
    owns = [dealt == fold for fold in np.unique(dealt)]
    for own, table in zip(owns, chosen(~np.stack(owns)), strict=True):
        rule = fit_decision(labels[~own], table[~own], goal)
        calibrated = rule.calibrated(table[own])
        expected = calibrated @ np.array(rule.costs)
        cheapest[own], doubt[own] = expected.argmin(axis=1), expected.min(axis=1)
        likeliest[own], first[own] = table[own].argmax(axis=1), calibrated[:, 0]
    answers = cheapest
    if goal.reject_cost is not None:
        answers = np.where(doubt > goal.reject_cost, REJECTED, cheapest)
    return _Answered(cheapest, doubt, answers, likeliest, first)


def _interval(prices: NDArray[np.float64], dearest: float, seed: int) -> tuple[float, float]:
    """Return a 95 % interval of the mean price, by a bootstrap over partings and photos, (R, n).

    Groups, if given, are resampled in place of photos. Expensive mistakes are rare, and resampling
    cannot draw those that did not happen: so the upper limit also draws from an additional photo at
    the highest price. If all costs are 0, that gives three photos of n, as in the rule of three.
    """
    low, high = (
        np.concatenate([_means(each, more, seed) for each in prices]) for more in ([], [dearest])
    )
    return float(np.quantile(low, 0.025)), float(np.quantile(high, 0.975))


def _means(prices: NDArray[np.float64], more: Sequence[float], seed: int) -> NDArray[np.float64]:
    """Draw mean prices. There are few different prices, so a resample draws the count of each."""
    found, counts = np.unique([*prices, *more], return_counts=True)
    n = int(counts.sum())
    draws = np.random.default_rng(seed).multinomial(n, counts / n, size=_RESAMPLES // PARTINGS)
    means: NDArray[np.float64] = draws @ found / n
    return means
