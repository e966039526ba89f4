"""Changes of studies, trials and weights files. Each function is part of a transaction."""

import zlib
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, delete, insert, select, update

from storage import names, rows, stage_runs
from storage.errors import StudyInUse
from storage.predictions import Form, shorten
from storage.records import (
    Checkpoint,
    Kind,
    Look,
    ManifestRecord,
    StageRun,
    State,
    StudyRecord,
    Trial,
)
from storage.tables import (
    CheckpointRow,
    CheckRow,
    DeletionRow,
    LookRow,
    ManifestRow,
    PredictionsRow,
    StageRunRow,
    StudyRow,
    TrialRow,
)


def create_study(connection: Connection, values: dict[str, Any]) -> StudyRecord:
    """Insert a study; StudyInUse if there is one of that name."""
    name = values["name"]
    if connection.execute(select(StudyRow.id).where(StudyRow.name == name)).first():
        # Another process has created it since the caller checked.
        raise StudyInUse(
            f"study {name!r} has just been created by another process; "
            "run the command again, or give another --study"
        )
    created = connection.execute(insert(StudyRow).values(values).returning(StudyRow))
    return rows.study(created.one())


def save_manifest(connection: Connection, manifest: ManifestRecord) -> None:
    """Insert a manifest; one of the same digest only gets its root updated."""
    same = ManifestRow.digest == manifest.digest
    moved = update(ManifestRow).where(same).values(root=manifest.root)
    if connection.execute(moved).rowcount:
        return
    document = zlib.compress(manifest.document.encode())
    new = insert(ManifestRow).values(digest=manifest.digest, root=manifest.root, document=document)
    connection.execute(new)


def save_check(connection: Connection, manifest_digest: str, document: str) -> None:
    """Replace the data gate's findings on a data set."""
    values = {"document": document, "made_at": datetime.now(UTC)}
    connection.execute(delete(CheckRow).where(CheckRow.manifest_digest == manifest_digest))
    connection.execute(insert(CheckRow).values(manifest_digest=manifest_digest, **values))


def add_trial(connection: Connection, values: dict[str, Any]) -> Trial:
    """Insert a trial, or return it if it is there; ValueError if another one has its number."""
    number = values["number"]
    same = (TrialRow.study_id == values["study_id"], TrialRow.number == number)
    found = connection.execute(select(TrialRow).where(*same)).first()
    if found and all(found._mapping[name] == value for name, value in values.items()):
        return rows.trial(found)
    if found:
        raise ValueError(f"number must be new to the study, got {number}")
    begun = {"seconds": 0.0, "started_at": datetime.now(UTC)}
    created = connection.execute(insert(TrialRow).values(values | begun).returning(TrialRow))
    return rows.trial(created.one())


def seal_stage_run(
    connection: Connection,
    stage_run_id: int,
    state: State,
    seconds: float,
    checkpoints: Sequence[Checkpoint],
) -> None:
    """End a stage run with its weights files, whose names are no longer pending."""
    stage_runs.end(connection, stage_run_id, state, seconds)
    stage_runs.replace_checkpoints(connection, stage_run_id, checkpoints)
    study_id = names.study_of(connection, stage_run_id)
    names.settle(connection, study_id, [kept.path for kept in checkpoints])


def take_stage_run(
    connection: Connection,
    run: StageRun,
    twin: StageRun,
    study: str,
    checkpoints: Sequence[Checkpoint],
) -> None:
    """End a stage run with the epochs, predictions and weights files of its twin in a study."""
    stage_runs.copy_epochs(connection, twin.id, run.id)
    stage_runs.copy_deletions(connection, twin.id, run.id, {kept.kind for kept in checkpoints})
    seal_stage_run(connection, run.id, State.COMPLETE, twin.seconds, checkpoints)
    mark = update(StageRunRow).where(StageRunRow.id == run.id).values(taken_from=study)
    connection.execute(mark)


def shorten_predictions(
    connection: Connection, stage_run_id: int, epoch: int, labels: NDArray[np.int64]
) -> None:
    """Keep two probabilities per photo of an epoch that has all, unless its row is damaged."""
    full = (
        PredictionsRow.stage_run_id == stage_run_id,
        PredictionsRow.epoch == epoch,
        PredictionsRow.form == Form.FULL,
    )
    blob = connection.execute(select(PredictionsRow.blob).where(*full)).scalar()
    if blob is None:
        return
    with suppress(ValueError):
        values = {"form": Form.COMPACT.value, "blob": shorten(blob, labels)}
        connection.execute(update(PredictionsRow).where(*full).values(values))


def delete_checkpoint(connection: Connection, stage_run_id: int, kind: Kind) -> int:
    """Delete the row of a weights file; return how many there were."""
    same = (CheckpointRow.stage_run_id == stage_run_id, CheckpointRow.kind == kind)
    return connection.execute(delete(CheckpointRow).where(*same)).rowcount


def retire_checkpoint(connection: Connection, checkpoint: Checkpoint, reason: str) -> None:
    """Replace a weights file's row by a deletion; its name is pending again."""
    if delete_checkpoint(connection, checkpoint.stage_run_id, checkpoint.kind):
        values = vars(checkpoint) | {"reason": reason, "deleted_at": datetime.now(UTC)}
        connection.execute(insert(DeletionRow).values(values))
        names.retire(connection, checkpoint)


def record_look(connection: Connection, look: Look) -> None:
    """Insert a look at the test photos."""
    connection.execute(insert(LookRow).values(vars(look)))
