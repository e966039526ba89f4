"""Every query and change of the database: a named method each, a transaction each.

The SQL of queries is in `queries`, that of changes in `changes`, `stage_runs`, `names` and
`ownership`; `rows` turns rows into records.
"""

import json
import math
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, func, select, tuple_, update

from storage import changes, liveness, names, ownership, queries, rows, stage_runs
from storage.database import clock, is_written, open_database, url_text
from storage.errors import DatabaseAway, DatabaseUnusable, NoSuchStudy, StudyNotFound
from storage.ownership import Claim
from storage.predictions import StoredPredictions, decode, encode
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
from storage.tables import (
    CheckpointRow,
    CheckRow,
    DeletionRow,
    LookRow,
    ManifestRow,
    NameRow,
    OwnerRow,
    PredictionsRow,
    StageRunRow,
    StudyRow,
    TrialRow,
)
from storage.transactions import Repeat, Transactions, once
from trainers.metrics import EpochMetrics, Metric
from trainers.schedule import Schedule

Place = tuple[int | None, int | None]
"""A stage run's id, and one of its epochs; a trial without a score has neither."""

CHUNK = 100
"""How many (stage run, epoch) pairs go into one query: some SQLites take 999 values at most."""


class Store:
    """The database that `engine` leads to; takes and gives records only.

    `repeat` carries out each transaction: a search's `Patience` outlasts a server's absence.
    """

    def __init__(self, engine: Engine, repeat: Repeat = once) -> None:
        self._engine = engine
        self._do = Transactions(engine, repeat)

    def close(self) -> None:
        """Close the database's connections."""
        self._engine.dispose()

    def fenced(self, claim: Claim, repeat: Repeat | None = None) -> "Store":
        """Return the same store for the owner of a study; it cannot write after losing the study.

        `repeat`, if given, carries out its transactions.
        """
        return Store(ownership.fenced(self._engine, claim), repeat or self._do.repeat)

    @property
    def is_written(self) -> bool:
        """Whether the database can be written, as far as is known."""
        return is_written(self._engine)

    def file_identity(self) -> tuple[int, int] | None:
        """Return device and inode of the file at the database's path; None on a server.

        Raises FileNotFoundError if the file is gone.
        """
        if self._engine.dialect.name != "sqlite":
            return None
        found = Path(self._engine.url.database or "").stat()
        return found.st_dev, found.st_ino

    # studies

    def study(self, name: str) -> StudyRecord:
        """Return the study of that name; StudyNotFound lists the existing ones."""
        found = self._do.first(select(StudyRow).where(StudyRow.name == name), rows.study)
        if found is not None:
            return found
        place = f"there is no study {name!r} in {url_text(self._engine.url)}"
        others = ", ".join(study.name for study in self.studies()[:10])
        if others:
            raise NoSuchStudy(f"{place}; there are {others}")
        raise StudyNotFound(f"{place}; run a search first")

    def studies(self) -> list[StudyRecord]:
        """Return all studies, the most recently used first."""
        query = select(StudyRow).order_by(StudyRow.used_at.desc(), StudyRow.id.desc())
        return self._do.all(query, rows.study)

    def create_study(
        self,
        name: str,
        metric: Metric,
        manifest_digest: str,
        config: dict[str, Any],
        space: dict[str, Any],
    ) -> StudyRecord:
        """Create a study; StudyInUse if there is one of that name."""
        now = datetime.now(UTC)
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
        return self._do.write_alone(changes.create_study, values)

    def update_config(self, study_id: int, config: dict[str, Any]) -> None:
        """Replace a study's config."""
        change = update(StudyRow).where(StudyRow.id == study_id)
        used = change.values(config=config, used_at=datetime.now(UTC))
        self._do.change(used, "study", study_id)

    def move_study(self, study_id: int, folder: str) -> None:
        """Set the study's folder among the runs."""
        change = update(StudyRow).where(StudyRow.id == study_id)
        self._do.change(change.values(folder=folder), "study", study_id)

    # data sets

    def manifest(self, digest: str) -> ManifestRecord:
        """Return a manifest; LookupError where there is none of that digest."""
        query = select(ManifestRow).where(ManifestRow.digest == digest)
        found = self._do.first(query, rows.manifest)
        if found is None:
            raise LookupError(f"there is no manifest {digest}")
        return found

    def save_manifest(self, manifest: ManifestRecord) -> None:
        """Store a manifest; one of the same digest only gets its root updated."""
        self._do.write_alone(changes.save_manifest, manifest)

    def check(self, manifest_digest: str) -> dict[str, Any] | None:
        """Return the data gate's findings on a data set; None if it was not checked."""
        query = select(CheckRow.document).where(CheckRow.manifest_digest == manifest_digest)
        return self._do.first(query, lambda row: dict(json.loads(row.document)))

    def save_check(self, manifest_digest: str, document: str) -> None:
        """Store the data gate's findings on a data set, replacing earlier ones."""
        self._do.write_alone(changes.save_check, manifest_digest, document)

    # the owner

    def owner(self, study_id: int) -> Owner | None:
        """Return the process that searches the study, according to its row, if any."""
        return self._do.first(select(OwnerRow).where(OwnerRow.study_id == study_id), rows.owner)

    def now(self) -> datetime:
        """Return the clock that heartbeats use."""
        return self._do.read(clock)

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

        An owner is replaced if it was a process of the same `host` that has ended; if that is
        unknown, if its heartbeat is older than `stale_after` and still that of `silent`. The same
        claim may be made again.
        """

        def take(connection: Connection, step: ownership.Step) -> None:
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
            step(connection, claimant, stale_after, silent)

        # First without a lock: a stopped process may hold that of the whole file.
        self._do.read(take, ownership.refuse)
        self._do.write(take, ownership.claim)

    def heartbeat(self, claim: Claim) -> None:
        """Record a heartbeat of the owner; StudyInUse if another process took over."""
        self._do.write(ownership.heartbeat, claim)

    def release(self, claim: Claim) -> None:
        """Release the study; nothing happens if it has another owner."""
        self._do.write(ownership.release, claim)

    # trials

    def trial(self, study_id: int, number: int) -> Trial:
        """Return one trial; LookupError where the study has none of that number."""
        query = queries.trials(study_id).where(TrialRow.number == number)
        found = self._do.first(query, rows.trial)
        if found is None:
            raise LookupError(f"there is no trial {number} in the study")
        return found

    def trials(self, study_id: int) -> list[Trial]:
        """Return a study's trials in number order."""
        return self._do.all(queries.trials(study_id), rows.trial)

    def count_trials(self, study_id: int) -> int:
        """Count a study's trials."""
        query = select(func.count()).where(TrialRow.study_id == study_id)
        return self._do.first(query, lambda row: int(row[0])) or 0

    def running_trials(self, study_id: int) -> list[Trial]:
        """Return the trials that are not finished, in number order."""
        query = queries.trials(study_id).where(TrialRow.state == State.RUNNING)
        return self._do.all(query, rows.trial)

    def trials_in_training(self, study_id: int) -> set[int]:
        """Return the numbers of the trials that have a stage run which is begun and not ended."""
        query = queries.trials_in_training(study_id)
        return set(self._do.all(query, lambda row: int(row.number)))

    def ranking(self, study: StudyRecord) -> list[RankedTrial]:
        """Return the trials by their best epoch, the best first, each with that epoch's weights.

        These are all complete trials, and pruned ones whose weights are kept.
        """
        found = self._do.all(queries.ranking(study), rows.ranked)
        return sorted(found, key=lambda r: _rank(study, r.trial.score, r.trial.loss))

    def add_trial(
        self, study_id: int, number: int, schedule: Schedule, seed: int, role: Role
    ) -> Trial:
        """Begin a trial; ValueError if the study has another one of that number.

        An identical trial is returned as it is: it was begun, and the response was lost.
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
        return self._do.write(changes.add_trial, values)

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
        """Store the result of a trial. A score or loss that is not a number becomes None."""
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
        self._do.change(change, "trial", trial_id)

    # stage runs

    def stage_run(self, study_id: int, key: str) -> StageRun | None:
        """Return the study's stage run of that key, if it was ever begun."""
        query = select(StageRunRow).where(StageRunRow.study_id == study_id, StageRunRow.key == key)
        return self._do.first(query, rows.stage_run)

    def stage_runs(self, study_id: int) -> list[StageRun]:
        """Return a study's stage runs in the order they were begun."""
        query = select(StageRunRow).where(StageRunRow.study_id == study_id)
        return self._do.all(query.order_by(StageRunRow.id), rows.stage_run)

    def stage_runs_of(self, trial_id: int) -> list[StageRun]:
        """Return the stage runs a trial uses, in training order."""
        return self._do.all(queries.stage_runs_of(trial_id), rows.stage_run)

    def links(self, study_id: int) -> list[tuple[int, int, int]]:
        """Return which stage runs trials use: (trial's number, position, stage run's id)."""
        query = queries.links(study_id)
        return self._do.all(query, lambda row: (row.number, row.position, row.stage_run_id))

    def seconds_by_trial(self, study_id: int) -> dict[int, float]:
        """Return by trial number the seconds of its stage runs, whichever trial trained them."""
        query = queries.seconds_by_trial(study_id)
        return dict(self._do.all(query, lambda row: (row.number, float(row.seconds))))

    def begin_stage_run(self, trial: Trial, key: str, position: int) -> StageRun:
        """Return the stage run of that key, created if needed, and note that `trial` uses it."""
        return self._do.write(stage_runs.begin, trial, key, position)

    def seal_stage_run(
        self, stage_run_id: int, state: State, seconds: float, checkpoints: Sequence[Checkpoint]
    ) -> None:
        """End a stage run with these checkpoints, whose files must be in the vault."""
        for checkpoint in checkpoints:
            if checkpoint.stage_run_id != stage_run_id:
                raise ValueError(
                    f"checkpoints must be of stage run {stage_run_id}, "
                    f"got one of {checkpoint.stage_run_id}"
                )
        self._do.write(changes.seal_stage_run, stage_run_id, state, seconds, checkpoints)

    def twins(self, run: StageRun, studies: Collection[int]) -> list[StageRun]:
        """Return the stage runs of that key that other `studies` have trained to their end."""
        same = (StageRunRow.key == run.key, StageRunRow.study_id.in_(studies))
        query = select(StageRunRow).where(*same, StageRunRow.state == State.COMPLETE.value)
        return self._do.all(query.order_by(StageRunRow.id), rows.stage_run) if studies else []

    def take_stage_run(
        self, run: StageRun, twin: StageRun, study: str, checkpoints: Sequence[Checkpoint]
    ) -> None:
        """End a stage run as its `twin` of another study ended; its files must be in the vault."""
        self._do.write(changes.take_stage_run, run, twin, study, checkpoints)

    def fail_stage_run(self, stage_run_id: int, seconds: float) -> None:
        """End a stage run that could not be trained."""
        self._do.write(stage_runs.end, stage_run_id, State.FAILED, seconds)

    def stop_stage_run(
        self, stage_run_id: int, seconds: float, first_score: float, first_loss: float
    ) -> None:
        """End a stage run after its first folds, with what it came to on their photos."""
        self._do.write(stage_runs.stop, stage_run_id, seconds, first_score, first_loss)

    # epochs

    def epochs(self, stage_run_id: int) -> list[EpochRecord]:
        """Return the epochs of a stage run in order."""
        return self._do.all(queries.epochs(StageRunRow.id == stage_run_id), rows.epoch)

    def epochs_of_trial(self, trial_id: int) -> list[EpochRecord]:
        """Return the epochs of all stages of a trial, in training order."""
        return self._do.all(queries.epochs_of_trial(trial_id), rows.epoch)

    def epochs_of_study(self, study_id: int) -> list[EpochRecord]:
        """Return the epochs of all stage runs of a study, stage run by stage run."""
        return self._do.all(queries.epochs(StageRunRow.study_id == study_id), rows.epoch)

    def seconds_of_epochs(self, study_id: int) -> float:
        """Return the seconds of all epochs of a study, those of first folds included."""
        query = queries.seconds_of_epochs(study_id)
        return self._do.first(query, lambda row: float(row[0] or 0.0)) or 0.0

    def leading_epochs(self, study: StudyRecord, limit: int | None) -> list[tuple[int, int]]:
        """Return (stage run, epoch) of the best epochs of all trials that have ended, best first.

        So many at most; None gives all.
        """
        query = queries.leading_epochs(study, limit)
        return self._do.all(query, lambda row: (row.stage_run_id, row.epoch))

    def ranks(self, study: StudyRecord) -> dict[int, tuple[float, float]]:
        """Return the rank of each stage run's best epoch (see `Metric.rank`), by its id."""
        return {run: rank for run, (rank, _) in self._bests(study).items()}

    def calibrated_losses(self, study: StudyRecord) -> dict[int, float]:
        """Return that of each stage run's best epoch, where it was worked out, by its id."""
        return {run: loss for run, (_, loss) in self._bests(study).items() if loss is not None}

    def _bests(self, study: StudyRecord) -> dict[int, tuple[tuple[float, float], float | None]]:
        """Return rank and calibrated loss of each stage run's best epoch, the first of equals."""
        best: dict[int, tuple[tuple[float, float], float | None]] = {}
        for row in self._do.all(queries.scores_of_epochs(study), lambda row: row):
            rank = _rank(study, row.score, row.loss)
            if row.run not in best or rank < best[row.run][0]:
                best[row.run] = rank, row.calibrated
        return best

    def record_epoch(self, stage_run_id: int, metrics: EpochMetrics) -> None:
        """Store an epoch and its predictions.

        An existing one is replaced and later ones are deleted: the stage was resumed from before
        them. A sealed stage that is trained again for a missing file keeps them: ended trials refer
        to them.
        """
        form, blob = encode(metrics.evaluation)  # before the transaction: it takes a while
        self._do.write(stage_runs.record, stage_run_id, metrics, form, blob)

    # predictions

    def predictions(
        self, stage_run_id: int, epoch: int, labels: NDArray[np.int64]
    ) -> StoredPredictions:
        """Return an epoch's predictions; LookupError where the epoch was not recorded."""
        query = select(PredictionsRow.form, PredictionsRow.blob).where(
            PredictionsRow.stage_run_id == stage_run_id, PredictionsRow.epoch == epoch
        )
        found = self._do.first(query, lambda row: decode(row.form, row.blob, labels))
        if found is None:
            raise LookupError(f"stage run {stage_run_id} has no predictions of epoch {epoch}")
        return found

    def predictions_of(
        self,
        epochs: Sequence[Place],
        labels: NDArray[np.int64],
        *,
        whole: bool = True,
    ) -> list[StoredPredictions]:
        """Return the predictions of each (stage run, epoch); LookupError if one has none.

        If not `whole`, all probabilities but two are dropped: those of many epochs would fill the
        memory.
        """
        found = self.readable_predictions(epochs, labels, whole=whole)
        if missing := [pair for pair in epochs if pair not in found]:
            raise LookupError("stage run {} has no predictions of epoch {}".format(*missing[0]))
        return [found[pair] for pair in epochs]

    def readable_predictions(
        self, epochs: Sequence[Place], labels: NDArray[np.int64], *, whole: bool = True
    ) -> dict[Place, StoredPredictions]:
        """Return the predictions of those (stage run, epoch) that have undamaged ones."""
        found: dict[Place, StoredPredictions] = {}
        for start in range(0, len(epochs), CHUNK):
            found |= self._readable(epochs[start : start + CHUNK], labels, whole)
        return found

    def damaged_predictions(
        self, epochs: Sequence[Place], labels: NDArray[np.int64]
    ) -> list[Place]:
        """Return those (stage run, epoch) whose predictions are missing or cannot be read."""
        damaged: list[Place] = []
        for start in range(0, len(epochs), CHUNK):
            chunk = epochs[start : start + CHUNK]
            found = self._readable(chunk, labels, whole=False)
            damaged += [pair for pair in chunk if pair not in found]
        return damaged

    def _readable(
        self, epochs: Sequence[Place], labels: NDArray[np.int64], whole: bool
    ) -> dict[Place, StoredPredictions]:
        """Return the readable ones: a damaged page loses only its own rows."""
        try:
            return self._do.read(_decoded, epochs, labels, whole)
        except DatabaseAway:
            raise
        except DatabaseUnusable:
            each = [self._readable([pair], labels, whole) for pair in epochs if len(epochs) > 1]
            return {pair: found for one in each for pair, found in one.items()}

    def kept_predictions(self, study: StudyRecord) -> list[KeptPredictions]:
        """Return form and size of the predictions of all epochs, those of the best epochs first."""
        found = self._do.all(queries.kept_predictions(study), lambda row: row)
        found.sort(key=lambda row: _rank(study, row.score, row.loss))
        return [rows.kept_predictions(row) for row in found]

    def shorten_predictions(self, stage_run_id: int, epoch: int, labels: NDArray[np.int64]) -> None:
        """Shorten an epoch's predictions to two probabilities per photo, unless they are.

        Damaged ones are not changed.
        """
        self._do.write(changes.shorten_predictions, stage_run_id, epoch, labels)

    # weights files

    def checkpoints(self, study_id: int) -> list[Checkpoint]:
        """Return all weights files of a study."""
        return self._do.all(queries.checkpoints(study_id), rows.checkpoint)

    def checkpoints_of(self, stage_run_id: int) -> list[Checkpoint]:
        """Return the weights files of a stage run."""
        query = select(CheckpointRow).where(CheckpointRow.stage_run_id == stage_run_id)
        return self._do.all(query.order_by(CheckpointRow.kind), rows.checkpoint)

    def deletions(self, study_id: int) -> list[Deletion]:
        """Return the weights files of a study that were deleted on purpose, in that order."""
        return self._do.all(queries.deletions(study_id), rows.deletion)

    def deletions_of(self, stage_run_id: int) -> list[Deletion]:
        """Return the weights files of a stage run that were deleted on purpose."""
        query = select(DeletionRow).where(DeletionRow.stage_run_id == stage_run_id)
        return self._do.all(query.order_by(DeletionRow.id), rows.deletion)

    def known_paths(self, study_id: int) -> set[str]:
        """Return the vault's paths that a checkpoint of the study points to."""
        return {checkpoint.path for checkpoint in self.checkpoints(study_id)}

    def delete_checkpoint(self, stage_run_id: int, kind: Kind) -> None:
        """Delete the row of a weights file; the vault deletes the file itself."""
        self._do.write(changes.delete_checkpoint, stage_run_id, kind)

    def retire_checkpoint(self, checkpoint: Checkpoint, reason: str) -> None:
        """Note that a weights file is deleted on purpose; the vault deletes the file itself.

        This comes first: a row must never point to a file that is not there. Its name is pending
        until `settle_names` says that it is gone.
        """
        self._do.write(changes.retire_checkpoint, checkpoint, reason)

    # names in the vault

    def pending(self, study_id: int) -> list[Pending]:
        """Return names that may be in the vault without a row, after an interrupted write."""
        mine = (NameRow.study_id == study_id, NameRow.pending)
        return self._do.all(select(NameRow).where(*mine).order_by(NameRow.path), rows.pending)

    def expected(self, study_id: int) -> set[str]:
        """Return all paths of the vault that the study knows."""
        return self.known_paths(study_id) | {each.path for each in self.pending(study_id)}

    def note_name(self, study_id: int, path: str, sha256: str | None = None) -> bool:
        """Note the name of a file or folder before it exists; False if the name was ever used."""
        return self._do.write(names.note, study_id, path, sha256)

    def settle_names(self, study_id: int, paths: Collection[str]) -> None:
        """Note that no file of these names is left without a row."""
        self._do.write(names.settle, study_id, paths)

    # looks at the test photos

    def looks(self, study_id: int) -> list[Look]:
        """Return every look at the test photos, in that order."""
        query = select(LookRow).where(LookRow.study_id == study_id).order_by(LookRow.id)
        return self._do.all(query, rows.look)

    def record_look(self, look: Look) -> None:
        """Store a look at the test photos."""
        self._do.write(changes.record_look, look)


