"""The questions to the database that a choice is made by: scores, predictions, looks."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, Executable, Row, and_, func, or_, select, tuple_

from storage import rows
from storage.database import reading
from storage.errors import DatabaseAway, DatabaseUnusable
from storage.predictions import Form, StoredPredictions, decode
from storage.records import KeptPredictions, Kind, Look, RankedTrial, State, StudyRecord, Trial
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

Place = tuple[int | None, int | None]
"""A stage run's id, and one of its epochs; a trial without a score has neither."""

CHUNK = 100
"""So many (stage run, epoch) pairs go into one query: some SQLites take 999 values at most."""


class Scores:
    """Answers what concerns how good everything is; see `Reader` for the rest."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def close(self) -> None:
        """Let go of the database's connections."""
        self._engine.dispose()

    def ranking(self, study: StudyRecord) -> list[RankedTrial]:
        """Return the trials by their best epoch, the best first, each with that epoch's weights.

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
        """Return how good each stage run's best epoch is (see `Metric.rank`), by its id."""
        return {run: rank for run, (rank, _) in self._bests(study).items()}

    def calibrated_losses(self, study: StudyRecord) -> dict[int, float]:
        """Return that of each stage run's best epoch, where it was worked out, by its id."""
        return {run: loss for run, (_, loss) in self._bests(study).items() if loss is not None}

    def _bests(self, study: StudyRecord) -> dict[int, tuple[tuple[float, float], float | None]]:
        """Return rank and calibrated loss of each stage run's best epoch, the first of equals."""
        query = (
            select(
                EpochRow.stage_run_id.label("run"),
                _score_column(study.metric).label("score"),
                EpochRow.valid_loss.label("loss"),
                EpochRow.calibrated_loss.label("calibrated"),
            )
            .join(StageRunRow, StageRunRow.id == EpochRow.stage_run_id)
            .where(StageRunRow.study_id == study.id)
            .order_by(EpochRow.stage_run_id, EpochRow.epoch)
        )
        best: dict[int, tuple[tuple[float, float], float | None]] = {}
        for row in self._all(query):
            rank = _ranked(study, row.score, row.loss)
            if row.run not in best or rank < best[row.run][0]:
                best[row.run] = rank, row.calibrated
        return best

    def predictions(
        self, stage_run_id: int, epoch: int, labels: NDArray[np.int64]
    ) -> StoredPredictions:
        """Return an epoch's predictions; LookupError where the epoch was not recorded."""
        query = select(PredictionsRow.form, PredictionsRow.blob).where(
            PredictionsRow.stage_run_id == stage_run_id, PredictionsRow.epoch == epoch
        )
        found = self._first(query)
        if found is None:
            raise LookupError(f"stage run {stage_run_id} has no predictions of epoch {epoch}")
        return decode(found.form, found.blob, labels)

    def leading_epochs(self, study: StudyRecord, limit: int | None) -> list[tuple[int, int]]:
        """Return (stage run, epoch) of the best epochs of all trials that have ended, best first.

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
        epochs: Sequence[Place],
        labels: NDArray[np.int64],
        *,
        whole: bool = True,
    ) -> list[StoredPredictions]:
        """Return the predictions of each (stage run, epoch); LookupError if one has none.

        If not `whole`, all probabilities but two are left out: of many epochs they fill the memory.
        """
        found = self.readable_predictions(epochs, labels, whole=whole)
        if missing := [pair for pair in epochs if pair not in found]:
            raise LookupError("stage run {} has no predictions of epoch {}".format(*missing[0]))
        return [found[pair] for pair in epochs]

    def readable_predictions(
        self, epochs: Sequence[Place], labels: NDArray[np.int64], *, whole: bool = True
    ) -> dict[Place, StoredPredictions]:
        """Return the predictions of those (stage run, epoch) that have any, and undamaged."""
        found: dict[Place, StoredPredictions] = {}
        for start in range(0, len(epochs), CHUNK):
            for row in self._undamaged(epochs[start : start + CHUNK]):
                with suppress(ValueError):
                    found[row.stage_run_id, row.epoch] = _decoded(row, labels, whole=whole)
        return found

    def damaged_predictions(
        self, epochs: Sequence[Place], labels: NDArray[np.int64]
    ) -> list[Place]:
        """Return those (stage run, epoch) whose predictions are missing or cannot be read."""
        damaged: list[Place] = []
        for start in range(0, len(epochs), CHUNK):
            chunk = epochs[start : start + CHUNK]
            found = self.readable_predictions(chunk, labels, whole=False)
            damaged += [pair for pair in chunk if pair not in found]
        return damaged

    def _undamaged(self, epochs: Sequence[Place]) -> Iterator[Row[Any]]:
        """Return the rows that the database can read: a damaged page costs those on it alone."""
        here = tuple_(PredictionsRow.stage_run_id, PredictionsRow.epoch)
        try:
            yield from self._each(select(PredictionsRow).where(here.in_(epochs)))
        except DatabaseAway:
            raise
        except DatabaseUnusable:
            if len(epochs) > 1:
                for pair in epochs:
                    yield from self._undamaged([pair])

    def kept_predictions(self, study: StudyRecord) -> list[KeptPredictions]:
        """Return how the predictions of all epochs are kept, those of the best epochs first."""
        score = _score_column(study.metric)
        here = (PredictionsRow.stage_run_id, PredictionsRow.epoch)
        leads = select(TrialRow.id).where(
            TrialRow.best_stage_run == here[0], TrialRow.best_epoch == here[1]
        )
        query = (
            select(
                *here,
                PredictionsRow.form,
                func.length(PredictionsRow.blob).label("size"),
                score.label("score"),
                EpochRow.valid_loss.label("loss"),
                leads.exists().label("leads"),
            )
            .join(EpochRow, (EpochRow.stage_run_id == here[0]) & (EpochRow.epoch == here[1]))
            .join(StageRunRow, StageRunRow.id == here[0])
            .where(StageRunRow.study_id == study.id)
            .order_by(*here)
        )
        found = self._all(query)
        found.sort(key=lambda row: _ranked(study, row.score, row.loss))
        return [
            KeptPredictions(
                stage_run_id=row.stage_run_id,
                epoch=row.epoch,
                full=row.form == Form.FULL,
                leads=bool(row.leads),
                size=row.size,
            )
            for row in found
        ]

    def looks(self, study_id: int) -> list[Look]:
        """Return every look at the test photos, in that order."""
        query = select(LookRow).where(LookRow.study_id == study_id).order_by(LookRow.id)
        return [rows.look(row) for row in self._all(query)]

    def _first(self, query: Executable) -> Row[Any] | None:
        with reading(self._engine) as connection:
            return connection.execute(query).first()

    def _each(self, query: Executable) -> Iterator[Row[Any]]:
        """Return one row after the other: all at once they may fill the memory."""
        with reading(self._engine) as connection:
            yield from connection.execution_options(yield_per=1).execute(query)

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
    return _ranked(study, trial.score, trial.loss)


def _ranked(study: StudyRecord, score: float | None, loss: float | None) -> tuple[float, float]:
    score = math.nan if score is None else score
    return study.metric.rank(score, math.inf if loss is None else loss)
