"""Names in a study's vault, each used once. Each function is part of a transaction.

As no name is reused, a process that deletes a file too late cannot delete another one.
"""

from collections.abc import Collection

from sqlalchemy import Connection, insert, select, update

from storage.records import Checkpoint
from storage.tables import DeletionRow, NameRow, StageRunRow


def note(connection: Connection, study_id: int, path: str, sha256: str | None) -> bool:
    """Note a name before its file exists; False if it was ever used.

    The same note may be made again: then the response to the first was lost.
    """
    mine = (NameRow.study_id == study_id, NameRow.path == path)
    if found := connection.execute(select(NameRow).where(*mine)).first():
        again = found.pending and found.sha256 == sha256
        return again and not _was_retired(connection, study_id, path)
    values = {"study_id": study_id, "path": path, "sha256": sha256, "pending": True}
    connection.execute(insert(NameRow).values(values))
    return True


def settle(connection: Connection, study_id: int, paths: Collection[str]) -> None:
    """Note that the files of these names have rows, or are gone."""
    mine = (NameRow.study_id == study_id, NameRow.path.in_(paths))
    connection.execute(update(NameRow).where(*mine).values(pending=False))


def retire(connection: Connection, checkpoint: Checkpoint) -> None:
    """Note that a file is about to be deleted; files of an earlier version were never noted."""
    study_id = study_of(connection, checkpoint.stage_run_id)
    if not note(connection, study_id, checkpoint.path, checkpoint.sha256):
        mine = (NameRow.study_id == study_id, NameRow.path == checkpoint.path)
        connection.execute(update(NameRow).where(*mine).values(pending=True))


def _was_retired(connection: Connection, study_id: int, path: str) -> bool:
    """Return whether a pending name's file is to be deleted, rather than written."""
    query = (
        select(DeletionRow.id)
        .join(StageRunRow, StageRunRow.id == DeletionRow.stage_run_id)
        .where(StageRunRow.study_id == study_id, DeletionRow.path == path)
    )
    return connection.execute(query).first() is not None


def study_of(connection: Connection, stage_run_id: int) -> int:
    """Return the study of a stage run."""
    query = select(StageRunRow.study_id).where(StageRunRow.id == stage_run_id)
    return connection.execute(query).scalar_one()
