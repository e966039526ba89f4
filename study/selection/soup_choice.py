"""Which files make a soup, and what it gains on photos that had no say in that. Pure.

The files are there because all photos chose them, and deleted ones cannot be averaged. So a soup
cannot be chosen anew without a fold; but the mean of predictions can, as they are all stored. By
how much surviving files flatter that mean, they are taken to flatter the soup.
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
"""So many files are tried at most, the best: each costs a pass over all photos."""

FOLDS, PARTINGS = 5, 10

Mean = Callable[[Sequence[int]], Table]
"""Gives what the mean of some files predicts, (n, C)."""


def greedy_soup(order: Sequence[int], value: Callable[[Sequence[int]], float]) -> tuple[int, ...]:
    """Return the files whose mean is the soup: each, the best first, stays if it does not harm.

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
    """Choose which of so many files make the soup, by some of the photos, a mask (n,)."""

    def value(members: Sequence[int], by: Metric = metric) -> float:
        found = score(by, labels[photos], mean(members)[photos])
        return found if by.higher_is_better else -found

    order = sorted(range(files), key=lambda i: (-value([i]), -value([i], Metric.LOG_LOSS)))
    return greedy_soup(order, value)


def held_out(
    metric: Metric, labels: Labels, folds: Sequence[Mask], means: Sequence[tuple[int, Mean]]
) -> tuple[Table, Table]:
    """Return what the soup and the best file say of each photo, (n, C): the others chose them.

    `means` has for each fold how many files there are to choose from, and the mean of some.
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
    """Say what means of predictions gain: of these files, and of those kept without each fold."""
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
    """Take off a soup what having survived adds to the means of predictions; both may err."""
    many = soup.score_ensemble - (survivors.score_ensemble - anew.score_ensemble)
    single = soup.score_single - (survivors.score_single - anew.score_single)
    gain = soup.gain - (survivors.gain - anew.gain)
    halves = [(each.gain_interval[1] - each.gain_interval[0]) / 2 for each in (soup, anew)]
    half = math.hypot(*halves)
    return CrossFit(many, single, gain, (gain - half, gain + half))


def _mean(tables: Table, members: Sequence[int]) -> Table:
    found: Table = tables[list(members)].mean(axis=0)
    return found
