"""Stores and engines for the contracts, one of each kind, and what fills them."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import numpy as np
import optuna
import pytest
from safetensors import SafetensorError
from sqlalchemy import create_engine

from storage import schema_version
from storage.database import open_database
from storage.ownership import Claim
from storage.records import Checkpoint, Kind, Role, StageRun, State, StudyRecord, Trial
from storage.store import Store
from study.engines.base import Engine, EpochEnded, Event
from study.engines.inline import InlineEngine
from tests import lab
from tests.cluster import OnRay, needs_ray
from tests.engines import Inline, Interleaved, Processes, workers
from tests.postgres import Server
from trainers.base import StageTask, Trainer
from trainers.metrics import EpochMetrics, Evaluation, Metric
from trainers.schedule import Schedule, Stage
from trainers.synthetic import SyntheticTrainer

NOW = datetime(2026, 3, 1, 12, 3, tzinfo=UTC)
STALE = timedelta(seconds=60)
LABELS = np.array([0, 1, 1])

ENGINES = {
    "inline": Inline(InlineEngine),
    "interleaved": Inline(Interleaved),
    "a process": Processes(1),
    "two processes": Processes(2),
    "a cluster": OnRay(),
}

FULL_DISK = [
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError("while serializing: I/O error: No space left (os error 28)"),
]
"""What is raised when a file is written and there is no room for it."""


def make_fresh(url: str) -> None:
    """Make a database at once at the newest revision."""
    open_database(url).dispose()


def make_migrated(url: str) -> None:
    """Make a database as the first release left it, then open it with this one."""
    engine = create_engine(url)
    with engine.begin() as connection:
        schema_version.upgrade(connection, "0001")
    engine.dispose()
    open_database(url).dispose()


def make_shared(url: str) -> None:
    """Make a database in which Optuna was first."""
    optuna.storages.RDBStorage(url).engine.dispose()
    open_database(url).dispose()


MAKERS = {
    "fresh": make_fresh,
    "migrated": make_migrated,
    "shared": make_shared,
    "postgres": make_shared,
}


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(kind, marks=pytest.mark.long if kind == "migrated" else ()) for kind in MAKERS
    ],
)
def make_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], AbstractContextManager[str]]:
    """Make one database of each kind; return what copies or empties it for a test."""
    make = MAKERS[request.param]
    if request.param == "postgres":
        server: Server = request.getfixturevalue("postgres")
        template = server.create()
        make(server.url(template))
        return lambda: server.emptied(template)
    original = tmp_path_factory.mktemp("database") / "encore.db"
    make(f"sqlite:///{original}")

    def copy() -> AbstractContextManager[str]:
        path = tmp_path_factory.mktemp("copy") / "encore.db"
        shutil.copy(original, path)
        return nullcontext(f"sqlite:///{path}")

    return copy


@pytest.fixture
def url(make_url: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
    """Return the URL of a database of each kind that is this test's own."""
    with make_url() as url:
        yield url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """Open the store of such a database."""
    store = Store(open_database(url))
    yield store
    store.close()


@pytest.fixture
def study(store: Store) -> StudyRecord:
    """Begin a study."""
    return store.create_study("planes", Metric.ACCURACY, "m" * 64, {"trials": 5}, {"v": 1})


def schedule(*sizes: int) -> Schedule:
    """Make a schedule with a stage of one epoch at each image size."""
    stages = tuple(Stage(image_size=size, batch_size=8) for size in sizes)
    return Schedule(backbone="resnet18", stages=stages)


def epoch(number: int = 1, *, hit: float = 0.9, loss: float = 0.2) -> EpochMetrics:
    """Make the metrics of an epoch on three photos."""
    table = np.array([[hit, 1 - hit], [0.3, 0.7], [0.6, 0.4]], np.float32)
    return EpochMetrics.of(
        Evaluation(LABELS, table),
        stage=0,
        epoch=number,
        cycle=1,
        lrs=(1e-4, 2e-4, 1e-3),
        train_loss=0.1,
        valid_loss=loss,
        seconds=1.5,
        images_per_second=100.0,
    )


