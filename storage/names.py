"""Names in a study's vault, each given once. Each function is part of a transaction.

As none is given again, who comes too late to delete a file finds no other one under its name.
"""

from collections.abc import Collection

from sqlalchemy import Connection, insert, select, update

from storage.records import Checkpoint
from storage.tables import DeletionRow, NameRow, StageRunRow


def note(connection: Connection, study_id: int, path: str, sha256: str | None) -> bool:
    """Note a name before anything has it; False if it was ever given.

    The very same note is no other one: it was made, and the answer was lost.
    """
    mine = (NameRow.study_id == study_id, NameRow.path == path)
    if found := connection.execute(select(NameRow).where(*mine)).first():
        again = found.pending and found.sha256 == sha256
        return again and not _was_retired(connection, study_id, path)
    values = {"study_id": study_id, "path": path, "sha256": sha256, "pending": True}
    connection.execute(insert(NameRow).values(values))
    return True


def settle(connection: Connection, study_id: int, paths: Collection[str]) -> None:
    """Say that what has these names has its row, or is gone."""
    mine = (NameRow.study_id == study_id, NameRow.path.in_(paths))
    connection.execute(update(NameRow).where(*mine).values(pending=False))


def retire(connection: Connection, checkpoint: Checkpoint) -> None:
    """Say that a file is about to be deleted; those of an earlier Encore were never noted."""
    study_id = study_of(connection, checkpoint.stage_run_id)
    if not note(connection, study_id, checkpoint.path, checkpoint.sha256):
        mine = (NameRow.study_id == study_id, NameRow.path == checkpoint.path)
        connection.execute(update(NameRow).where(*mine).values(pending=True))


def _was_retired(connection: Connection, study_id: int, path: str) -> bool:
    """Tell whether a name waits for its file to be deleted, and not to appear."""
    query = (
        select(DeletionRow.id)
        .join(StageRunRow, StageRunRow.id == DeletionRow.stage_run_id)
        .where(StageRunRow.study_id == study_id, DeletionRow.path == path)
    )
    return connection.execute(query).first() is not None


def study_of(connection: Connection, stage_run_id: int) -> int:
    """Return the study that a stage run is of."""
    query = select(StageRunRow.study_id).where(StageRunRow.id == stage_run_id)
    return connection.execute(query).scalar_one()
