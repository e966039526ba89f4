"""Every question to the database, one named method each."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select

from storage import rows
from storage.database import clock, reading, shown
from storage.errors import NoSuchStudy, StudyNotFound
from storage.rankings import Scores
from storage.records import (
    Checkpoint,
    Deletion,
    EpochRecord,
    ManifestRecord,
    Owner,
    Pending,
    StageRun,
    State,
    StudyRecord,
    Trial,
)
from storage.tables import (
    CheckpointRow,
    CheckRow,
    DeletionRow,
    EpochRow,
    ManifestRow,
    NameRow,
    OwnerRow,
    StageRunRow,
    StudyRow,
    TrialRow,
    TrialStageRow,
)


class Reader(Scores):
    """Answers from the database that `engine` leads to; changes nothing."""

    # the database

    def file_identity(self) -> tuple[int, int] | None:
        """Return device and inode of the file at the database's path; None on a server.

        Raises FileNotFoundError where nothing lies there any more.
        """
        if self._engine.dialect.name != "sqlite":
            return None
        found = Path(self._engine.url.database or "").stat()
        return found.st_dev, found.st_ino

    # studies

    def study(self, name: str) -> StudyRecord:
        """Return the study of that name; StudyNotFound names the ones that are there."""
        found = self._first(select(StudyRow).where(StudyRow.name == name))
        if found is None:
            place = f"there is no study {name!r} in {shown(self._engine.url)}"
            others = ", ".join(study.name for study in self.studies()[:10])
            if others:
                raise NoSuchStudy(f"{place}; there are {others}")
            raise StudyNotFound(f"{place}; run a search first")
        return rows.study(found)

    def studies(self) -> list[StudyRecord]:
        """Return all studies, the most recently used first."""
        query = select(StudyRow).order_by(StudyRow.used_at.desc(), StudyRow.id.desc())
        return [rows.study(row) for row in self._all(query)]

    def owner(self, study_id: int) -> Owner | None:
        """Return the process that searches the study, as its row says; None where none does."""
        found = self._first(select(OwnerRow).where(OwnerRow.study_id == study_id))
        return None if found is None else rows.owner(found)

    def now(self) -> datetime:
        """Tell the time that heartbeats are of."""
        with reading(self._engine) as connection:
            return clock(connection)

    def manifest(self, digest: str) -> ManifestRecord:
        """Return a manifest; LookupError where there is none of that digest."""
        found = self._first(select(ManifestRow).where(ManifestRow.digest == digest))
        if found is None:
            raise LookupError(f"there is no manifest {digest}")
        return rows.manifest(found)

    def check(self, manifest_digest: str) -> dict[str, Any] | None:
        """Return what the data gate found in a data set; None where it has not looked."""
        query = select(CheckRow.document).where(CheckRow.manifest_digest == manifest_digest)
        found = self._first(query)
        return None if found is None else dict(json.loads(found.document))

    # trials

    def trial(self, study_id: int, number: int) -> Trial:
        """Return one trial; LookupError where the study has none of that number."""
        found = self._first(_trials(study_id).where(TrialRow.number == number))
        if found is None:
            raise LookupError(f"there is no trial {number} in the study")
        return rows.trial(found)

    def trials(self, study_id: int) -> list[Trial]:
        """Return a study's trials in number order."""
        return [rows.trial(row) for row in self._all(_trials(study_id))]

    def count_trials(self, study_id: int) -> int:
        """Count a study's trials."""
        found = self._first(select(func.count()).where(TrialRow.study_id == study_id))
        return int(found[0]) if found else 0

    def running_trials(self, study_id: int) -> list[Trial]:
        """Return the trials that are not finished, in number order."""
        query = _trials(study_id).where(TrialRow.state == State.RUNNING)
        return [rows.trial(row) for row in self._all(query)]

    # stage runs

    def stage_run(self, study_id: int, key: str) -> StageRun | None:
        """Return the study's stage run of that key, if it was ever begun."""
        query = select(StageRunRow).where(StageRunRow.study_id == study_id, StageRunRow.key == key)
        found = self._first(query)
        return None if found is None else rows.stage_run(found)

    def stage_runs(self, study_id: int) -> list[StageRun]:
        """Return a study's stage runs in the order they were begun."""
        query = select(StageRunRow).where(StageRunRow.study_id == study_id)
        return [rows.stage_run(row) for row in self._all(query.order_by(StageRunRow.id))]

    def stage_runs_of(self, trial_id: int) -> list[StageRun]:
        """Return the stage runs a trial uses, in training order."""
        query = (
            select(StageRunRow)
            .join(TrialStageRow, TrialStageRow.stage_run_id == StageRunRow.id)
            .where(TrialStageRow.trial_id == trial_id)
            .order_by(TrialStageRow.position)
        )
        return [rows.stage_run(row) for row in self._all(query)]

    def links(self, study_id: int) -> list[tuple[int, int, int]]:
        """Return which stage runs trials use: (trial's number, position, stage run's id)."""
        query = (
            select(TrialRow.number, TrialStageRow.position, TrialStageRow.stage_run_id)
            .join(TrialRow, TrialRow.id == TrialStageRow.trial_id)
            .where(TrialRow.study_id == study_id)
        )
        return [(row.number, row.position, row.stage_run_id) for row in self._all(query)]

    def seconds_by_trial(self, study_id: int) -> dict[int, float]:
        """Return by trial number what its stage runs took, whichever trial had them trained."""
        query = (
            select(TrialRow.number, func.sum(StageRunRow.seconds).label("seconds"))
            .join(TrialStageRow, TrialStageRow.trial_id == TrialRow.id)
            .join(StageRunRow, StageRunRow.id == TrialStageRow.stage_run_id)
            .where(TrialRow.study_id == study_id)
            .group_by(TrialRow.number)
        )
        return {row.number: float(row.seconds) for row in self._all(query)}

    # epochs

    def epochs(self, stage_run_id: int) -> list[EpochRecord]:
        """Return the epochs of a stage run in order."""
        return self._epochs(StageRunRow.id == stage_run_id)

    def epochs_of_trial(self, trial_id: int) -> list[EpochRecord]:
        """Return the epochs of all stages of a trial, in training order."""
        used = select(TrialStageRow.stage_run_id).where(TrialStageRow.trial_id == trial_id)
        return self._epochs(StageRunRow.id.in_(used))

    def epochs_of_study(self, study_id: int) -> list[EpochRecord]:
        """Return the epochs of all stage runs of a study, stage run by stage run."""
        return self._epochs(StageRunRow.study_id == study_id)

    def seconds_of_epochs(self, study_id: int) -> float:
        """Return how long all epochs of a study took together."""
        query = (
            select(func.sum(EpochRow.seconds))
            .join(StageRunRow, StageRunRow.id == EpochRow.stage_run_id)
            .where(StageRunRow.study_id == study_id)
        )
        found = self._first(query)
        return float(found[0] or 0.0) if found else 0.0

    # checkpoints

    def checkpoints(self, study_id: int) -> list[Checkpoint]:
        """Return all weights files of a study."""
        return [rows.checkpoint(row) for row in self._all(_checkpoints(study_id))]

    def checkpoints_of(self, stage_run_id: int) -> list[Checkpoint]:
        """Return the weights files of a stage run."""
        query = select(CheckpointRow).where(CheckpointRow.stage_run_id == stage_run_id)
        return [rows.checkpoint(row) for row in self._all(query.order_by(CheckpointRow.kind))]

    def deletions(self, study_id: int) -> list[Deletion]:
        """Return the weights files of a study that were deleted on purpose, in that order."""
        query = (
            select(DeletionRow)
            .join(StageRunRow, StageRunRow.id == DeletionRow.stage_run_id)
            .where(StageRunRow.study_id == study_id)
            .order_by(DeletionRow.id)
        )
        return [rows.deletion(row) for row in self._all(query)]

    def deletions_of(self, stage_run_id: int) -> list[Deletion]:
        """Return the weights files of a stage run that were deleted on purpose."""
        query = select(DeletionRow).where(DeletionRow.stage_run_id == stage_run_id)
        return [rows.deletion(row) for row in self._all(query.order_by(DeletionRow.id))]

    def known_paths(self, study_id: int) -> set[str]:
        """Return the vault's paths that a checkpoint of the study points to."""
        return {row.path for row in self._all(_checkpoints(study_id))}

    def pending(self, study_id: int) -> list[Pending]:
        """Return what may be in the vault without a row: a search was stopped while it wrote."""
        mine = (NameRow.study_id == study_id, NameRow.pending)
        query = select(NameRow).where(*mine).order_by(NameRow.path)
        return [rows.pending(row) for row in self._all(query)]

    def expected(self, study_id: int) -> set[str]:
        """Return all of the vault's paths that the study accounts for."""
        return self.known_paths(study_id) | {each.path for each in self.pending(study_id)}

    def _epochs(self, condition: ColumnElement[bool]) -> list[EpochRecord]:
        query = (
            select(EpochRow, StageRunRow.position)
            .join(StageRunRow, StageRunRow.id == EpochRow.stage_run_id)
            .where(condition)
            .order_by(StageRunRow.position, EpochRow.stage_run_id, EpochRow.epoch)
        )
        return [rows.epoch(row) for row in self._all(query)]


def _trials(study_id: int) -> Select[Any]:
    return select(TrialRow).where(TrialRow.study_id == study_id).order_by(TrialRow.number)


def _checkpoints(study_id: int) -> Select[Any]:
    return (
        select(CheckpointRow)
        .join(StageRunRow, StageRunRow.id == CheckpointRow.stage_run_id)
        .where(StageRunRow.study_id == study_id)
        .order_by(CheckpointRow.stage_run_id, CheckpointRow.kind)
    )