def begin(store: Store, study: StudyRecord, number: int = 0, key: str = "a" * 64) -> StageRun:
    """Add a trial with one stage and begin it."""
    trial = store.add_trial(study.id, number, schedule(64), number, Role.EXPLORE)
    return store.begin_stage_run(trial, key, 0)


def checkpoint(run: StageRun, kind: Kind = Kind.BEST, path: str = "a.safetensors") -> Checkpoint:
    """Describe weights of a stage run."""
    return Checkpoint(
        stage_run_id=run.id,
        kind=kind,
        path=path,
        sha256="f" * 64,
        size=5_000_000_000,
        epoch=1,
        score=0.9,
    )


def finish(
    store: Store,
    trial: Trial,
    state: State = State.COMPLETE,
    *,
    score: float | None = None,
    loss: float | None = None,
    run: StageRun | None = None,
) -> None:
    """Finish a trial with a result."""
    store.finish_trial(
        trial.id,
        state,
        score=score,
        loss=loss,
        best_stage_run=run.id if run else None,
        best_epoch=1 if run else None,
        failure="it burnt down" if state is State.FAILED else None,
        seconds=3.5,
    )


def claim(
    store: Store,
    study: StudyRecord,
    token: str,
    *,
    host: str = "here",
    pid: int | None = None,
    now: datetime = NOW,
    silent: datetime | None = None,
) -> Claim:
    """Claim a study as some process, when the database's clock says `now`."""
    made = Claim(study.id, token)
    with at(now):
        store.claim(
            made,
            host=host,
            pid=pid or os.getpid(),
            command=f"python cli.py search # {token}",
            stale_after=STALE,
            silent=silent,
        )
    return made


@contextmanager
def at(now: datetime) -> Iterator[None]:
    """Have the database's clock say `now`."""
    with (
        mock.patch("storage.store.clock", return_value=now),
        mock.patch("storage.ownership.clock", return_value=now),
    ):
        yield


Kinds = Inline | Processes | OnRay

MARKED = [
    pytest.param(
        kind, id=name, marks=(needs_ray, pytest.mark.long) if isinstance(kind, OnRay) else ()
    )
    for name, kind in ENGINES.items()
]


@pytest.fixture(scope="module", params=MARKED)
def kind(request: pytest.FixtureRequest) -> Iterator[Kinds]:
    """Return each kind of engine; its processes serve test after test and end with the module.

    Not later: a process that is part of a Ray cluster joins no other, as tests elsewhere do.
    """
    yield request.param
    if not isinstance(request.param, Inline):
        request.param.close()
    assert workers() == []


@pytest.fixture
def make_engine(kind: Kinds, tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Return what makes an engine of each kind; afterwards there is nothing left for it to do."""
    made: list[Engine] = []

    def make(trainer: Trainer | None = None) -> Engine:
        made.append(kind.make(trainer or SyntheticTrainer(np.array([0, 1, 1]), 2), tmp_path))
        return made[-1]

    yield make
    for engine in made:
        list(engine.events())
        if isinstance(kind, Inline):
            engine.close()


@pytest.fixture
def make_task(tmp_path: Path) -> Callable[..., StageTask]:
    """Return what makes a task in a folder of its own, named as its key."""

    def make(key: str, epochs: int = 2) -> StageTask:
        (tmp_path / key).mkdir(exist_ok=True)
        schedule = lab.schedule(lab.stage(epochs=epochs))
        return StageTask(schedule=schedule, seed=0, folder=tmp_path / key)

    return make


def told(events: Sequence[Event], key: str) -> list[object]:
    """Return what was told of a key: numbers of epochs, and how it ended."""
    own = [event for event in events if event.key == key]
    return [event.metrics.epoch if isinstance(event, EpochEnded) else type(event) for event in own]
