"""What an epoch reached: predictions on the validation photos and the numbers made of them."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from trainers import temperature


class Metric(StrEnum):
    """The number by which weights are compared; `log_loss` is the one where less is better."""

    ACCURACY = "accuracy"
    BALANCED_ACCURACY = "balanced_accuracy"
    F1 = "f1"
    LOG_LOSS = "log_loss"

    @property
    def higher_is_better(self) -> bool:
        """Whether a greater score wins."""
        return self is not Metric.LOG_LOSS

    @property
    def classes_alike(self) -> bool:
        """Whether each class counts alike, however few photos it has."""
        return self in (Metric.BALANCED_ACCURACY, Metric.F1)

    def score_of(self, rank: tuple[float, float]) -> float | None:
        """Return the score that a rank stands for; None if it was no number."""
        return None if rank[0] == np.inf else -rank[0] if self.higher_is_better else rank[0]

    def rank(self, score: float, loss: float) -> tuple[float, float]:
        """Return a key that sorts the better first: by score, ties by loss. NaN comes last."""
        if np.isnan(score):
            return (np.inf, np.inf)
        return (-score if self.higher_is_better else score, np.inf if np.isnan(loss) else loss)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions on n photos of C classes: `labels` int64 (n,), `probabilities` float32 (n, C)."""

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]

    @classmethod
    def kept(
        cls,
        labels: NDArray[np.int64],
        predicted: NDArray[np.integer[Any]],
        probabilities: NDArray[np.float16],
    ) -> "Evaluation":
        """Make one of what was kept; rounded probabilities can tie, so `predicted` is told."""
        found = cls(labels, probabilities.astype(np.float32))
        vars(found)["predicted"] = predicted.astype(np.int64)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes as it is kept, without what can be worked out again."""
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
        return predicted

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Counts, shape (C, C): row is the true class, column the predicted one."""
        return confusion_matrix(self.labels, self.predicted, self.probabilities.shape[1])


def confusion_matrix(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], n_classes: int
) -> NDArray[np.int64]:
    """Count (true, predicted) pairs into shape (n_classes, n_classes)."""
    counts: NDArray[np.int64] = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


@dataclass(frozen=True)
class ClassNumbers:
    """One class's precision, recall, F1 and number of photos (0 where nothing is to divide)."""

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


def accuracy(confusion: NDArray[np.int64]) -> float:
    """Share of photos on the diagonal."""
    return float(np.trace(confusion) / confusion.sum())


def balanced_accuracy(confusion: NDArray[np.int64]) -> float:
    """Mean recall over the classes that have photos."""
    numbers = [numbers.recall for numbers in per_class(confusion) if numbers.photos]
    return float(np.mean(numbers))


def macro_f1(confusion: NDArray[np.int64]) -> float:
    """Mean F1 over the classes that have photos or predictions."""
    seen = (confusion.sum(axis=0) + confusion.sum(axis=1)) > 0
    return float(np.mean([numbers.f1 for numbers in np.array(per_class(confusion))[seen]]))


def log_loss(evaluation: Evaluation) -> float:
    """Mean negative logarithm of the true class's probability, at least 1e-7."""
    true = evaluation.probabilities[np.arange(len(evaluation.labels)), evaluation.labels]
    return float(-np.log(np.maximum(true, temperature.SMALLEST)).mean())


def calibrated_loss(evaluation: Evaluation, metric: Metric) -> float | None:
    """Log loss at the temperature that fits (see `temperature`); None without finite predictions.

    Classes count alike where they do in the metric. It is worked out of the probabilities as they
    are kept: an epoch that is told again, from a file, has the very same.
    """
    labels, kept = evaluation.labels, evaluation.probabilities.astype(np.float16)
    if not len(labels) or not np.isfinite(kept).all():
        return None
    weights = 1 / np.bincount(labels)[labels] if metric.classes_alike else None
    return temperature.calibrated_loss(labels, kept.astype(np.float32), weights)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


@dataclass(frozen=True, kw_only=True)
class EpochNumbers:
    """What one epoch of a stage reached, in numbers.

    `stage` counts from 0; `epoch` from 1 within the stage; `cycle` from 1. `lrs` are those at the
    epoch's first step. `seconds` cover training and validation; `images_per_second` training alone.
    `data_wait` is the share of `seconds` spent waiting for data, if it was measured. `micro_batch`
    is how many photos passed the network at once, where memory was too short for a whole batch:
    BatchNorm's statistics are then those of so many. `calibrated_loss` is the log loss at the
    temperature that fits, which orders epochs with less noise than accuracy does. It is None where
    it was not worked out: by an earlier Encore, or of predictions that are no numbers.
    """

    stage: int
    epoch: int
    cycle: int
    lrs: tuple[float, ...]
    train_loss: float
    valid_loss: float
    accuracy: float
    balanced_accuracy: float
    f1: float
    seconds: float
    images_per_second: float
    data_wait: float | None = None
    micro_batch: int | None = None
    calibrated_loss: float | None = None

    def score(self, metric: Metric) -> float:
        """Return this epoch's value of `metric`."""
        return float(self.valid_loss if metric is Metric.LOG_LOSS else getattr(self, metric.value))

    def rank(self, metric: Metric) -> tuple[float, float]:
        """Return the key that sorts the better epoch first: by `metric`, ties by loss."""
        return metric.rank(self.score(metric), self.valid_loss)


@dataclass(frozen=True, kw_only=True)
class EpochMetrics(EpochNumbers):
    """What a trainer yields: an epoch's numbers, and the predictions they are made of."""

    evaluation: Evaluation = field(repr=False, compare=False)

    @classmethod
    def of(
        cls,
        evaluation: Evaluation,
        *,
        stage: int,
        epoch: int,
        cycle: int,
        lrs: tuple[float, ...],
        train_loss: float,
        valid_loss: float,
        seconds: float,
        images_per_second: float,
        data_wait: float | None = None,
        micro_batch: int | None = None,
    ) -> "EpochMetrics":
        """Work out the scores from an evaluation."""
        return cls(
            stage=stage,
            epoch=epoch,
            cycle=cycle,
            lrs=lrs,
            train_loss=train_loss,
            valid_loss=valid_loss,
            accuracy=accuracy(evaluation.confusion),
            balanced_accuracy=balanced_accuracy(evaluation.confusion),
            f1=macro_f1(evaluation.confusion),
            seconds=seconds,
            images_per_second=images_per_second,
            data_wait=data_wait,
            micro_batch=micro_batch,
            evaluation=evaluation,
        )

    def calibrated(self, metric: Metric) -> Self:
        """Return the same with its `calibrated_loss`, by what counts in the metric."""
        return replace(self, calibrated_loss=calibrated_loss(self.evaluation, metric))
