"""Calibration of probabilities: the optimal temperature, and the log loss there. Pure."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALLEST = 1e-7
"""The minimum probability, since otherwise one photo could dominate a log loss."""

COOLEST, HOTTEST = 0.05, 20.0
"""The bounds of a temperature."""

_Labels = NDArray[np.int64]
_Table = NDArray[np.floating[Any]]


def fit_temperature(
    labels: _Labels, probabilities: _Table, weights: NDArray[np.float64] | None = None
) -> float:
    """Return the temperature under which the photos' log loss is least (Guo et al. 2017).

    Takes n labels, the (n, C) probabilities and, unless each photo counts alike, n weights. If all
    n are right, the plain loss would make the probabilities certain, and expensive mistakes would
    never be hedged against; so a share 1 / (n + 2) of each label is spread over all classes (after
    Platt 1999, with Laplace's share). On 20 photos this saves a quarter of the costs, on 300 it
    makes no difference. The loss is convex in 1 / temperature, so it is least where its slope is
    nought, or at a bound; 1 if it is the same everywhere.
    """
    return _fit(labels, _logs(probabilities), _shares(labels, weights))


def calibrated_loss(
    labels: _Labels, probabilities: _Table, weights: NDArray[np.float64] | None = None
) -> float:
    """Return the mean log loss, in nats, at the temperature that `fit_temperature` finds.

    If all n are right, the smoothing of that fit leaves a loss of the order of 1 / n; otherwise it
    hardly matters, as the loss is flat at its minimum. The same table gives a bit-identical loss:
    no matrix product of a multi-threaded library is used.
    """
    return float(
        (_shares(labels, weights) * calibrated_losses(labels, probabilities, weights)).sum()
    )


def calibrated_losses(
    labels: _Labels, probabilities: _Table, weights: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return each photo's log loss there, (n,); see `calibrated_loss`."""
    logs = _logs(probabilities)
    logs /= _fit(labels, logs, _shares(labels, weights))
    true = logs[np.arange(len(labels)), labels]
    found: NDArray[np.float64] = np.log(np.exp(logs).sum(axis=1)) - true
    return found


def _fit(labels: _Labels, logs: NDArray[np.float64], shares: NDArray[np.float64]) -> float:
    from scipy.optimize import brentq

    n, room = len(labels), np.empty_like(logs)
    right = (shares * logs[np.arange(n), labels]).sum()
    true = np.average([right, (shares * logs.mean(axis=1)).sum()], weights=[n + 1, 1])

    @cache  # brentq begins with the bounds, which are known by then
    def slope(sharpness: float) -> float:
        odds = np.exp(np.multiply(logs, sharpness, out=room), out=room)
        means = np.einsum("ij,ij->i", odds, logs) / odds.sum(axis=1)
        return float((shares * means).sum() - true)

    dull, sharp = slope(1 / HOTTEST), slope(1 / COOLEST)
    if abs(dull) < 1e-12 and abs(sharp) < 1e-12:
        return 1.0
    if dull >= 0 or sharp <= 0:
        return HOTTEST if dull >= 0 else COOLEST
    return float(1 / brentq(slope, 1 / HOTTEST, 1 / COOLEST))


def _logs(probabilities: _Table) -> NDArray[np.float64]:
    """Return the logarithms minus each photo's maximum."""
    logs = np.maximum(probabilities, SMALLEST).astype(np.float64, order="C")
    np.log(logs, out=logs)
    logs -= logs.max(axis=1, keepdims=True)
    return logs


def _shares(labels: _Labels, weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return each photo's weight, (n,), with sum 1."""
    return np.full(len(labels), 1 / len(labels)) if weights is None else weights / weights.sum()
