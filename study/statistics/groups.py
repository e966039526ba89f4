"""Photos of one group, such as one patient's, are not independent: groups are counted. Pure."""

import numpy as np
from numpy.typing import NDArray

Groups = NDArray[np.int64]
"""The number of each photo's group, shape (n,), from 0 on, none left out."""

PRIOR = 0.5
"""A prior, worth half a group, that a group's photos are all right or all wrong together.

In simulations of 100 and 300 photos in groups of 5 and 20, coverage was then at least 95 %
(tests/unit/test_grouped.py); without it 90 % if errors are few.
"""


def labels_of(labels: NDArray[np.int64], groups: Groups) -> NDArray[np.int64]:
    """Return the class that most photos of each group have, shape (m,)."""
    counts = np.zeros((groups.max() + 1, labels.max() + 1), np.int64)
    np.add.at(counts, (groups, labels), 1)
    return np.asarray(counts.argmax(axis=1), np.int64)


def of_groups(values: NDArray[np.float64], groups: Groups | None) -> NDArray[np.float64]:
    """Return a value per group, (..., m), in place of one per photo, (..., n).

    Their mean is the photos', and their variance over m is that of a mean of clusters of any sizes:
    a group's deviations from the mean are summed before squaring (the ratio estimator, linearised;
    Cochran, Sampling techniques, 1977). Without groups, values are unchanged.
    """
    if groups is None:
        return values
    sizes = np.bincount(groups)
    mean = values.mean(axis=-1, keepdims=True)
    starts = np.cumsum(sizes) - sizes
    order = np.argsort(groups, kind="stable")
    sums = np.add.reduceat((values - mean)[..., order], starts, axis=-1)
    found: NDArray[np.float64] = mean + sums * (len(sizes) / len(groups))
    return found


def design_effect(values: NDArray[np.float64], groups: Groups | None) -> float:
    """Return the design effect.

    The variance of the mean of `values` (n,), relative to ungrouped photos. The effective number of
    photos is smaller by this factor (Kish 1965). With few groups the correlation within them is
    hardly known, so a prior towards 1 is added, which matters less the more groups contribute: all
    if they do so evenly, and one if a single group deviates from the mean. The variance itself is
    an estimate, which Student's t accounts for (Korn and Graubard 1998).
    """
    # Student's t; importing scipy.stats would take another second
    from scipy.special import stdtrit

    if groups is None:
        return 1.0
    sizes = np.bincount(groups)
    n, m = len(groups), len(sizes)
    most = float(np.square(sizes).sum()) / n  # as many as there are photos in a group of n / m
    squares = np.square(np.bincount(groups, values - values.mean()))
    telling = correlation = 0.0
    if squares.sum() > 0 and most > 1:
        telling = float(squares.sum() ** 2 / np.square(squares).sum())
        ratio = m / (m - 1) * squares.sum() / n / values.var(ddof=1)
        correlation = min(max((float(ratio) - 1) / (most - 1), 0.0), 1.0)
    correlation = (telling * correlation + PRIOR) / (telling + PRIOR)
    t = float(stdtrit(m - 1, 0.975) / stdtrit(np.inf, 0.975))
    return (1 + (most - 1) * correlation) * t**2
