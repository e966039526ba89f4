"""The questions to the database that a choice is made by: scores, predictions, looks."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, Executable, Row, and_, or_, select, tuple_

from storage import rows
from storage.database import reading
from storage.predictions import StoredPredictions, decode
from storage.records import Kind, Look, RankedTrial, State, StudyRecord, Trial
from storage.tables import (
    CheckpointRow,
    EpochRow,
    LookRow,
    PredictionsRow,
    StageRunRow,
    TrialRow,
    TrialStageRow,
)
from trainers.metrics import Metric

CHUNK = 100
"""So many (stage run, epoch) pairs go into one query: some SQLites take 999 values at most, and an
epoch's predictions may take some MB."""


class Scores:
    """Answers what concerns how good everything is; see `Reader` for the rest."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def close(self) -> None:
        """Let go of the database's connections."""
        self._engine.dispose()

    def ranking(self, study: StudyRecord) -> list[RankedTrial]:
        """Give the trials by their best epoch, the best first, each with that epoch's weights.

        Complete trials are all there; pruned ones where their weights are kept.
        """
        kept = [column.label(f"kept_{column.name}") for column in CheckpointRow.__table__.columns]
        query = (
            select(TrialRow, *kept)
            .outerjoin(
                CheckpointRow,
                and_(
                    CheckpointRow.stage_run_id == TrialRow.best_stage_run,
                    CheckpointRow.kind == Kind.BEST,
                    # Another trial may have trained the stage further, to better weights.
                    CheckpointRow.epoch == TrialRow.best_epoch,
                ),
            )
            .where(TrialRow.study_id == study.id)
            .where(
                or_(
                    TrialRow.state == State.COMPLETE,
                    and_(TrialRow.state == State.PRUNED, CheckpointRow.path.is_not(None)),
                )
            )
            .order_by(TrialRow.number)
        )
        found = [rows.ranked(row) for row in self._all(query)]
        return sorted(found, key=lambda ranked: _rank(study, ranked.trial))

    def ranks(self, study: StudyRecord) -> dict[int, tuple[float, float]]:
        """Give how good each stage run's best epoch is (see `Metric.rank`), by its id."""
        query = (
            select(
                EpochRow.stage_run_id.label("run"),
                _score_column(study.metric).label("score"),
                EpochRow.valid_loss.label("loss"),
            )
            .join(StageRunRow, StageRunRow.id == EpochRow.stage_run_id)
            .where(StageRunRow.study_id == study.id)
        )
        best: dict[int, tuple[float, float]] = {}
        for row in self._all(query):
            score = math.nan if row.score is None else row.score
            rank = study.metric.rank(score, math.inf if row.loss is None else row.loss)
            best[row.run] = min(best.get(row.run, rank), rank)
        return best

    def predictions(
        self, stage_run_id: int, epoch: int, labels: NDArray[np.int64]
    ) -> StoredPredictions:
        """Give an epoch's predictions; LookupError where the epoch was not recorded."""
        query = select(PredictionsRow.form, PredictionsRow.blob).where(
            PredictionsRow.stage_run_id == stage_run_id, PredictionsRow.epoch == epoch
        )
        found = self._first(query)
        if found is None:
            raise LookupError(f"stage run {stage_run_id} has no predictions of epoch {epoch}")
        return decode(found.form, found.blob, labels)

    def leading_epochs(self, study: StudyRecord, limit: int | None) -> list[tuple[int, int]]:
        """Give (stage run, epoch) of the best epochs of all trials that have ended, best first.

        So many at most; None gives all.
        """
        score = _score_column(study.metric)
        ended = (
            select(TrialStageRow.stage_run_id)
            .join(TrialRow, TrialRow.id == TrialStageRow.trial_id)
            .where(TrialRow.study_id == study.id)
            .where(TrialRow.state.in_([State.COMPLETE, State.PRUNED]))
        )
        query = (
            select(EpochRow.stage_run_id, EpochRow.epoch)
            .where(EpochRow.stage_run_id.in_(ended), score.is_not(None))
            .order_by(
                score.desc() if study.metric.higher_is_better else score,
                EpochRow.valid_loss,
                EpochRow.stage_run_id,
                EpochRow.epoch,
            )
            .limit(limit)
        )
        return [(row.stage_run_id, row.epoch) for row in self._all(query)]

    def predictions_of(
        self,
        epochs: Sequence[tuple[int | None, int | None]],
        labels: NDArray[np.int64],
        *,
        whole: bool = True,
    ) -> list[StoredPredictions]:
        """Give the predictions of each (stage run, epoch); LookupError if one has none.

        If not `whole`, all probabilities but two are left out: of many epochs they fill the memory.
        """
        here = tuple_(PredictionsRow.stage_run_id, PredictionsRow.epoch)
        found = {
            (row.stage_run_id, row.epoch): _decoded(row, labels, whole=whole)
            for start in range(0, len(epochs), CHUNK)
            for row in self._all(
                select(PredictionsRow).where(here.in_(epochs[start : start + CHUNK]))
            )
        }
        if missing := [pair for pair in epochs if pair not in found]:
            raise LookupError("stage run {} has no predictions of epoch {}".format(*missing[0]))
        return [found[pair] for pair in epochs]

    def looks(self, study_id: int) -> list[Look]:
        """Give every look at the test photos, in that order."""
        query = select(LookRow).where(LookRow.study_id == study_id).order_by(LookRow.id)
        return [rows.look(row) for row in self._all(query)]

    def _first(self, query: Executable) -> Row[Any] | None:
        with reading(self._engine) as connection:
            return connection.execute(query).first()

    def _all(self, query: Executable) -> list[Row[Any]]:
        with reading(self._engine) as connection:
            return list(connection.execute(query))


def _decoded(row: Row[Any], labels: NDArray[np.int64], *, whole: bool) -> StoredPredictions:
    found = decode(row.form, row.blob, labels)
    return found if whole else replace(found, probabilities=None)


def _score_column(metric: Metric) -> Any:
    if metric is Metric.LOG_LOSS:
        return EpochRow.valid_loss
    return getattr(EpochRow, metric.value)


def _rank(study: StudyRecord, trial: Trial) -> tuple[float, float]:
    score = math.nan if trial.score is None else trial.score
    return study.metric.rank(score, math.inf if trial.loss is None else trial.loss)
