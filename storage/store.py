"""Every change to the database, one named method each, every one a whole transaction."""

import math
import uuid
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Update, delete, insert, select, update

from storage import liveness, names, ownership, rows, stage_runs
from storage.database import alone, change_one, clock, open_database, reading, writing
from storage.errors import StudyInUse
from storage.ownership import Claim
from storage.predictions import Form, encode, shorten
from storage.reader import Reader
from storage.records import (
    Checkpoint,
    Kind,
    Look,
    ManifestRecord,
    Owner,
    Role,
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
    StudyRow,
    TrialRow,
)
from trainers.metrics import EpochMetrics, Metric
from trainers.schedule import Schedule


class Store(Reader):
    """Reads and writes the database that `engine` leads to; takes and gives records only."""

    def fenced(self, claim: Claim) -> "Store":
        """Return the same store for who owns a study; it writes nothing once that is over."""
        return Store(ownership.fenced(self._engine, claim))

    # studies

    def create_study(
        self,
        name: str,
        metric: Metric,
        manifest_digest: str,
        config: dict[str, Any],
        space: dict[str, Any],
    ) -> StudyRecord:
        """Begin a study; StudyInUse if there is one of that name."""
        now = datetime.now(UTC)
        with alone(self._engine) as connection:
            if connection.execute(select(StudyRow.id).where(StudyRow.name == name)).first():
                # Who asked first whether it is there has just been overtaken by another process.
                raise StudyInUse(
                    f"study {name!r} has just been created by another process; "
                    "run the command again, or give another --study"
                )
            values = {
                "name": name,
                "metric": metric.value,
                "manifest_digest": manifest_digest,
                "config": config,
                "space": space,
                "created_at": now,
                "used_at": now,
                "identity": uuid.uuid4().hex,
            }
            created = connection.execute(insert(StudyRow).values(values).returning(StudyRow))
            return rows.study(created.one())

    def update_config(self, study_id: int, config: dict[str, Any]) -> None:
        """Replace a study's config."""
        change = update(StudyRow).where(StudyRow.id == study_id)
        self._change(change.values(config=config, used_at=datetime.now(UTC)), "study", study_id)

    def move_study(self, study_id: int, folder: str) -> None:
        """Say which folder among the runs is the study's."""
        change = update(StudyRow).where(StudyRow.id == study_id)
        self._change(change.values(folder=folder), "study", study_id)

    def save_manifest(self, manifest: ManifestRecord) -> None:
        """Keep a manifest; one of the same digest only gets its root updated."""
        with alone(self._engine) as connection:
            same = ManifestRow.digest == manifest.digest
            moved = update(ManifestRow).where(same).values(root=manifest.root)
            if connection.execute(moved).rowcount:
                return
            document = zlib.compress(manifest.document.encode())
            new = insert(ManifestRow).values(
                digest=manifest.digest, root=manifest.root, document=document
            )
            connection.execute(new)

    # the owner

    def claim(
        self,
        claim: Claim,
        *,
        host: str,
        pid: int,
        command: str,
        stale_after: timedelta,
        silent: datetime | None = None,
    ) -> None:
        """Become the study's owner, or raise StudyInUse.

        An owner is replaced if it was a process of the same `host` that no longer lives; where that
        cannot be known, if its heartbeat is older than `stale_after` and still that of `silent`.
        The same claim may be made again.
        """
        # At first without a lock: a process that is stopped may hold that of a whole file.
        for enter, take in ((reading, ownership.refuse), (writing, ownership.claim)):
            with enter(self._engine) as connection:
                now = clock(connection)
                claimant = Owner(
                    **vars(claim),
                    host=host,
                    pid=pid,
                    born=liveness.born(pid),
                    command=command,
                    started_at=now,
                    heartbeat_at=now,
                )
                take(connection, claimant, stale_after, silent)

    def heartbeat(self, claim: Claim) -> None:
        """Say that the owner lives; StudyInUse if another process took over."""
        with writing(self._engine) as connection:
            ownership.heartbeat(connection, claim)

    def release(self, claim: Claim) -> None:
        """Give the study up; nothing happens if it has another owner."""
        with writing(self._engine) as connection:
            ownership.release(connection, claim)

    # trials

    def add_trial(
        self, study_id: int, number: int, schedule: Schedule, seed: int, role: Role
    ) -> Trial:
        """Begin a trial; ValueError if the study has another one of that number.

        The very same trial is given as it is: it was begun, and the answer was lost.
        """
        values = {
            "study_id": study_id,
            "number": number,
            "schedule_digest": schedule.digest,
            "schedule": schedule.to_json(),
            "seed": seed,
            "role": role.value,
            "state": State.RUNNING.value,
        }
        with writing(self._engine) as connection:
            same = (TrialRow.study_id == study_id, TrialRow.number == number)
            found = connection.execute(select(TrialRow).where(*same)).first()
            if found and all(found._mapping[name] == value for name, value in values.items()):
                return rows.trial(found)
            if found:
                raise ValueError(f"number must be new to the study, got {number}")
            values |= {"seconds": 0.0, "started_at": datetime.now(UTC)}
            created = connection.execute(insert(TrialRow).values(values).returning(TrialRow))
            return rows.trial(created.one())

    def finish_trial(
        self,
        trial_id: int,
        state: State,
        *,
        score: float | None,
        loss: float | None,
        best_stage_run: int | None,
        best_epoch: int | None,
        failure: str | None,
        seconds: float,
    ) -> None:
        """Write down what came of a trial. A score or loss that is not a number becomes None."""
        result = {
            "state": state.value,
            "score": _or_none(score),
            "loss": _or_none(loss),
            "best_stage_run": best_stage_run,
            "best_epoch": best_epoch,
            "failure": failure,
            "seconds": seconds,
            "finished_at": datetime.now(UTC),
        }
        change = update(TrialRow).where(TrialRow.id == trial_id).values(result)
        self._change(change, "trial", trial_id)

    # stage runs

    def begin_stage_run(self, trial: Trial, key: str, position: int) -> StageRun:
        """Return the stage run of that key, new or as it is, and note that `trial` uses it."""
        with writing(self._engine) as connection:
            return stage_runs.begin(connection, trial, key, position)

    def seal_stage_run(
        self, stage_run_id: int, state: State, seconds: float, checkpoints: Sequence[Checkpoint]
    ) -> None:
        """End a stage run, its checkpoints being those given: their files must be in the vault."""
        for checkpoint in checkpoints:
            if checkpoint.stage_run_id != stage_run_id:
                raise ValueError(
                    f"checkpoints must be of stage run {stage_run_id}, "
                    f"got one of {checkpoint.stage_run_id}"
                )
        with writing(self._engine) as connection:
            stage_runs.end(connection, stage_run_id, state, seconds)
            stage_runs.replace_checkpoints(connection, stage_run_id, checkpoints)
            study_id = names.study_of(connection, stage_run_id)
            names.settle(connection, study_id, [kept.path for kept in checkpoints])

    def fail_stage_run(self, stage_run_id: int, seconds: float) -> None:
        """End a stage run that could not be trained."""
        with writing(self._engine) as connection:
            stage_runs.end(connection, stage_run_id, State.FAILED, seconds)

    def record_epoch(self, stage_run_id: int, metrics: EpochMetrics) -> None:
        """Write down an epoch and its predictions.

        An epoch that is there already is replaced and those after it are forgotten: the stage was
        resumed from before them, so they are to come again. A sealed stage, trained again for one
        of its files, keeps them meanwhile: trials that have ended point to them.
        """
        packed = encode(metrics.evaluation)  # before the transaction: it takes a while
        with writing(self._engine) as connection:
            stage_runs.record(connection, stage_run_id, metrics, *packed)

    def shorten_predictions(self, stage_run_id: int, epoch: int, labels: NDArray[np.int64]) -> None:
        """Keep of an epoch's predictions two probabilities per photo; nothing if it is so already.

        What is damaged stays as it is.
        """
        full = (
            PredictionsRow.stage_run_id == stage_run_id,
            PredictionsRow.epoch == epoch,
            PredictionsRow.form == Form.FULL,
        )
        with writing(self._engine) as connection:
            blob = connection.execute(select(PredictionsRow.blob).where(*full)).scalar()
            if blob is None:
                return
            with suppress(ValueError):
                values = {"form": Form.COMPACT.value, "blob": shorten(blob, labels)}
                connection.execute(update(PredictionsRow).where(*full).values(values))

    def delete_checkpoint(self, stage_run_id: int, kind: Kind) -> None:
        """Forget a weights file; the file itself is the vault's to delete."""
        same = (CheckpointRow.stage_run_id == stage_run_id, CheckpointRow.kind == kind)
        with writing(self._engine) as connection:
            connection.execute(delete(CheckpointRow).where(*same))

    def retire_checkpoint(self, checkpoint: Checkpoint, reason: str) -> None:
        """Note that a weights file is deleted on purpose; the file is the vault's to delete.

        This comes first: a row must never point to a file that is not there. Its name is pending
        until `settle_names` says that it is gone.
        """
        same = (
            CheckpointRow.stage_run_id == checkpoint.stage_run_id,
            CheckpointRow.kind == checkpoint.kind,
        )
        values = vars(checkpoint) | {"reason": reason, "deleted_at": datetime.now(UTC)}
        with writing(self._engine) as connection:
            if connection.execute(delete(CheckpointRow).where(*same)).rowcount:
                connection.execute(insert(DeletionRow).values(values))
                names.retire(connection, checkpoint)

    # names in the vault

    def note_name(self, study_id: int, path: str, sha256: str | None = None) -> bool:
        """Note what a file or folder is about to be called; False if the name was ever given."""
        with writing(self._engine) as connection:
            return names.note(connection, study_id, path, sha256)

    def settle_names(self, study_id: int, paths: Collection[str]) -> None:
        """Say that nothing of these names is there without a row."""
        with writing(self._engine) as connection:
            names.settle(connection, study_id, paths)

    def save_check(self, manifest_digest: str, document: str) -> None:
        """Keep what the data gate found in a data set, in place of what it found before."""
        values = {"document": document, "made_at": datetime.now(UTC)}
        same = CheckRow.manifest_digest == manifest_digest
        with alone(self._engine) as connection:
            connection.execute(delete(CheckRow).where(same))
            connection.execute(insert(CheckRow).values(manifest_digest=manifest_digest, **values))

    def record_look(self, look: Look) -> None:
        """Write down that the test photos were looked at."""
        with writing(self._engine) as connection:
            connection.execute(insert(LookRow).values(vars(look)))

    def _change(self, change: Update, what: str, row_id: int) -> None:
        with writing(self._engine) as connection:
            change_one(connection, change, what, row_id)


def _or_none(number: float | None) -> float | None:
    return None if number is None or math.isnan(number) else number


@contextmanager
def open_store(url: str, *, create: bool = True) -> Iterator[Store]:
    """Open the store behind a URL for as long as it is needed; see `open_database`."""
    store = Store(open_database(url, create=create))
    try:
        yield store
    finally:
        store.close()
