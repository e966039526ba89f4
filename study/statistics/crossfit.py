"""Scores of many predictions at once, and the gain of one over another on the same photos. Pure.

The score of a choice on the photos that made it is optimistic; so choices made outside of a fold
are scored inside of it, and all folds are pooled (cross-fitting).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from study.statistics.groups import Groups, of_groups
from study.statistics.intervals import Z
from study.statistics.scoring import Candidates, Scorer
from study.statistics.selection_bias import mcnemar
from trainers.metrics import Evaluation, Metric, negative_log

Table = NDArray[np.float32]
"""Probabilities: (n, C) of one file, (M, n, C) of M files.

Of several labels, n are rows of photos and labels, C is 2, and labels are numbered on: `LabelKind`.
"""

Labels = NDArray[np.int64]
Floats = NDArray[np.float64]

ENTRIES = 4_000_000
"""How many numbers are processed at once, to save memory."""

_FLIPS = 10_000


@dataclass(frozen=True)
class CrossFit:
    """The scores of an ensemble and a single file on photos that did not choose them.

    `gain` is positive if the ensemble is better, also for a loss; `gain_interval` is its 95 %
    interval (without the variance of training).
    """

    score_ensemble: float
    score_single: float
    gain: float
    gain_interval: tuple[float, float]


def compare(
    metric: Metric,
    labels: Labels,
    many: Sequence[Table],
    single: Sequence[Table],
    groups: Groups | None = None,
) -> CrossFit:
    """Compare tables of probabilities (n, C) for the same photos, a pair per split into folds.

    The gain is the mean over the splits. Its variance has two parts, which are added: that of the
    photos, which are paired, averaged over splits, and that between splits. The sum is more than
    the variance of a mean over splits but, in simulations, the actual error: a file that wins in
    most folds is right or wrong in all splits at once.
    """
    scores = np.array([[score(metric, labels, each) for each in of] for of in (many, single)])
    sign = 1.0 if metric.higher_is_better else -1.0
    gained = sign * (scores[0] - scores[1])
    stakes = metric.stakes(labels) / Evaluation(labels, single[0]).questions
    within = [
        _variance(of_groups(_difference(metric, labels, one, other), groups), stakes)
        for one, other in zip(many, single, strict=True)
    ]
    among = float(gained.var(ddof=1)) if len(gained) > 1 else 0.0
    gain, half = float(gained.mean()), Z * math.sqrt(fmean(within) + among)
    together, alone = scores.mean(axis=1).tolist()
    return CrossFit(together, alone, gain, (gain - half, gain + half))


def _variance(gained: Floats, stakes: Floats) -> float:
    """Return the variance of the mean gain of each photo, or each group, (n,).

    If no prediction differs, the variance is not 0: one gain and one loss are added, of the size of
    a photo's share (Bonett and Price 2012). Losses always differ.
    """
    n = len(gained)
    return float((n * gained.var() + 2 * np.square(stakes).mean()) / (n + 2) ** 2)


def score(metric: Metric, labels: Labels, probabilities: Table) -> float:
    """Return the metric's value for a table of probabilities (n, C)."""
    rows, found = np.arange(len(labels)), Evaluation(labels, probabilities)
    candidates = Candidates(
        labels=labels,
        n_classes=found.questions * probabilities.shape[1],
        predicted=found.predicted[None],
        p_true=probabilities[rows, found.columns].astype(np.float64)[None],
        questions=found.questions,
    )
    return Scorer(candidates, metric).score(np.zeros_like(rows), rows)


def errors_of(labels: Labels, probabilities: Table) -> int:
    """Count the wrong answers of a table of probabilities (n, C)."""
    return int((Evaluation(labels, probabilities).predicted != labels).sum())


def paired_p(
    metric: Metric, labels: Labels, first: Table, second: Table, groups: Groups | None = None
) -> float:
    """Test, two-sided, that two tables of probabilities (n, C) are equally good."""
    return flipped_p(_difference(metric, labels, first, second), groups)


def flipped_p(difference: Floats, groups: Groups | None = None) -> float:
    """Test, two-sided, that differences (n,) are symmetric around 0.

    Under the null hypothesis, the sign of each photo's difference, or of a group's total, is
    random. For right or wrong predictions that is McNemar's exact test, by the binomial
    distribution; otherwise 10,000 draws of signs are counted.
    """
    if groups is not None:
        difference = np.bincount(groups, difference).astype(np.float64)
    difference = difference[difference != 0]
    if len(np.unique(np.abs(difference))) < 2:
        return mcnemar(int((difference > 0).sum()), int((difference < 0).sum()))
    random, found = np.random.default_rng(0), abs(difference.sum())
    step = max(1, ENTRIES // len(difference))
    more = 1  # The observed one counts as a draw, so that no p value is 0.
    for left in range(_FLIPS, 0, -step):
        signs = 2.0 * random.integers(0, 2, (min(step, left), len(difference))) - 1
        # Rounding must not separate equal sums.
        more += int((np.abs(signs @ difference) >= found * (1 - 1e-9)).sum())
    return more / (1 + _FLIPS)


def _difference(metric: Metric, labels: Labels, first: Table, second: Table) -> Floats:
    """Return how much more each photo adds to the first one's score, (n,)."""
    rows = np.arange(len(labels))
    one, other = (
        metric.gains(
            labels,
            found.predicted,
            negative_log(found.probabilities[rows, found.columns].astype(float)),
        )
        for found in (Evaluation(labels, first), Evaluation(labels, second))
    )
    return one - other
