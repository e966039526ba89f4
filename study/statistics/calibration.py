"""Calibration of probabilities: how far off are they? Pure."""

import numpy as np
from numpy.typing import NDArray

from study.statistics.folds import deal
from trainers.decision import Decision
from trainers.temperature import fit_temperature

Labels = NDArray[np.int64]
"""The true class of each photo, shape (n,)."""
Table = NDArray[np.float32] | NDArray[np.float64]
"""Each photo's probabilities as the network gave them, shape (n, C)."""


def reliability(
    labels: Labels, probabilities: Table, bins: int = 10, *, folds: int = 10, seed: int = 0
) -> tuple[float, float]:
    """Return the expected calibration error before and after a cross-fitted temperature.

    It is the mean distance of the top class's probability from how often it is right, over `bins`
    equal spans of that probability, weighed by their photos (Naeini et al. 2015).
    """
    classes = probabilities.shape[1]
    check_predictions(labels, probabilities, classes)
    calibrated, dealt = np.empty(probabilities.shape), deal(labels, folds, seed)
    for fold in np.unique(dealt):
        own = dealt == fold
        temperature = fit_temperature(labels[~own], probabilities[~own])
        rule = Decision(Decision.plain(classes).costs, temperature)
        calibrated[own] = rule.calibrated(probabilities[own])
    return _error(labels, probabilities, bins), _error(labels, calibrated, bins)


def _error(labels: Labels, probabilities: Table, bins: int) -> float:
    sure = probabilities.max(axis=1).astype(float)
    right = probabilities.argmax(axis=1) == labels
    span = np.minimum((sure * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(span, weights=sure - right)).sum() / len(labels))


def check_predictions(labels: Labels, probabilities: Table, n_classes: int) -> None:
    """Refuse what are no predictions on at least one photo of so many classes."""
    if probabilities.shape != (len(labels), n_classes) or not len(labels):
        raise ValueError(
            f"probabilities must be a row for each of at least 1 labels, with {n_classes} classes, "
            f"got shape {probabilities.shape} and {len(labels)} labels"
        )
    if not 0 <= labels.min() <= labels.max() < n_classes:
        raise ValueError(f"labels must be from 0 to {n_classes - 1}, got {labels.max()}")
    if not (np.isfinite(probabilities).all() and (probabilities >= 0).all()):
        raise ValueError("probabilities must be finite and at least 0")
