"""Which classes are misclassified as which, by the winner's best epoch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.predictions import StoredPredictions
from study.report.contents import Contents
from study.report.figures.style import Drawing, Panel, axis, figure, number, shown
from trainers.metrics import confusion_matrix, per_class

MOST_CLASSES, WITH_COUNTS, PHOTOS = 40, 25, 12
UNPREDICTED = "Once a trial has ended, its predictions are shown here."

_LIGHT = [[0, "#F2F5F7"], [0.02, "#DCE9F3"], [0.5, "#56A0D3"], [1, "#004B78"]]
_DARK = [[0, "#1F2226"], [0.02, "#22384A"], [0.5, "#2F78AD"], [1, "#A9D8F8"]]


def confusion(contents: Contents) -> Panel:
    """Draw the confusion matrix, a row for each true class; of many classes the most confused.

    Its colours are shares of a row; the layout's `meta.dark_scale` has those for a dark page.

    A cell's `customdata` is [true class, predicted class, photos], classes by index. `data` are the
    cells that have photos, mistakes first, the most frequent first: {true, predicted, count,
    photos}, where `photos` are indices into `Contents.photos` of up to `PHOTOS`: the most confident
    mistakes, or the least confident right predictions.
    """
    found = contents.predictions
    if found is None:
        return Panel(None, UNPREDICTED)
    if contents.questions > 1:
        return _each_label(contents)
    counts = confusion_matrix(contents.labels, found.predicted, len(contents.classes))
    some = _most_confused(counts)
    longest = 16 if len(some) > 10 else 24
    names = [shown(contents.classes[label], longest) for label in some]
    widest = min(longest, max(len(contents.classes[label]) for label in some))
    places = list(range(len(some)))
    ticks = {"tickvals": places, "ticktext": names, "showgrid": False}
    drawn = figure(
        [_heatmap(counts, some, names)],
        max(320, min(900, 140 + 28 * len(some) + 4 * widest)),
        xaxis=axis("predicted", **ticks, tickangle=-40 if len(some) * widest > 40 else 0),
        yaxis=axis("true", **ticks, autorange="reversed"),
        # Long names must leave room for the matrix: without room, plotly fails.
        meta={"min_width": 22 * len(some) + 7 * widest + 60, "dark_scale": _DARK},
    )
    wrong = int(counts.sum() - np.trace(counts))
    said = (
        f"{wrong} of {counts.sum()} validation photos are misclassified; colours are by row share"
    )
    if len(some) < len(counts):
        said += f"; shown are the {len(some)} classes that are confused most, of {len(counts)}"
    return Panel(drawn, said + ".", _cells(contents, found, some))


def _each_label(contents: Contents) -> Panel:
    """Draw a table of the labels: how often each is found, missed and wrongly named."""
    found = contents.predictions
    rows = [] if found is None else _label_rows(contents, found)
    heads = ("label", "photos", "found", "missed", "wrongly named", "recall", "precision", "F1")
    columns = [
        [shown(row["name"]) for row in rows],
        [row["photos"] for row in rows],
        [row["found"] for row in rows],
        [row["photos"] - row["found"] for row in rows],
        [row["predicted"] - row["found"] for row in rows],
        *([row[name] for row in rows] for name in ("recall", "precision", "f1")),
    ]
    table = {
        "type": "table",
        "header": {"values": list(heads), "align": "left"},
        "cells": {"values": columns, "align": "left"},
    }
    said = "At a probability of a half for each label, on the validation photos."
    return Panel(figure([table], min(900, 140 + 24 * len(rows))), said)


def _label_rows(contents: Contents, found: StoredPredictions) -> list[dict[str, Any]]:
    """Return the numbers of each label as `class_table` has them, and how often it is found."""
    counts = confusion_matrix(contents.labels, found.predicted, 2 * contents.questions)
    rows = [
        {
            "index": label,
            "name": contents.classes[label],
            "photos": numbers.photos,
            "found": int(counts[2 * label + 1, 2 * label + 1]),
            "predicted": int(counts[:, 2 * label + 1].sum()),
            "recall": number(numbers.recall, 3),
            "precision": number(numbers.precision, 3),
            "f1": number(numbers.f1, 3),
            "taken_for": None,
            "times": 0,
        }
        for label, numbers in enumerate(per_class(counts)[1::2])
    ]
    return sorted(rows, key=lambda row: (row["recall"], row["index"]))


def _heatmap(
    counts: NDArray[np.int64], some: Sequence[int], names: Sequence[str]
) -> dict[str, Any]:
    """Return the matrix of some classes, coloured by shares of a row."""
    part = counts[np.ix_(some, some)]
    shares = part / np.maximum(counts[some].sum(axis=1, keepdims=True), 1)
    places = list(range(len(some)))
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": places,
        "y": places,
        "z": [[number(share, 3) for share in row] for row in shares.tolist()],
        "text": [[count or "" for count in row] for row in part.tolist()],
        "customdata": [
            [[true, predicted, int(counts[true, predicted])] for predicted in some] for true in some
        ],
        "hovertext": [
            [f"{true}, misclassified as {predicted}" for predicted in names] for true in names
        ],
        "hovertemplate": "%{hovertext}<br>%{customdata[2]} photos, %{z:.1%}<extra></extra>",
        "zmin": 0,
        "zmax": 1,
        "colorscale": _LIGHT,
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
    }
    if len(some) <= WITH_COUNTS:
        trace["texttemplate"] = "%{text}"
    return trace


def class_table(contents: Contents) -> Panel:
    """Return the numbers of each class, the weakest recall first; there is no figure.

    `data` are {index, name, photos, predicted, recall, precision, f1, taken_for, times}:
    `taken_for` is the class by which its photos are missed most often, or None.
    """
    found = contents.predictions
    if found is None:
        return Panel(None, UNPREDICTED)
    if contents.questions > 1:
        return Panel(None, "The labels, the most often missed first.", _label_rows(contents, found))
    counts = confusion_matrix(contents.labels, found.predicted, len(contents.classes))
    missed = counts - np.diag(np.diag(counts))
    rows = []
    for label, numbers in enumerate(per_class(counts)):
        other = int(missed[label].argmax())
        times = int(missed[label, other])
        rows.append(
            {
                "index": label,
                "name": contents.classes[label],
                "photos": numbers.photos,
                "predicted": int(counts[:, label].sum()),
                "recall": number(numbers.recall),
                "precision": number(numbers.precision),
                "f1": number(numbers.f1),
                "taken_for": contents.classes[other] if times else None,
                "times": times,
            }
        )
    rows.sort(key=lambda row: (row["recall"], row["index"]))
    return Panel(None, f"{len(rows)} classes, the most often missed first.", rows)


def _most_confused(counts: NDArray[np.int64]) -> list[int]:
    missed = counts - np.diag(np.diag(counts))
    blamed = missed.sum(axis=0) + missed.sum(axis=1)
    order = np.argsort(-blamed, kind="stable")[:MOST_CLASSES]
    return sorted(order.tolist())


def _cells(contents: Contents, found: StoredPredictions, some: list[int]) -> list[dict[str, Any]]:
    labels, predicted = contents.labels, found.predicted
    sure = np.nan_to_num(found.confidence)
    cells = []
    photos: dict[tuple[int, int], list[int]] = {}
    for place, pair in enumerate(zip(labels.tolist(), predicted.tolist(), strict=True)):
        photos.setdefault(pair, []).append(place)
    inside = set(some)
    for (true, answer), mine in photos.items():
        if true not in inside or answer not in inside:
            continue
        sign = 1 if true == answer else -1
        mine.sort(key=lambda place, sign=sign: sign * sure[place])  # type: ignore[misc]
        cells.append(
            {"true": true, "predicted": answer, "count": len(mine), "photos": mine[:PHOTOS]}
        )
    return sorted(cells, key=lambda c: (c["true"] == c["predicted"], -c["count"], c["true"]))


FIGURES = (
    Drawing("confusion", "classes", "Confusion matrix", confusion),
    Drawing("classes", "", "", class_table),
)
