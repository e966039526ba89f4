"""Scores of many predictions at once, and what one gains over another on the same photos. Pure.

A choice made by the photos that score it flatters; so what is chosen on the photos
outside of a fold is scored on those inside, and all folds are pooled (cross-fitting).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from study.statistics.calibration import deal
from study.statistics.intervals import Z
from study.statistics.selection_bias import mcnemar
from study.statistics.significance import gains
from trainers.metrics import Metric

Table = NDArray[np.float32]
"""Probabilities: (n, C) of one file, (M, n, C) of M files."""

Labels = NDArray[np.int64]
Floats = NDArray[np.float64]

ENTRIES = 4_000_000
"""How many numbers are worked on at once, for memory."""

Mask = NDArray[np.bool_]

_FLIPS = 10_000


@dataclass(frozen=True)
class CrossFit:
    """What an ensemble and a single file reach on photos that had no say in choosing them.

    `gain` is positive where the ensemble is better, for a loss too; `gain_interval` is its 95 %
    interval (it knows nothing of the luck in the training).
    """

    score_ensemble: float
    score_single: float
    gain: float
    gain_interval: tuple[float, float]


def compare(
    metric: Metric, labels: Labels, many: Sequence[Table], single: Sequence[Table]
) -> CrossFit:
    """Compare tables of probabilities (n, C) for the same photos, a pair for each parting.

    The gain is the mean over the partings. It errs by its photos, which are paired, and by how they
    were parted: the mean over partings of the one variance, and the other among them, are added.
    That is more than the mean's own variance and, simulated, what it is off by: a file that wins
    in most folds is right or wrong in all partings at once.
    """
    scores = np.array([[score(metric, labels, each) for each in of] for of in (many, single)])
    sign = 1.0 if metric.higher_is_better else -1.0
    gained = sign * (scores[0] - scores[1])
    within = [
        _variance(metric, labels, _gains(metric, labels, one) - _gains(metric, labels, other))
        for one, other in zip(many, single, strict=True)
    ]
    among = float(gained.var(ddof=1)) if len(gained) > 1 else 0.0
    gain, half = float(gained.mean()), Z * math.sqrt(fmean(within) + among)
    together, alone = scores.mean(axis=1).tolist()
    return CrossFit(together, alone, gain, (gain - half, gain + half))


def _variance(metric: Metric, labels: Labels, gained: Floats) -> float:
    """Return the variance of the mean of what each photo gains, (n,).

    Where no answer differs, that is no proof: one photo more is taken for gained and one for lost
    (Bonett and Price 2012). Losses always differ.
    """
    n = len(gained)
    most = np.zeros(n) if metric is Metric.LOG_LOSS else gains(metric, labels, np.ones(n), gained)
    return float((n * gained.var() + 2 * np.square(most).mean()) / (n + 2) ** 2)


def score(metric: Metric, labels: Labels, probabilities: Table) -> float:
    """Return the metric's value for a table of probabilities (n, C)."""
    judge = Judge(metric, labels, probabilities.shape[1])
    true = probabilities[np.arange(len(labels)), labels]
    return float(judge.scores(probabilities.argmax(axis=1)[None], true[None])[0][0])


def folds_of(labels: Labels, folds: int, seed: int) -> list[Mask]:
    """Part the photos into folds, each a mask (n,); see `deal`."""
    dealt = deal(labels, folds, seed)
    return [dealt == fold for fold in np.unique(dealt)]


def paired_p(metric: Metric, labels: Labels, first: Table, second: Table) -> float:
    """Test, two-sided, that two tables of probabilities (n, C) are equally good.

    Were they, each photo's difference could as well have the other sign. For accuracy that is
    McNemar's exact test, and a binomial law; otherwise 10,000 draws of signs are counted.
    """
    difference = _gains(metric, labels, first) - _gains(metric, labels, second)
    difference = difference[difference != 0]
    if metric is Metric.ACCURACY:
        return mcnemar(int((difference > 0).sum()), int((difference < 0).sum()))
    random, found = np.random.default_rng(0), abs(difference.sum())
    drawn = [random.choice((-1.0, 1.0), len(difference)) @ difference for _ in range(_FLIPS)]
    # What was found counts as drawn, too: no p value is 0. Rounding must not part equal sums.
    return (1 + int((np.abs(drawn) >= found * (1 - 1e-9)).sum())) / (1 + _FLIPS)


class Judge:
    """Scores many predictions of the same photos at once."""

    def __init__(self, metric: Metric, labels: Labels, classes: int) -> None:
        self._metric, self._labels = metric, labels
        self._one_hot = np.eye(classes, dtype=np.float32)[labels]
        self._photos = self._one_hot.sum(axis=0)

    def scores(self, predicted: Labels, true: Table) -> tuple[Floats, Floats]:
        """Return scores and log losses, (M,) each; `true` are the labels' probabilities, (M, n)."""
        losses = _nll(true).mean(axis=1)
        # Whole numbers in float32: exact up to 16 million photos.
        hits = (predicted == self._labels).astype(np.float32) @ self._one_hot
        counts = np.zeros_like(hits)
        if self._metric is Metric.F1:
            classes = hits.shape[1]
            cells = predicted + classes * np.arange(len(predicted))[:, None]
            counts = np.bincount(cells.ravel(), minlength=hits.size).reshape(hits.shape)
        return self._reduce(hits, counts, self._photos, losses), losses

    def first(self, scores: Floats, losses: Floats) -> tuple[int, tuple[float, float]]:
        """Return the best of M: its index, and its rank as `Metric.rank` gives it."""
        order = np.lexsort((losses, -scores if self._metric.higher_is_better else scores))
        best = int(order[0])
        return best, self._metric.rank(float(scores[best]), float(losses[best]))

    def _reduce(self, hits: Table, predicted: Table, photos: Table, losses: Floats) -> Floats:
        """Make scores (K,) of counts by class, (K, C) each, as `trainers.metrics` does of one."""
        hits, photos = hits.astype(np.float64), np.broadcast_to(photos, hits.shape)
        if self._metric is Metric.LOG_LOSS:
            return losses
        if self._metric is Metric.ACCURACY:
            accuracy: Floats = hits.sum(axis=1) / photos.sum(axis=1)
            return accuracy
        whole = photos if self._metric is Metric.BALANCED_ACCURACY else (photos + predicted) / 2
        shares = np.divide(hits, whole, out=np.zeros_like(hits), where=whole > 0)
        means: Floats = shares.sum(axis=1) / (whole > 0).sum(axis=1)
        return means


def _nll(true: Table) -> Floats:
    return -np.log(np.maximum(true.astype(np.float64), 1e-7))


def _gains(metric: Metric, labels: Labels, table: Table) -> Floats:
    right = (table.argmax(axis=1) == labels).astype(np.float64)
    true = table[np.arange(len(labels)), labels].astype(np.float64)
    return gains(metric, labels, right, true)
