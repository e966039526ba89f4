"""The pictures of a trial: its curves and its confusion matrix, as PNG."""

from collections.abc import Sequence
from io import BytesIO
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from storage.records import EpochRecord
from study.dashboard.notes import Predicted
from study.sanitizing import masked
from trainers.metrics import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES = 30
"""Of more classes, those with the most mistakes are shown."""

_DPI = 110
_BLUE, _ORANGE, _BAND = "#0072b2", "#d55e00", "#eef1f4"  # Okabe and Ito's
_LONGEST = 18
_DRAWING = Lock()  # matplotlib's fonts are not thread-safe


def draw_curves(epochs: Sequence[EpochRecord], metric: Metric, title: str) -> bytes:
    """Draw loss and score over a trial's epochs, with a band a stage and a line a new cycle."""
    from matplotlib.figure import Figure

    with _DRAWING:
        figure = Figure(figsize=(8, 5), dpi=_DPI, layout="constrained")
        losses, scores = figure.subplots(2, 1, sharex=True)
        steps = np.arange(1, len(epochs) + 1)
        losses.plot(steps, [each.train_loss for each in epochs], ".--", color=_BLUE, label="train")
        losses.plot(steps, [each.valid_loss for each in epochs], ".-", color=_ORANGE, label="valid")
        losses.set_ylabel("loss")
        losses.legend()
        scores.plot(steps, [each.score(metric) for each in epochs], ".-", color=_ORANGE)
        scores.set_ylabel(metric.value)
        scores.set_xlabel("epoch")
        scores.locator_params(axis="x", integer=True)
        for axes in (losses, scores):
            axes.spines[["top", "right"]].set_visible(False)
            for step, before, each in zip(steps[1:], epochs, epochs[1:], strict=False):
                if each.stage != before.stage:
                    axes.axvline(step - 0.5, color="#5b636b", linewidth=1.2)
                elif each.cycle != before.cycle:
                    axes.axvline(step - 0.5, color="#b9c0c7", linewidth=0.8, linestyle=":")
            for step, each in zip(steps, epochs, strict=True):
                if each.stage % 2:
                    axes.axvspan(step - 0.5, step + 0.5, color=_BAND, zorder=0, linewidth=0)
        figure.suptitle(title, fontsize=11)
        return _png(figure)


def draw_confusion(predicted: Predicted, title: str) -> bytes:
    """Draw a confusion matrix, its colours by the share of a class's photos."""
    from matplotlib.figure import Figure

    matrix = predicted.confusion
    wrong = matrix.sum(axis=1) + matrix.sum(axis=0) - 2 * np.diagonal(matrix)
    chosen = np.sort(np.argsort(-wrong, kind="stable")[:CLASSES])
    shown = matrix[np.ix_(chosen, chosen)]
    shares = shown / np.maximum(matrix[chosen].sum(axis=1, keepdims=True), 1)
    names = [_name(predicted.classes[index]) for index in chosen]
    side = min(9.0, 3.5 + 0.35 * len(names))
    with _DRAWING:
        figure = Figure(figsize=(side, side), dpi=_DPI, layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        ticks = range(len(names))
        axes.set_xticks(ticks, names, rotation=45, ha="right", parse_math=False)
        axes.set_yticks(ticks, names, parse_math=False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        for row, column in np.argwhere(shown):
            colour = "white" if shares[row, column] > 0.5 else "black"
            count = str(shown[row, column])
            axes.text(column, row, count, ha="center", va="center", color=colour, fontsize=9)
        axes.set_title(title, fontsize=11)
        return _png(figure)


def draw_words(text: str) -> bytes:
    """Draw a sentence where there is no picture."""
    from matplotlib.figure import Figure

    with _DRAWING:
        figure = Figure(figsize=(8, 2), dpi=_DPI)
        figure.text(0.5, 0.5, masked(text), ha="center", va="center", wrap=True).set_parse_math(
            False
        )
        return _png(figure)


def _name(text: str) -> str:
    clean = masked(text)
    return clean if len(clean) <= _LONGEST else clean[: _LONGEST - 1] + "\u2026"


def _png(figure: "Figure") -> bytes:
    stream = BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
