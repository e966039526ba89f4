"""The expected result of a schedule, from all stage runs so far: a Gaussian process. Pure.

It models a stage run's shortfall, which combines two noisy measures of quality, the error rate and
the calibrated loss; together they are more informative than either (benchmarks/README.md). Each
stage run is treated as a schedule that ends there, so early stages inform the forecast of later
ones, as in freeze-thaw Bayesian optimization (Swersky, Snoek & Adams 2014). The covariance has
three parts: similar stages have similar results (a sum and a product of one kernel per field),
stage runs of one path share its random effect, and validation adds noise.
"""

import math
import zlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.stage_tree import Node
from trainers.metrics import Metric
from trainers.schedule import LAYER_GROUPS, PROBE_FIELDS, Schedule, Stage, Train

Array = NDArray[np.float64]
Features = Mapping[str, float | str | None]
"""The inputs of the model: numbers, which have an order, and names."""

RATIOS = {
    "work": 8,
    "image_size": 2,
    "batch_size": 4,
    "cycle_len": 4,
    "min_steps": 4,
    "lr body-early": 10,
    "lr body-late": 10,
    "lr head": 10,
    "before image_size": 2,
    "before lr head": 10,
}
"""Fields on a logarithmic scale, and the ratio that is one length scale."""

STEPS = {
    "hidden": 500,
    "levels": 3,
    "place": 1,
    "n_cycles": 2,
    "cycle_mult": 1,
    "warm_up": 0.3,
    "layer_decay": 0.3,
    "max_zoom": 0.3,
    "erasing": 0.5,
    "mixup": 0.5,
    "cutmix": 1,
    "dropout": 0.5,
    "drop_path": 0.2,
    "frozen": 0.5,
    "views": 8,
    "weight_decay": 0.1,
    "clip_grad": 2,
    "label_smoothing": 0.2,
    "ema": 0.05,
}
"""Fields on a linear scale, and their length scales."""

NAMES = (
    *("backbone", "train", "annealing", "crop", "augmentation", "batch_norm", "optimizer"),
    *("loss", "balance", "tta", "start_from", "before train"),
)
"""Fields without an order: two different values are one length scale apart."""

REACH = {
    **{name: math.log(ratio) for name, ratio in RATIOS.items()},
    **STEPS,
    **dict.fromkeys(NAMES, 1),
}

VARYING = 8
"""The usual number of fields that vary: the sum of kernels is divided by it."""

INHERITED = 0.75
"""The part of a stage run's random effect that the next stage keeps; robust from 0.5 to 0.95."""

LUCK = 0.5
"""The part of the variance between seeds that is due to the weights; validation adds the rest."""

SPREADS = tuple(0.02 * 1.5**power for power in range(11))
"""The grid of standard deviations between schedules."""

NOISES = tuple(0.01 * 1.5**power for power in range(10))
"""Those between seeds of one schedule."""

USUAL = {"spread": (0.2, 1.0), "noise": (0.1, 0.7)}
"""The priors of both: median and standard deviation of the logarithm."""

OFFSET = 1.0
"""The prior standard deviation of the mean, which depends on the data alone."""

JITTER = 1e-9

NAMED = 1e9
"""Larger than any field's number in units of its length scale."""

DRAWS = 1000
"""Number of draws for the expected best of several."""

LEAST_LOSS, LEAST_SHARE = 1e-4, 1e-3
"""Minimum loss and errors, in photos, even if all photos are right."""

MOST = 300
"""Maximum number of stage runs that are modelled: half of them the best, the others the newest."""

FITTED = 100
"""Maximum number of them, from the first, that are used to fit spread and noise."""


@dataclass(frozen=True)
class Point:
    """A stage run that was trained or could be.

    `path` names the stage runs that it passes through and shares random effects with, its own last.
    """

    features: Features
    path: tuple[Hashable, ...]

    @cached_property
    def coded(self) -> Array:
        """Each field in units of its length scale; a name is a number from `NAMED` on."""
        values = ((self.features.get(name), reach) for name, reach in REACH.items())
        return np.array(
            [
                value / reach
                if isinstance(value, float)
                else NAMED + zlib.crc32(str(value).encode())
                for value, reach in values
            ]
        )


def shortfall(metric: Metric, score: Array, loss: Array) -> Array:
    """Return the shortfall of stage runs, on a log scale.

    It is the mean of the logarithms of the calibrated loss and of the score's distance from a
    perfect one; for log loss only the former.
    """
    of_loss = np.log(np.maximum(loss, LEAST_LOSS))
    if metric.is_loss:
        return np.asarray(of_loss)
    return np.asarray((of_loss + np.log(metric.missing(score) + LEAST_SHARE)) / 2)


def shortfall_of(metric: Metric, node: Node) -> float:
    """Return the shortfall of a stage run; infinite if it is unknown."""
    trained = node.outcome
    score = metric.score_of(trained.rank) if trained else None
    if trained is None or trained.loss is None or score is None:
        return math.inf
    return float(shortfall(metric, np.array(score), np.array(trained.loss)))


