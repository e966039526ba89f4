"""From a database row to a record, one function per record."""

import math
import zlib
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Any, TypeVar

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

R = TypeVar("R")


def study(row: Row[Any]) -> StudyRecord:
    """Read a row of encore_studies."""
    return _record(StudyRecord, row, metric=Metric(row.metric))


def manifest(row: Row[Any]) -> ManifestRecord:
    """Read a row of encore_manifests."""
    try:
        document = zlib.decompress(row.document).decode()
    except (zlib.error, ValueError) as error:
        raise RowDamaged(
            f"manifest {row.digest} in the database is damaged ({error}); restore it from a copy"
        ) from None
    return _record(ManifestRecord, row, document=document)


def trial(row: Row[Any]) -> Trial:
    """Read a row of encore_trials."""
    state, role = State(row.state), Role(row.role)
    return _record(Trial, row, schedule_json=row.schedule, role=role, state=state)


def stage_run(row: Row[Any]) -> StageRun:
    """Read a row of encore_stage_runs."""
    return _record(StageRun, row, state=State(row.state))


def epoch(row: Row[Any]) -> EpochRecord:
    """Read a row of encore_epochs, with the `position` of its stage run."""
    numbers = {name: _number(row._mapping[name]) for name in _NUMBERS}
    return _record(EpochRecord, row, stage=row.position, lrs=tuple(row.lrs), **numbers)


def checkpoint(row: Row[Any]) -> Checkpoint:
    """Read a row of encore_checkpoints."""
    return _record(Checkpoint, row, kind=Kind(row.kind))


def deletion(row: Row[Any]) -> Deletion:
    """Read a row of encore_deletions."""
    return _record(Deletion, row, kind=Kind(row.kind))


def ranked(row: Row[Any]) -> RankedTrial:
    """Read a row of encore_trials, beside which `kept_...` are its best checkpoint's columns."""
    if row.kept_path is None:
        return RankedTrial(trial=trial(row), checkpoint=None)
    kept = {name: row._mapping[f"kept_{name}"] for name in _names(Checkpoint)}
    return RankedTrial(
        trial=trial(row), checkpoint=Checkpoint(**kept | {"kind": Kind(row.kept_kind)})
    )


def owner(row: Row[Any]) -> Owner:
    """Read a row of encore_owners."""
    return _record(Owner, row)


def pending(row: Row[Any]) -> Pending:
    """Read a row of encore_names."""
    return _record(Pending, row)


def kept_predictions(row: Row[Any]) -> KeptPredictions:
    """Read a row of encore_predictions, with its `size` and whether it `leads`."""
    return _record(KeptPredictions, row, full=row.form == Form.FULL, leads=bool(row.leads))


def look(row: Row[Any]) -> Look:
    """Read a row of encore_looks."""
    return _record(Look, row)


_NUMBERS = ("train_loss", "valid_loss", "accuracy", "balanced_accuracy", "f1")
"""The value of an epoch's numbers that are NULL: NaN."""


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _record(record: Callable[..., R], row: Row[Any], **others: Any) -> R:
    """Make a record from the columns named after its fields, except `others`."""
    columns = row._mapping
    same = {name: columns[name] for name in _names(record) if name not in others}
    return record(**same, **others)


@cache
def _names(record: Any) -> tuple[str, ...]:
    return tuple(each.name for each in fields(record))
