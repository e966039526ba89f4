"""Which files form a soup, and its gain on photos that did not choose it. Pure.

The existing files were kept by all photos, and deleted ones cannot be averaged. So the choice of a
soup cannot be repeated without a fold; but that of a mean of predictions can, as all are stored.
The soup's bias from which files were kept is assumed to equal that of the mean.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from study.selection.choosable import Choosable, Epoch
from study.statistics.crossfit import CrossFit, Labels, Table, compare, score
from study.statistics.folds import Mask, folds_of
from trainers.metrics import Metric

MOST = 10
"""Maximum number of files that are tried, the best: each costs a pass over all photos."""

FOLDS, PARTINGS = 5, 10

Mean = Callable[[Sequence[int]], Table]
"""Returns the predictions of a mean of some files, (n, C)."""


def greedy_soup(order: Sequence[int], value: Callable[[Sequence[int]], float]) -> tuple[int, ...]:
    """Return the files whose mean is the soup: each, the best first, is kept if it does no harm.

    This is the greedy soup of Wortsman et al. (ICML 2022). `value` scores a soup, more is better.
    """
    chosen: tuple[int, ...] = (order[0],)
    for each in order[1:]:
        if value((*chosen, each)) >= value(chosen):
            chosen = (*chosen, each)
    return chosen


def choose_soup(
    files: int, mean: Mean, metric: Metric, labels: Labels, photos: Mask
) -> tuple[int, ...]:
    """Choose the files of the soup by some of the photos, a mask (n,)."""

    def value(members: Sequence[int], by: Metric = metric) -> float:
        found = score(by, labels[photos], mean(members)[photos])
        return found if by.higher_is_better else -found

    order = sorted(range(files), key=lambda i: (-value([i]), -value([i], Metric.LOG_LOSS)))
    return greedy_soup(order, value)


def held_out(
    metric: Metric, labels: Labels, folds: Sequence[Mask], means: Sequence[tuple[int, Mean]]
) -> tuple[Table, Table]:
    """Return cross-fitted predictions of the soup and of the best file, (n, C).

    `means` has for each fold the number of files to choose from, and the mean of some.
    """
    many, single = [], []
    for fold, (files, mean) in zip(folds, means, strict=True):
        chosen = choose_soup(files, mean, metric, labels, ~fold)
        many.append(mean(chosen)[fold])
        single.append(mean(chosen[:1])[fold])
    back = np.argsort(np.concatenate([np.flatnonzero(fold) for fold in folds]))
    return np.concatenate(many)[back], np.concatenate(single)[back]


def of_predictions(
    could: Choosable, files: Sequence[Epoch], metric: Metric
) -> tuple[CrossFit, CrossFit]:
    """Estimate the gain of means of predictions.

    Of these files, and of those kept without each fold.
    """
    survivors: list[tuple[Table, Table]] = []
    anew: list[tuple[Table, Table]] = []
    for parting in range(PARTINGS):
        folds = folds_of(could.labels, FOLDS, parting, could.groups)
        kept = could.kept((~np.stack(folds)).T.astype(np.float32))
        for found, epochs in ((survivors, [files] * len(folds)), (anew, kept)):
            tables = [could.read(each[:MOST]) for each in epochs]
            means = [(len(table), partial(_mean, table)) for table in tables]
            found.append(held_out(metric, could.labels, folds, means))
    first, second = (
        compare(metric, could.labels, [m for m, _ in found], [s for _, s in found], could.groups)
        for found in (survivors, anew)
    )
    return first, second


def corrected(soup: CrossFit, survivors: CrossFit, anew: CrossFit) -> CrossFit:
    """Subtract from a soup's gain the bias of the means of predictions; both have errors."""
    many = soup.score_ensemble - (survivors.score_ensemble - anew.score_ensemble)
    single = soup.score_single - (survivors.score_single - anew.score_single)
    gain = soup.gain - (survivors.gain - anew.gain)
    halves = [(each.gain_interval[1] - each.gain_interval[0]) / 2 for each in (soup, anew)]
    half = math.hypot(*halves)
    return CrossFit(many, single, gain, (gain - half, gain + half))


def _mean(tables: Table, members: Sequence[int]) -> Table:
    found: Table = tables[list(members)].mean(axis=0)
    return found
