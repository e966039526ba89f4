"""The numbers of an epoch."""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from trainers import temperature
from trainers.metrics.evaluation import Evaluation
from trainers.metrics.kinds import Metric


def calibrated_loss(evaluation: Evaluation, metric: Metric) -> float | None:
    """Log loss at the temperature that fits (see `temperature`); None without finite predictions.

    Classes count alike where they do in the metric. It is computed from the probabilities as they
    are stored, so that an epoch that is read from a file has the same value.
    """
    labels, kept = evaluation.labels, evaluation.probabilities.astype(np.float16)
    if not len(labels) or not np.isfinite(kept).all():
        return None
    weights = 1 / np.bincount(labels)[labels] if metric.classes_alike else None
    return temperature.calibrated_loss(evaluation.columns, kept.astype(np.float32), weights)


def f1_of(evaluation: Evaluation) -> float:
    """Return the mean F1 over classes, or over labels."""
    return (Metric.F1 if evaluation.questions == 1 else Metric.MACRO_F1).of(evaluation)


@dataclass(frozen=True, kw_only=True)
class EpochNumbers:
    """The numbers of one epoch of a stage.

    `stage` counts from 0; `epoch` from 1 within the stage; `cycle` from 1. `lrs` are those at the
    epoch's first step. `seconds` cover training and validation; `images_per_second` training alone.
    `data_wait` is the share of `seconds` spent waiting for data, if it was measured. `micro_batch`
    is how many photos passed the network at once, if memory was too short for a whole batch:
    BatchNorm's statistics are then of that many. `calibrated_loss` is the log loss at the
    temperature that fits, which orders epochs with less noise than accuracy does. It is None if it
    was not computed: by an earlier version, or for predictions that are not finite. `own_score` is
    the value of the search's metric, where that has no field here.
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
    own_score: float | None = None

    def score(self, metric: Metric) -> float:
        """Return this epoch's value of `metric`; NaN if it was not computed."""
        found = getattr(self, metric.field or "own_score")
        return float("nan") if found is None else float(found)

    def rank(self, metric: Metric) -> tuple[float, float]:
        """Return the key that sorts the better epoch first: by `metric`, ties by loss."""
        return metric.rank(self.score(metric), self.valid_loss)


@dataclass(frozen=True, kw_only=True)
class EpochMetrics(EpochNumbers):
    """A trainer's result of an epoch: its numbers and predictions."""

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
        """Compute the scores from an evaluation."""
        return cls(
            stage=stage,
            epoch=epoch,
            cycle=cycle,
            lrs=lrs,
            train_loss=train_loss,
            valid_loss=valid_loss,
            accuracy=Metric.ACCURACY.of(evaluation),
            balanced_accuracy=Metric.BALANCED_ACCURACY.of(evaluation),
            f1=f1_of(evaluation),
            seconds=seconds,
            images_per_second=images_per_second,
            data_wait=data_wait,
            micro_batch=micro_batch,
            evaluation=evaluation,
        )

    def score(self, metric: Metric) -> float:
        """Return this epoch's value of `metric`, from predictions as they are stored."""
        return super().score(metric) if metric.field else metric.of(self.evaluation, stored=True)

    def calibrated(self, metric: Metric) -> Self:
        """Return the same with the additional numbers for a search by `metric`."""
        own = None if metric.field else self.score(metric)
        loss = calibrated_loss(self.evaluation, metric)
        return replace(self, calibrated_loss=loss, own_score=own)