class Forecast:
    """The posterior given the `shortfalls` of `points`."""

    def __init__(self, points: Sequence[Point], shortfalls: Sequence[float] | Array) -> None:
        from scipy.linalg import solve_triangular

        self._points, logs = points, np.array(shortfalls, float)
        self._solve = partial(solve_triangular, lower=True)
        self._spread, self._noise = _fit(self._points[:FITTED], logs[:FITTED])
        self._mean = float(logs.mean()) if len(logs) else 0.0
        alike = self._covariance(self._points, self._points)
        self._root = np.linalg.cholesky(alike + self._of_validation * np.eye(len(logs)))
        self._told = self._solve(self._root, logs - self._mean)
        self._smooth = self._solve(self._root, alike)
        self.known = self.smoothed(logs)

    def smoothed(self, shortfalls: Array) -> Array:
        """Return the posterior mean of the points, had they these shortfalls, (n,) or (n, B)."""
        told = self._solve(self._root, shortfalls - self._mean)
        return np.asarray(self._mean + self._smooth.T @ told)

    def at(self, points: Sequence[Point], pending: Sequence[Point] = ()) -> tuple[Array, Array]:
        """Return mean and standard deviation of the shortfall of each, without validation's noise.

        Stage runs `pending` in training count as if their results were as expected (Ginsbourger et
        al. 2010), which lowers the expected improvement of their neighbours.
        """
        across = self._solve(self._root, self._covariance(self._points, points))
        variance = self._own(points) - np.square(across).sum(axis=0)
        if pending:
            between = self._solve(self._root, self._covariance(self._points, pending))
            theirs = self._covariance(pending, pending) - between.T @ between
            root = np.linalg.cholesky(theirs + self._of_validation * np.eye(len(pending)))
            further = self._covariance(pending, points) - between.T @ across
            variance -= np.square(self._solve(root, further)).sum(axis=0)
        return self._mean + across.T @ self._told, np.sqrt(np.maximum(variance, JITTER))

    def improvement(self, mean: Array, sd: Array) -> Array:
        """Return by how much each is expected to lower the posterior mean of the best known.

        This is the knowledge gradient (Frazier, Powell & Dayanik 2009) of the run itself. It uses
        the standard deviation of the posterior mean, since a result is observed with validation's
        noise. Otherwise the variance between seeds would promise improvements that cannot be
        observed.
        """
        seen = np.square(sd) / np.hypot(sd, self.seen_noise)
        return expected_improvement(mean, seen, float(self.known.min()))

    def least_of(self, points: Sequence[Point]) -> float:
        """Return how far below the best known the best of these is expected to be."""
        across = self._solve(self._root, self._covariance(self._points, points))
        covariance = self._covariance(points, points) - across.T @ across
        root = np.linalg.cholesky(covariance + 1e-6 * np.eye(len(points)))
        normal = np.random.default_rng(0).standard_normal((len(points), DRAWS))
        drawn = (self._mean + across.T @ self._told)[:, None] + root @ normal
        return float(np.maximum(self.known.min() - drawn.min(axis=0), 0).mean())

    @property
    def seen_noise(self) -> float:
        """The standard deviation due to the finite number of validation photos."""
        return math.sqrt(self._of_validation)

    @property
    def _of_validation(self) -> float:
        return (1 - LUCK) * self._noise**2 + JITTER

    def _covariance(self, rows: Sequence[Point], columns: Sequence[Point]) -> Array:
        alike = self._spread**2 * _similarity(rows, columns)
        return np.asarray(alike + LUCK * self._noise**2 * _shared(rows, columns) + OFFSET**2)

    def _own(self, points: Sequence[Point]) -> Array:
        lucky = np.array([bool(point.path) for point in points])
        alike = self._spread**2 * SELF_SIMILARITY + OFFSET**2
        return np.asarray(alike + LUCK * self._noise**2 * lucky)


def point_of(schedule: Schedule, seed: int) -> Point:
    """Return where a schedule ends. A probe has no random effect to pass on: it is fitted."""
    path = (hash((p, seed)) for p in schedule.prefixes() if p.stages[-1].train is Train.NETWORK)
    return Point(_features(schedule), tuple(path))


def expected_improvement(mean: Array, sd: Array, best: float) -> Array:
    """Return the expected improvement of each below `best` (Mockus 1975)."""
    from scipy.special import ndtr

    gap = best - mean
    z = gap / sd
    density = np.exp(-np.square(z) / 2) / math.sqrt(2 * math.pi)
    return np.asarray(gap * ndtr(z) + sd * density)


