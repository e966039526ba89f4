"""From a database row to a record, one function per record."""

import math
import zlib
from typing import Any

from sqlalchemy import Row

from storage.errors import RowDamaged
from storage.predictions import Form
from storage.records import (
    Checkpoint,
    Deletion,
    EpochRecord,
    KeptPredictions,
    Kind,
    Look,
    ManifestRecord,
    Owner,
    Pending,
    RankedTrial,
    Role,
    StageRun,
    State,
    StudyRecord,
    Trial,
)
from trainers.metrics import Metric


def study(row: Row[Any]) -> StudyRecord:
    """Read a row of encore_studies."""
    return StudyRecord(
        id=row.id,
        name=row.name,
        metric=Metric(row.metric),
        manifest_digest=row.manifest_digest,
        config=row.config,
        space=row.space,
        created_at=row.created_at,
        used_at=row.used_at,
        identity=row.identity,
        folder=row.folder,
    )


def manifest(row: Row[Any]) -> ManifestRecord:
    """Read a row of encore_manifests."""
    try:
        document = zlib.decompress(row.document).decode()
    except (zlib.error, ValueError) as error:
        raise RowDamaged(
            f"manifest {row.digest} in the database is damaged ({error}); restore it from a copy"
        ) from None
    return ManifestRecord(digest=row.digest, root=row.root, document=document)


def trial(row: Row[Any]) -> Trial:
    """Read a row of encore_trials."""
    return Trial(
        id=row.id,
        study_id=row.study_id,
        number=row.number,
        schedule_json=row.schedule,
        seed=row.seed,
        role=Role(row.role),
        state=State(row.state),
        score=row.score,
        loss=row.loss,
        best_stage_run=row.best_stage_run,
        best_epoch=row.best_epoch,
        failure=row.failure,
        seconds=row.seconds,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def stage_run(row: Row[Any]) -> StageRun:
    """Read a row of encore_stage_runs."""
    return StageRun(
        id=row.id,
        study_id=row.study_id,
        key=row.key,
        position=row.position,
        seed=row.seed,
        image_size=row.image_size,
        epochs=row.epochs,
        state=State(row.state),
        trial_number=row.trial_number,
        seconds=row.seconds,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def epoch(row: Row[Any]) -> EpochRecord:
    """Read a row of encore_epochs, with the `position` of its stage run."""
    return EpochRecord(
        stage_run_id=row.stage_run_id,
        stage=row.position,
        epoch=row.epoch,
        cycle=row.cycle,
        lrs=tuple(row.lrs),
        train_loss=_number(row.train_loss),
        valid_loss=_number(row.valid_loss),
        accuracy=_number(row.accuracy),
        balanced_accuracy=_number(row.balanced_accuracy),
        f1=_number(row.f1),
        seconds=row.seconds,
        images_per_second=row.images_per_second,
        data_wait=row.data_wait,
        micro_batch=row.micro_batch,
        calibrated_loss=row.calibrated_loss,
        own_score=row.own_score,
    )


def checkpoint(row: Row[Any]) -> Checkpoint:
    """Read a row of encore_checkpoints."""
    return Checkpoint(
        stage_run_id=row.stage_run_id,
        kind=Kind(row.kind),
        path=row.path,
        sha256=row.sha256,
        size=row.size,
        epoch=row.epoch,
        score=row.score,
    )


def deletion(row: Row[Any]) -> Deletion:
    """Read a row of encore_deletions."""
    return Deletion(**vars(checkpoint(row)), reason=row.reason, deleted_at=row.deleted_at)


def ranked(row: Row[Any]) -> RankedTrial:
    """Read a row of encore_trials, beside which `kept_...` are its best checkpoint's columns."""
    if row.kept_path is None:
        return RankedTrial(trial=trial(row), checkpoint=None)
    kept = Checkpoint(
        stage_run_id=row.kept_stage_run_id,
        kind=Kind(row.kept_kind),
        path=row.kept_path,
        sha256=row.kept_sha256,
        size=row.kept_size,
        epoch=row.kept_epoch,
        score=row.kept_score,
    )
    return RankedTrial(trial=trial(row), checkpoint=kept)


def owner(row: Row[Any]) -> Owner:
    """Read a row of encore_owners."""
    return Owner(
        study_id=row.study_id,
        host=row.host,
        pid=row.pid,
        born=row.born,
        token=row.token,
        command=row.command,
        started_at=row.started_at,
        heartbeat_at=row.heartbeat_at,
    )


def pending(row: Row[Any]) -> Pending:
    """Read a row of encore_names."""
    return Pending(row.path, row.sha256)


def kept_predictions(row: Row[Any]) -> KeptPredictions:
    """Read a row of encore_predictions, with its `size` and whether it `leads`."""
    return KeptPredictions(
        stage_run_id=row.stage_run_id,
        epoch=row.epoch,
        full=row.form == Form.FULL,
        leads=bool(row.leads),
        size=row.size,
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def look(row: Row[Any]) -> Look:
    """Read a row of encore_looks."""
    return Look(
        study_id=row.study_id,
        trial=row.trial,
        sha256=row.sha256,
        criterion=row.criterion,
        score=row.score,
        errors=row.errors,
        photos=row.photos,
        looked_at=row.looked_at,
    )
