"""The queries of more than a line of SQL."""

from typing import Any

from sqlalchemy import ColumnElement, Executable, Select, and_, func, or_, select

from storage.records import Kind, State, StudyRecord
from storage.tables import (
    CheckpointRow,
    DeletionRow,
    EpochRow,
    PredictionsRow,
    StageRunRow,
    TrialRow,
    TrialStageRow,
)
from trainers.metrics import Metric


def trials(study_id: int) -> Select[Any]:
    """Ask for a study's trials in number order."""
    return select(TrialRow).where(TrialRow.study_id == study_id).order_by(TrialRow.number)


def ranking(study: StudyRecord) -> Select[Any]:
    """Select the trials that can be chosen, with their weights as `kept_...`.

    These are all complete trials, and pruned ones whose weights are kept.
    """
    kept = [column.label(f"kept_{column.name}") for column in CheckpointRow.__table__.columns]
    return (
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


def stage_runs_of(trial_id: int) -> Select[Any]:
    """Ask for the stage runs that a trial uses, in training order."""
    return (
        select(StageRunRow)
        .join(TrialStageRow, TrialStageRow.stage_run_id == StageRunRow.id)
        .where(TrialStageRow.trial_id == trial_id)
        .order_by(TrialStageRow.position)
    )


def trials_in_training(study_id: int) -> Executable:
    """Ask for the numbers of the trials that use a stage run which is begun and not ended."""
    return (
        select(TrialRow.number)
        .join(TrialStageRow, TrialStageRow.trial_id == TrialRow.id)
        .join(StageRunRow, StageRunRow.id == TrialStageRow.stage_run_id)
        .where(TrialRow.study_id == study_id, TrialRow.state == State.RUNNING)
        .where(StageRunRow.state == State.RUNNING)
    )


def links(study_id: int) -> Executable:
    """Ask for each trial's number and position, and the stage run's id there."""
    return (
        select(TrialRow.number, TrialStageRow.position, TrialStageRow.stage_run_id)
        .join(TrialRow, TrialRow.id == TrialStageRow.trial_id)
        .where(TrialRow.study_id == study_id)
    )


def seconds_by_trial(study_id: int) -> Executable:
    """Ask for each trial's number and the seconds of its stage runs."""
    return (
        select(TrialRow.number, func.sum(StageRunRow.seconds).label("seconds"))
        .join(TrialStageRow, TrialStageRow.trial_id == TrialRow.id)
        .join(StageRunRow, StageRunRow.id == TrialStageRow.stage_run_id)
        .where(TrialRow.study_id == study_id)
        .group_by(TrialRow.number)
    )


def epochs(condition: ColumnElement[bool]) -> Executable:
    """Ask for the epochs of the stage runs that meet a condition, each with its `position`."""
    return (
        select(EpochRow, StageRunRow.position)
        .join(StageRunRow, StageRunRow.id == EpochRow.stage_run_id)
        .where(condition)
        .order_by(StageRunRow.position, EpochRow.stage_run_id, EpochRow.epoch)
    )


def epochs_of_trial(trial_id: int) -> Executable:
    """Ask for the epochs of all stages of a trial, in training order."""
    used = select(TrialStageRow.stage_run_id).where(TrialStageRow.trial_id == trial_id)
    return epochs(StageRunRow.id.in_(used))


def seconds_of_epochs(study_id: int) -> Select[Any]:
    """Ask for the sum of the seconds of a study's epochs, but for those of other studies.

    Of stage runs that were stopped after their first folds, no epoch has a row.
    """
    epochs = (
        select(func.sum(EpochRow.seconds))
        .join(StageRunRow, StageRunRow.id == EpochRow.stage_run_id)
        .where(StageRunRow.study_id == study_id, StageRunRow.taken_from.is_(None))
    )
    stopped = select(func.sum(StageRunRow.seconds)).where(
        StageRunRow.study_id == study_id,
        StageRunRow.state == State.PRUNED,
        StageRunRow.first_loss.is_not(None),
    )
    both = [func.coalesce(each.scalar_subquery(), 0.0) for each in (epochs, stopped)]
    return select(both[0] + both[1])


def scores_of_epochs(study: StudyRecord) -> Select[Any]:
    """Ask for `score`, `loss` and `calibrated` loss of a study's epochs, each with its `run`."""
    return (
        select(
            EpochRow.stage_run_id.label("run"),
            score_column(study.metric).label("score"),
            EpochRow.valid_loss.label("loss"),
            EpochRow.calibrated_loss.label("calibrated"),
        )
        .join(StageRunRow, StageRunRow.id == EpochRow.stage_run_id)
        .where(StageRunRow.study_id == study.id)
        .order_by(EpochRow.stage_run_id, EpochRow.epoch)
    )


def leading_epochs(study: StudyRecord, limit: int | None) -> Executable:
    """Ask for the best epochs of all trials that have ended, best first, so many at most."""
    score = score_column(study.metric)
    ended = (
        select(TrialStageRow.stage_run_id)
        .join(TrialRow, TrialRow.id == TrialStageRow.trial_id)
        .where(TrialRow.study_id == study.id)
        .where(TrialRow.state.in_([State.COMPLETE, State.PRUNED]))
    )
    return (
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


def kept_predictions(study: StudyRecord) -> Select[Any]:
    """Ask for form and `size` of the predictions of all epochs, with `score`, `loss`, `leads`."""
    here = (PredictionsRow.stage_run_id, PredictionsRow.epoch)
    leads = select(TrialRow.id).where(
        TrialRow.best_stage_run == here[0], TrialRow.best_epoch == here[1]
    )
    return (
        select(
            *here,
            PredictionsRow.form,
            func.length(PredictionsRow.blob).label("size"),
            score_column(study.metric).label("score"),
            EpochRow.valid_loss.label("loss"),
            leads.exists().label("leads"),
        )
        .join(EpochRow, (EpochRow.stage_run_id == here[0]) & (EpochRow.epoch == here[1]))
        .join(StageRunRow, StageRunRow.id == here[0])
        .where(StageRunRow.study_id == study.id)
        .order_by(*here)
    )


def checkpoints(study_id: int) -> Select[Any]:
    """Ask for all weights files of a study."""
    return (
        select(CheckpointRow)
        .join(StageRunRow, StageRunRow.id == CheckpointRow.stage_run_id)
        .where(StageRunRow.study_id == study_id)
        .order_by(CheckpointRow.stage_run_id, CheckpointRow.kind)
    )


def deletions(study_id: int) -> Select[Any]:
    """Ask for the weights files of a study that were deleted on purpose, in that order."""
    return (
        select(DeletionRow)
        .join(StageRunRow, StageRunRow.id == DeletionRow.stage_run_id)
        .where(StageRunRow.study_id == study_id)
        .order_by(DeletionRow.id)
    )


def score_column(metric: Metric) -> Any:
    """Return the column of an epoch's score."""
    return getattr(EpochRow, metric.field or "own_score")