def _decoded(
    connection: Connection, epochs: Sequence[Place], labels: NDArray[np.int64], whole: bool
) -> dict[Place, StoredPredictions]:
    """Read predictions one row after the other: all at once they may fill the memory."""
    here = tuple_(PredictionsRow.stage_run_id, PredictionsRow.epoch)
    query = select(PredictionsRow).where(here.in_(epochs))
    found: dict[Place, StoredPredictions] = {}
    for row in connection.execution_options(yield_per=1).execute(query):
        with suppress(ValueError):  # damaged
            one = decode(row.form, row.blob, labels)
            found[row.stage_run_id, row.epoch] = one if whole else replace(one, probabilities=None)
    return found


def _rank(study: StudyRecord, score: float | None, loss: float | None) -> tuple[float, float]:
    score = math.nan if score is None else score
    return study.metric.rank(score, math.inf if loss is None else loss)


def _or_none(number: float | None) -> float | None:
    return None if number is None or math.isnan(number) else number


@contextmanager
def existing_store(url: str) -> Iterator[Store | None]:
    """Open the store of a URL as a context; None if there is no database yet."""
    with ExitStack() as opened:
        try:
            store = opened.enter_context(open_store(url, create=False))
        except StudyNotFound:
            store = None
        yield store


@contextmanager
def open_store(url: str, *, create: bool = True) -> Iterator[Store]:
    """Open the store of a URL as a context; see `open_database`."""
    store = Store(open_database(url, create=create))
    try:
        yield store
    finally:
        store.close()
