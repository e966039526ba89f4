"""Predictions on photos, and counts and losses computed from them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.temperature import SMALLEST


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions on n photos of C classes: `labels` int64 (n,), `probabilities` float32 (n, C).

    Where photos are asked several questions of C answers each, n rows are of photos and questions,
    and labels and predictions are numbered on from one question of a photo to its next.
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]

    @classmethod
    def kept(
        cls,
        labels: NDArray[np.int64],
        predicted: NDArray[np.integer[Any]],
        probabilities: NDArray[np.float16],
    ) -> "Evaluation":
        """Make one from stored data; rounded probabilities can tie, so `predicted` is given."""
        found = cls(labels, probabilities.astype(np.float32))
        vars(found)["predicted"] = predicted.astype(np.int64)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle only the stored data, without what can be recomputed."""
        few = self.predicted.astype(np.int32)
        return Evaluation.kept, (self.labels, few, self.probabilities.astype(np.float16))

    def __post_init__(self) -> None:
        """Check that there is a row of probabilities for each label."""
        if self.probabilities.ndim != 2 or len(self.labels) != len(self.probabilities):
            raise ValueError(
                f"probabilities must be {len(self.labels)} rows, one per label, "
                f"got shape {self.probabilities.shape}"
            )

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each photo, shape (n,)."""
        predicted: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        if self.questions > 1:
            predicted += self.labels - self.columns
        return predicted

    @property
    def questions(self) -> int:
        """How many questions a photo is asked."""
        return int(self.labels.max(initial=0)) // int(self.probabilities.shape[1]) + 1

    @property
    def columns(self) -> NDArray[np.int64]:
        """The column of the true answer's probability, (n,)."""
        return columns_of(self.labels, self.probabilities)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Counts, shape (C, C): row is the true class, column the predicted one."""
        return confusion_matrix(
            self.labels, self.predicted, self.questions * self.probabilities.shape[1]
        )

    def losses(self, *, stored: bool = False) -> NDArray[np.float32]:
        """Return each photo's log loss, (n,); if `stored`, of probabilities as files keep them."""
        rows, table = np.arange(len(self.labels)), self.probabilities
        if self.questions > 1:
            if stored:
                table = table.astype(np.float16).astype(np.float32)
            return negative_log(of_presence(table)[rows, self.columns])
        true = table[rows, self.columns]
        return negative_log(true.astype(np.float16).astype(np.float32) if stored else true)


def of_presence(table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return it, (..., 2), with what the second column leaves in the first.

    That of a label's absence is near 1, where files keep three digits; so labels that are present
    and absent can be ranked by what is kept.
    """
    return np.stack([1 - table[..., 1], table[..., 1]], axis=-1)


def columns_of(labels: NDArray[np.int64], probabilities: NDArray[Any]) -> NDArray[np.int64]:
    """Return where probabilities (..., C) of labels' questions have the labels, (n,)."""
    return np.asarray(labels % probabilities.shape[-1], np.int64)


def confusion_matrix(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], n_classes: int
) -> NDArray[np.int64]:
    """Count (true, predicted) pairs into shape (n_classes, n_classes)."""
    counts: NDArray[np.int64] = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


@dataclass(frozen=True)
class ClassNumbers:
    """One class's precision, recall, F1 and number of photos (0 for 0 / 0)."""

    precision: float
    recall: float
    f1: float
    photos: int


def per_class(confusion: NDArray[np.int64]) -> list[ClassNumbers]:
    """Return the numbers of each class of a confusion matrix (row: true, column: predicted)."""
    hits = np.diag(confusion).astype(float)
    predicted, photos = confusion.sum(axis=0), confusion.sum(axis=1)
    precision, recall = _ratio(hits, predicted), _ratio(hits, photos)
    f1 = _ratio(2 * hits, predicted + photos)
    return [
        ClassNumbers(float(p), float(r), float(f), int(n))
        for p, r, f, n in zip(precision, recall, f1, photos, strict=True)
    ]


def class_counts(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], n_classes: int
) -> list[NDArray[np.float64]]:
    """Count M predictions (M, n) of the same photos by class: hits, photos, predicted.

    Hits and predictions are of shape (C, M), photos (C, 1).
    """
    cells = predicted + n_classes * np.arange(len(predicted))[:, None]
    size = n_classes * len(predicted)
    named = np.bincount(cells.ravel(), minlength=size)
    hits = np.bincount(cells[predicted == labels], minlength=size)
    photos = np.bincount(labels, minlength=n_classes)
    counts = (hits.reshape(-1, n_classes).T, photos[:, None], named.reshape(-1, n_classes).T)
    return [each.astype(np.float64) for each in counts]


def negative_log(probabilities: NDArray[Any]) -> NDArray[Any]:
    """Return the log losses, in nats, of probabilities, which are at least `SMALLEST`."""
    found: NDArray[Any] = -np.log(np.maximum(probabilities, SMALLEST))
    return found


def _ratio(part: NDArray[np.float64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