def to_model(shortfalls: Sequence[float]) -> list[int]:
    """Return which of many stage runs to model, in their order."""
    count = len(shortfalls)
    newest = range(max(0, count - MOST // 2), count)
    older = np.argsort(shortfalls[: newest.start], kind="stable")[: MOST - len(newest)]
    return [*sorted(older.tolist()), *newest]


def _fit(points: Sequence[Point], logs: Array) -> tuple[float, float]:
    """Return the most probable spread and noise, a posteriori.

    Both parts of the covariance are made diagonal at once, so that each pair costs a sum.
    """
    from scipy.linalg import eigh

    pairs = list(product(SPREADS, NOISES))
    likelihood = np.zeros(len(pairs))
    if len(logs):
        luck = LUCK * _shared(points, points) + (1 - LUCK + JITTER) * np.eye(len(logs))
        values, vectors = eigh(_similarity(points, points), luck)
        off, ones = vectors.T @ (logs - logs.mean()), OFFSET * vectors.sum(axis=0)
        spread, noise = np.square(pairs).T[..., None]
        variances = spread * np.maximum(values, 0) + noise
        level = 1 + (np.square(ones) / variances).sum(axis=1)
        explained = (off**2 / variances).sum(axis=1)
        explained -= (off * ones / variances).sum(axis=1) ** 2 / level
        likelihood = -(explained + np.log(level) + np.log(variances).sum(axis=1)) / 2
    priors = [_prior("spread", spread) + _prior("noise", noise) for spread, noise in pairs]
    return pairs[int((likelihood + priors).argmax())]


def _prior(name: str, value: float) -> float:
    usual, sd = USUAL[name]
    return -((math.log(value / usual) / sd) ** 2) / 2


def _similarity(rows: Sequence[Point], columns: Sequence[Point]) -> Array:
    """Return the similarity of stage runs, shape (rows, columns): a sum and a product over fields.

    Squared distances come from a table of each field's values, all in one matrix product.
    """
    from scipy.linalg import block_diag

    coded = np.array([point.coded for point in (*rows, *columns)]).reshape(-1, len(REACH))
    hot, squares = [np.zeros((len(coded), 1))], [np.zeros((1, 1))]
    for place in np.flatnonzero((coded != coded[:1]).any(axis=0)):
        values, which = np.unique(coded[:, place], return_inverse=True)
        hot.append(np.eye(len(values))[which])
        squares.append(_squares(values))
    found, apart = np.concatenate(hot, axis=1), block_diag(*squares)
    mine, theirs = found[: len(rows)], found[len(rows) :].T
    total = len(REACH) + mine @ np.expm1(-apart / 2) @ theirs
    return np.asarray((total / VARYING + np.exp(mine @ apart @ theirs / -2)) / 2)


def _squares(values: Array) -> Array:
    """Return the squared distances of a field's values, in units of its length scale."""
    named = (values >= NAMED)[:, None] | (values >= NAMED)
    return np.where(named, 1 - np.eye(len(values)), np.square(values[:, None] - values))


SELF_SIMILARITY = (len(REACH) / VARYING + 1) / 2


def _shared(rows: Sequence[Point], columns: Sequence[Point]) -> Array:
    """Return the covariance of random effects, inherited along the paths of stage runs."""
    names: dict[Hashable, int] = {}
    deep = max((len(point.path) for point in (*rows, *columns)), default=0)
    ids = np.full((len(rows) + len(columns), deep), -1)
    for row, point in enumerate((*rows, *columns)):
        ids[row, : len(point.path)] = [names.setdefault(key, len(names)) for key in point.path]
    mine, theirs = ids[: len(rows), None], ids[None, len(rows) :]
    common = np.logical_and.accumulate((mine == theirs) & (mine >= 0), axis=2).sum(axis=2)
    steps = (mine >= 0).sum(axis=2) + (theirs >= 0).sum(axis=2) - 2 * common
    return np.where(common > 0, INHERITED**steps, 0.0)


def _features(prefix: Schedule) -> Features:
    """Return the features of the last of these stages, and of those before it."""
    *before, stage = prefix.stages
    found = {
        "backbone": prefix.backbone,
        "hidden": sum(prefix.hidden),
        "levels": prefix.levels,
        "place": sum(each.train is Train.NETWORK for each in before),
        "work": sum(map(_work, prefix.stages)),
        **_described(stage),
    }
    if before:
        earlier = _described(before[-1])
        found |= {
            name: earlier.get(name.removeprefix("before ")) for name in REACH if "before " in name
        }
    return {name: _ordered(name, value) for name, value in found.items()}


def _described(stage: Stage) -> dict[str, Any]:
    plain = dict(vars(stage))
    rates, dropout = plain.pop("lrs"), plain["dropout"]
    plain["dropout"] = dropout if isinstance(dropout, float) else dropout[-1]
    plain |= {f"lr {group}": rate for group, rate in zip(LAYER_GROUPS, rates, strict=True)}
    means = PROBE_FIELDS if stage.train is Train.PROBE else plain
    return {name: plain[name] for name in plain if name in means}


def _work(stage: Stage) -> float:
    """Return how much a stage trains, up to the number of photos, which is constant in a study."""
    return stage.epochs * stage.min_steps * stage.batch_size * stage.image_size**2


def _ordered(name: str, value: Any) -> float | str | None:
    """Return a number on the scale on which equal steps have equal effects; a name as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value if value is None else str(value)
    return math.log(max(value, 1e-9)) if name in RATIOS else float(value)
