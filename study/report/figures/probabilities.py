"""The winner's probabilities, raw and calibrated, and their calibration error."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.report.contents import Contents
from study.report.figures.confusion import UNPREDICTED
from study.report.figures.style import GREY, PALETTE, Drawing, Panel, figure, numbers, share_axis
from study.statistics.folds import Labels, deal
from trainers.decision import Decision
from trainers.temperature import fit_temperature

Probabilities = NDArray[np.float64]
"""Each photo's probability of each class, (n, C)."""

BINS, FOLDS = 10, 10
BIG = 400_000
"""Beyond this many probabilities a temperature is fitted on half the photos for the other half.

Ten fits would take seconds, and half the photos suffice.
"""


@dataclass(frozen=True, eq=False)
class Answers:
    """The winner's predictions for the validation photos: raw, and calibrated by a temperature.

    `labels` (n,); `plain` and `calibrated` (n, C): each photo's temperature was fitted without it.
    """

    labels: Labels
    plain: Probabilities
    calibrated: Probabilities


@lru_cache(maxsize=1)  # several figures use them
def answers_of(contents: Contents) -> tuple[Answers | None, str]:
    """Return the winner's predictions, or None and the reason why there are none."""
    found = contents.predictions
    if found is None:
        return None, UNPREDICTED
    if contents.questions > 1:
        return None, "Photos have several labels: these figures are of photos of one class each."
    if found.probabilities is None:
        return None, (
            "This needs the probabilities of all classes; with so many photos and classes only "
            "those of the true and the predicted class are stored."
        )
    if len(contents.labels) < 2:
        return None, "This needs at least 2 validation photos."
    if not np.isfinite(found.probabilities).all():
        return None, "Some of the winner's probabilities are not finite: its training diverged."
    plain = found.probabilities.astype(np.float64)
    return Answers(contents.labels, plain, _cross_fitted(contents, plain)), ""


def of_answers(draw: Callable[[Contents, Answers], Panel]) -> Callable[[Contents], Panel]:
    """Return what draws a figure of the winner's predictions, or says why there are none."""

    def drawn(contents: Contents) -> Panel:
        answers, why = answers_of(contents)
        return Panel(None, why) if answers is None else draw(contents, answers)

    return drawn


def reliability_diagram(_: Contents, answers: Answers) -> Panel:
    """Draw accuracy by confidence: the winner's predictions in bins of the predicted probability.

    Before and after a cross-fitted temperature (Guo et al. 2017). `data` are the expected
    calibration errors {before, after}: the mean distance
    of the top class's probability from how often it is right, over the bins (Naeini et al. 2015).
    """
    before, after = (_bins(answers.labels, table) for table in (answers.plain, answers.calibrated))
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "perfect",
            "x": [0, 1],
            "y": [0, 1],
            "line": {"color": GREY, "dash": "dot", "width": 1},
            "hoverinfo": "skip",
        },
        _curve("uncalibrated", before, PALETTE[0]),
        _curve("calibrated", after, PALETTE[1]),
    ]
    drawn = figure(traces, 420, xaxis=share_axis("confidence"), yaxis=share_axis("accuracy"))
    errors = {"before": _error(before), "after": _error(after)}
    was, now = (f"{100 * errors[when]:.1f} %" for when in ("before", "after"))
    said = (
        f"Expected calibration error {was}, after temperature scaling (fitted on other photos) "
        f"{now}; the larger a point, the more photos."
    )
    return Panel(drawn, said, {name: float(f"{e:.4g}") for name, e in errors.items()})


def _cross_fitted(contents: Contents, plain: Probabilities) -> Probabilities:
    labels, calibrated = contents.labels, np.empty(plain.shape)
    dealt = deal(labels, 2 if plain.size > BIG else FOLDS, 0, contents.groups)
    costs = Decision.plain(plain.shape[1]).costs
    for fold in np.unique(dealt):
        own = dealt == fold
        temperature = fit_temperature(labels[~own], plain[~own])
        calibrated[own] = Decision(costs, temperature).calibrated(plain[own])
    return calibrated


def _bins(labels: Labels, table: Probabilities) -> NDArray[np.float64]:
    """Return (photos, confidence, accuracy) of each bin that has photos, shape (b, 3)."""
    sure = table.max(axis=1)
    right = table.argmax(axis=1) == labels
    span = np.minimum((sure * BINS).astype(int), BINS - 1)
    photos, total, hits = (
        np.bincount(span, weights=weights, minlength=BINS) for weights in (None, sure, right)
    )
    full = photos > 0
    return np.stack([photos[full], total[full] / photos[full], hits[full] / photos[full]], axis=1)


def _error(bins: NDArray[np.float64]) -> float:
    photos, sure, right = bins.T
    return float((photos * np.abs(sure - right)).sum() / photos.sum())


def _curve(name: str, bins: NDArray[np.float64], colour: str) -> dict[str, Any]:
    photos, sure, right = bins.T
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": numbers(sure.tolist()),
        "y": numbers(right.tolist()),
        "customdata": photos.astype(int).tolist(),
        "marker": {
            "color": colour,
            "size": np.round(6 + 14 * np.sqrt(photos / photos.sum()), 1).tolist(),
        },
        "line": {"color": colour},
        "hovertemplate": "confidence %{x:.1%}, accuracy %{y:.1%}, %{customdata} photos"
        "<extra></extra>",
    }


FIGURES = (
    Drawing("reliability", "confidence", "Reliability", of_answers(reliability_diagram), place=1),
)
