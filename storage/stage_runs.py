"""Stage runs as they are trained. Each function is part of a transaction."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Connection, delete, insert, literal, select, update

from storage import rows
from storage.database import change_one
from storage.records import Checkpoint, Kind, StageRun, State, Trial
from storage.tables import (
    CheckpointRow,
    DeletionRow,
    EpochRow,
    PredictionsRow,
    StageRunRow,
    TrialStageRow,
)
from trainers.metrics import EpochMetrics

_HERE = ("stage_run_id", "epoch")
_NUMBERS = [column.name for column in EpochRow.__table__.columns if column.name not in _HERE]
"""The common fields of an epoch's row and its metrics."""


def begin(connection: Connection, trial: Trial, key: str, position: int) -> StageRun:
    """Return the stage run of that key, created if needed, and note that `trial` uses it."""
    same = (StageRunRow.study_id == trial.study_id, StageRunRow.key == key)
    found = connection.execute(select(StageRunRow).where(*same)).first()
    run = rows.stage_run(found) if found else _new(connection, trial, key, position)
    link = (TrialStageRow.trial_id == trial.id, TrialStageRow.position == position)
    connection.execute(delete(TrialStageRow).where(*link))
    values = {"trial_id": trial.id, "position": position, "stage_run_id": run.id}
    connection.execute(insert(TrialStageRow).values(values))
    return run


def end(connection: Connection, stage_run_id: int, state: State, seconds: float) -> None:
    """Store the result of a stage run; LookupError if there is none of that id."""
    finished_at = None if state is State.RUNNING else datetime.now(UTC)
    change = update(StageRunRow).where(StageRunRow.id == stage_run_id)
    values = change.values(
        state=state.value, seconds=seconds, finished_at=finished_at, taken_from=None
    )
    change_one(connection, values, "stage run", stage_run_id)


def stop(
    connection: Connection, stage_run_id: int, seconds: float, score: float, loss: float
) -> None:
    """End a stage run after its first folds, with score and calibrated loss on their photos."""
    end(connection, stage_run_id, State.PRUNED, seconds)
    found = update(StageRunRow).where(StageRunRow.id == stage_run_id)
    connection.execute(found.values(first_score=score, first_loss=loss))


def replace_checkpoints(
    connection: Connection, stage_run_id: int, checkpoints: Sequence[Checkpoint]
) -> None:
    """Replace the weights files of a stage run."""
    connection.execute(delete(CheckpointRow).where(CheckpointRow.stage_run_id == stage_run_id))
    if checkpoints:
        connection.execute(insert(CheckpointRow), [vars(kept) for kept in checkpoints])


def record(
    connection: Connection, stage_run_id: int, metrics: EpochMetrics, form: str, blob: bytes
) -> None:
    """Store an epoch, replacing itself and, unless the stage is sealed, later ones."""
    here = {"stage_run_id": stage_run_id, "epoch": metrics.epoch}
    numbers = {name: getattr(metrics, name) for name in _NUMBERS}
    query = select(StageRunRow.state).where(StageRunRow.id == stage_run_id)
    sealed = connection.execute(query).scalar() in (State.COMPLETE, State.PRUNED)
    number, mine = EpochRow.epoch, EpochRow.stage_run_id == stage_run_id
    again = number == metrics.epoch if sealed else number >= metrics.epoch
    connection.execute(delete(EpochRow).where(mine, again))  # and their predictions
    connection.execute(insert(EpochRow).values(here | numbers))
    connection.execute(insert(PredictionsRow).values(here | {"form": form, "blob": blob}))


def copy_epochs(connection: Connection, of: int, to: int) -> None:
    """Copy the epochs of a stage run, and their predictions, to another one."""
    _copy(connection, EpochRow, of, to)
    _copy(connection, PredictionsRow, of, to)


def copy_deletions(connection: Connection, of: int, to: int, there: Collection[Kind]) -> None:
    """Copy the deletions of a stage run, except of files `there`, to another one."""
    _copy(connection, DeletionRow, of, to, DeletionRow.kind.not_in(there))


def _copy(
    connection: Connection,
    row: type[EpochRow] | type[PredictionsRow] | type[DeletionRow],
    of: int,
    to: int,
    *which: ColumnElement[bool],
) -> None:
    names = [column.name for column in row.__table__.columns if column.name != "id"]
    values = [literal(to) if name == "stage_run_id" else getattr(row, name) for name in names]
    theirs = select(*values).where(row.stage_run_id == of, *which)
    connection.execute(insert(row).from_select(names, theirs))


def _new(connection: Connection, trial: Trial, key: str, position: int) -> StageRun:
    stage = trial.schedule.stages[position]
    values = {
        "study_id": trial.study_id,
        "key": key,
        "position": position,
        "seed": trial.seed,
        "image_size": stage.image_size,
        "epochs": stage.epochs,
        "state": State.RUNNING.value,
        "trial_number": trial.number,
        "seconds": 0.0,
        "started_at": datetime.now(UTC),
    }
    created = connection.execute(insert(StageRunRow).values(values).returning(StageRunRow))
    return rows.stage_run(created.one())
