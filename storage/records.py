"""Records as frozen data classes: studies, trials, stage runs, epochs, checkpoints, owners."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any

from trainers.metrics import EpochNumbers, Metric
from trainers.schedule import Schedule

FORMAT_VERSION = 3
"""Part of every stage run's key: raise it when equal settings come to give other weights."""


class State(StrEnum):
    """The state of a trial or a stage run."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


class Role(StrEnum):
    """The role of a trial.

    EXPLORE was chosen by the search, PRESET was given to try first, REPEAT is a finalist's fresh
    seed.
    """

    EXPLORE = "explore"
    PRESET = "preset"
    REPEAT = "repeat"


class Kind(StrEnum):
    """Which weights of a stage run: those of its best epoch, or of its last."""

    BEST = "best"
    LAST = "last"


def stage_run_key(manifest_digest: str, prefix: Schedule, seed: int) -> str:
    """Return the identity of the stage run that trains the last stage of `prefix`, in hexadecimal.

    Everything that decides the outcome is in it, so equal keys need to be trained only once.
    """
    identity = {
        "format": FORMAT_VERSION,
        "manifest": manifest_digest,
        "seed": seed,
        "schedule": prefix.to_dict(),
    }
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """A search over one space on one manifest, ranked by one metric. Datetimes are UTC, aware.

    `identity` is the same in all copies of the database and in no other; `folder` is where its
    files lie among the runs. Studies of an earlier Encore have neither.
    """

    id: int
    name: str
    metric: Metric
    manifest_digest: str
    config: dict[str, Any]
    space: dict[str, Any]
    created_at: datetime
    used_at: datetime
    identity: str | None = None
    folder: str | None = None

    @property
    def mark(self) -> str:
        """The identity in its folder's marker file."""
        began = f"{self.name} {self.created_at:%Y%m%dT%H%M%S%f}"
        return self.identity or hashlib.sha256(began.encode()).hexdigest()[:32]

    @property
    def place(self) -> str:
        """The name of its folder."""
        return self.folder or self.name


@dataclass(frozen=True, kw_only=True)
class ManifestRecord:
    """A frozen data set: `document` is the manifest's JSON, `root` the folder it was read from."""

    digest: str
    root: str
    document: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One schedule under one seed, trained once.

    `best_stage_run` and `best_epoch` name the epoch with the trial's best validation `score`;
    `loss` is the validation loss there. All four are None until there is one.
    """

    id: int
    study_id: int
    number: int
    schedule_json: str = field(repr=False)
    seed: int
    role: Role
    state: State
    score: float | None = None
    loss: float | None = None
    best_stage_run: int | None = None
    best_epoch: int | None = None
    failure: str | None = None
    seconds: float = 0.0
    started_at: datetime
    finished_at: datetime | None = None

    @property
    def schedule(self) -> Schedule:
        """The schedule, parsed when asked for: thousands of trials are listed without it."""
        return _schedule(self.schedule_json)

    @cached_property
    def schedule_digest(self) -> str:
        """The schedule's digest: repeats are trials that share it."""
        return hashlib.sha256(self.schedule_json.encode()).hexdigest()

    @property
    def was_beaten(self) -> bool:
        """Whether it was stopped after its first folds: others that are pruned tell no reason."""
        return self.state is State.PRUNED and self.failure is not None


_schedule = lru_cache(maxsize=4096)(Schedule.from_json)


def keys_of(manifest_digest: str, trials: Iterable[Trial]) -> set[str]:
    """Return the keys of all stage runs that trials use or will use."""
    return {
        stage_run_key(manifest_digest, prefix, trial.seed)
        for trial in trials
        for prefix in trial.schedule.prefixes()
    }


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """One stage of a schedule prefix under one seed, shared by the trials with equal first stages.

    `epochs` is how many are planned, `trial_number` the trial that had it trained first. It may be
    `taken_from` another study of that name, which had trained it. One that was stopped after its
    first folds came to `first_score` and the calibrated `first_loss` on the photos of these.
    """

    id: int
    study_id: int
    key: str
    position: int
    seed: int
    image_size: int
    epochs: int
    state: State
    trial_number: int
    seconds: float
    started_at: datetime
    finished_at: datetime | None
    taken_from: str | None = None
    first_score: float | None = None
    first_loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class EpochRecord(EpochNumbers):
    """The metrics of one epoch of a stage run, without its predictions.

    `stage` is the stage run's position in its schedule, counted from 0.
    """

    stage_run_id: int


@dataclass(frozen=True, kw_only=True)
class KeptPredictions:
    """How an epoch's predictions are kept, `full` or shortened; `size` in bytes.

    `leads` says whether they are of a trial's best epoch.
    """

    stage_run_id: int
    epoch: int
    full: bool
    leads: bool
    size: int


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A weights file in the vault: `path` is POSIX, relative to its root; `size` in bytes."""

    stage_run_id: int
    kind: Kind
    path: str
    sha256: str
    size: int
    epoch: int
    score: float | None


@dataclass(frozen=True, kw_only=True)
class Deletion(Checkpoint):
    """A weights file that was deleted on purpose; `reason` is for humans."""

    reason: str
    deleted_at: datetime


@dataclass(frozen=True)
class Pending:
    """A name that may be in the vault without a row: a file's, or (without `sha256`) a folder's."""

    path: str
    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class Look:
    """A look at the test photos: the score of `sha256`, weights of a trial, by `criterion`."""

    study_id: int
    trial: int
    sha256: str
    criterion: str
    score: float
    errors: int
    photos: int
    looked_at: datetime


@dataclass(frozen=True, kw_only=True)
class RankedTrial:
    """A finished trial with the weights of its best epoch; None where they are not kept."""

    trial: Trial
    checkpoint: Checkpoint | None


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The process that searches a study.

    `born` distinguishes it from a later one with the same pid.
    """

    study_id: int
    host: str
    pid: int
    born: str | None
    token: str
    command: str
    started_at: datetime
    heartbeat_at: datetime
