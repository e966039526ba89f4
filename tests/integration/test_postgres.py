"""A database on a PostgreSQL server: made, migrated, refused, lost and waited for."""

import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from storage import postgres as server
from storage import schema_version
from storage.database import open_database, reading
from storage.errors import DatabaseAway, DatabaseUnusable, StudyInUse
from storage.liveness import Life
from storage.ownership import Claim
from storage.records import Role
from storage.retry import Patience
from storage.store import Store
from storage.tables import Base, is_ours
from study.events import EpochFinished, Progress
from study.searching import ownership
from study.searching.optuna_storage import optuna_storage
from study.searching.ownership import STALE_AFTER, Ownership
from tests.engines import until
from tests.lab import Lab, schedule, stage
from tests.postgres import PASSWORD, QUOTED, USER, Server, free_port, line
from tests.studies import open_at_once
from trainers.metrics import Metric

ROOT = stage(64, epochs=2)
SCRIPT = (
    schedule(ROOT, stage(64)),
    schedule(ROOT, stage(96, epochs=2)),
    schedule(stage(64, 50.0)),  # diverges
    schedule(stage(48), stage(64)),
)
AFTERWARDS = {"repeats": 1, "finalists": 2}


class OnServer(Lab):
    """A study whose database is on a server."""

    server: Server
    database: str

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the database, past Optuna and all of ours."""
        return self.server.execute(statement, self.database)


@pytest.fixture
def database(postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Create an empty database; return its name. Files of its studies lie where the test runs."""
    monkeypatch.chdir(tmp_path)
    name = postgres.create()
    yield name
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def store(postgres: Server, database: str) -> Iterator[Store]:
    """Open a store with one study, of id 1."""
    store = Store(open_database(postgres.url(database)))
    assert store.create_study("planes", Metric.ACCURACY, "m", {}, {}).id == 1
    yield store
    store.close()


def make(server: Server, database: str, folder: Path, port: int | None = None) -> OnServer:
    """Make a study on a server, that is patient from now on."""
    lab = OnServer(folder, SCRIPT, url=server.url(database, port=port), **AFTERWARDS)
    lab.server, lab.database = server, database
    folder.mkdir()
    return lab


def patience(say: Callable[[str], None] = lambda _: None, **options: Any) -> Patience:
    """Return a patience that is never interrupted."""
    return Patience(say, threading.Event(), lambda: None, **options)


def check_equal(lab: Lab, calm: Lab) -> None:
    """Check that two searches came to exactly the same, here and in Optuna's tables."""
    lab.check_order()
    assert lab.outcome() == calm.outcome()
    assert lab.optuna_trials() == calm.optuna_trials()


@pytest.mark.parametrize(
    "every", [pytest.param(5, marks=pytest.mark.slow), pytest.param(7, marks=pytest.mark.long)]
)
def test_whatever_answer_is_lost_nothing_is_done_twice(
    postgres: Server, database: str, make_lab: Callable[..., Lab], tmp_path: Path, every: int
) -> None:
    """The line is cut again and again, before a commit or before its answer.

    Trials, epochs, files and Optuna's rows are as those of a calm search on SQLite.
    """
    calm = make_lab(*SCRIPT, **AFTERWARDS)
    calm.search()
    commits, cuts = 0, {0: "before", every // 2: "after"}
    armed = False

    def cut() -> str | None:
        nonlocal commits
        commits += armed
        return cuts.get(commits % every) if armed else None

    with line(postgres, cut) as between:
        lab = make(postgres, database, tmp_path / "server", between.port)
        lab.patience = patience()
        with lab.bench() as bench:
            armed = True
            bench.coordinator.run()
            armed = False
    assert commits > 100
    lab.url = postgres.url(database)
    check_equal(lab, calm)


@pytest.mark.long
def test_a_server_that_crashes_in_the_middle_is_waited_for(
    postgres: Server, database: str, make_lab: Callable[..., Lab], tmp_path: Path
) -> None:
    """It is stopped at once, the user is told, it starts again, and not an epoch is lost."""
    calm = make_lab(*SCRIPT, **AFTERWARDS)
    calm.search()
    lab = make(postgres, database, tmp_path / "server")
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if "waiting" in text:
            postgres.start()

    lab.patience = patience(say)
    with lab.bench() as bench:
        epochs = 0

        def listen(news: Progress) -> None:
            nonlocal epochs
            epochs += isinstance(news, EpochFinished)
            if isinstance(news, EpochFinished) and epochs % 2:
                postgres.stop()

        bench.coordinator.listener = listen
        bench.coordinator.run()
    assert epochs > 5
    assert len(said) == 2 * ((epochs + 1) // 2)
    assert "does not answer (postgresql+psycopg://encore:***@127.0.0.1:" in said[0]
    assert said[1] == "the database answers again; the search goes on"
    assert not any(PASSWORD in text for text in said)
    check_equal(lab, calm)


@pytest.mark.long
def test_patience_has_an_end(postgres: Server, store: Store) -> None:
    """Who has waited too long is told how to go on, in a sentence."""
    patient = Store(store._engine, patience(give_up_after=0.2))
    assert patient.study("planes").id == 1
    postgres.stop()
    try:
        with pytest.raises(DatabaseUnusable, match="has not answered for 0 minutes") as caught:
            patient.study("planes")
    finally:
        postgres.start()
    assert not isinstance(caught.value, DatabaseAway)
    assert "run the same command again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_who_waits_can_be_interrupted(postgres: Server, store: Store) -> None:
    """The first Ctrl-C ends the waiting, though it only sets an event."""
    interrupted = threading.Event()
    waiting = Patience(lambda _: interrupted.set(), interrupted, lambda: None)
    patient = Store(store._engine, waiting)
    postgres.stop()
    try:
        with pytest.raises(KeyboardInterrupt):
            patient.study("planes")
    finally:
        postgres.start()


def test_a_study_that_was_taken_over_meanwhile_is_left_alone(
    postgres: Server, store: Store
) -> None:
    """Who comes back from a long outage learns it before anything is written again."""
    with Ownership(store, 1) as mine:

        def say(_: str) -> None:
            postgres.start()
            owner = store.owner(1)
            assert owner is not None
            late = mock.patch("storage.store.clock", return_value=store.now() + 2 * STALE_AFTER)
            far = mock.patch("storage.ownership.life_of", return_value=Life.UNKNOWN)
            with late, far:
                store.claim(
                    Claim(1, "other"),
                    host="far",
                    pid=1,
                    command="python cli.py search",
                    stale_after=STALE_AFTER,
                    silent=owner.heartbeat_at,
                )

        patient = Store(store._engine, Patience(say, threading.Event(), mine.confirm))
        postgres.stop()
        with pytest.raises(StudyInUse, match="process 1 on far"):
            patient.add_trial(1, 0, SCRIPT[0], 0, Role.EXPLORE)
    assert store.trials(1) == []


def test_a_heartbeat_outlives_an_outage(
    postgres: Server, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study stays ours, and our sign of life comes again as soon as the server does."""
    monkeypatch.setattr(ownership, "HEARTBEAT_SECONDS", 0.01)
    with Ownership(store, 1) as mine:
        postgres.stop()
        threading.Event().wait(0.1)
        postgres.start()
        back = datetime.now(UTC)
        until(lambda: (owner := store.owner(1)) and owner.heartbeat_at > back)
        assert mine.lost is None
        postgres.stop()
    postgres.start()  # to leave while it is away is no error


FIRST, *LATER = schema_version.REVISIONS[:-1]


@pytest.mark.parametrize(
    "revision", [None, FIRST, *(pytest.param(each, marks=pytest.mark.long) for each in LATER)]
)
def test_migrated_tables_are_those_the_code_describes(
    postgres: Server, database: str, revision: str | None
) -> None:
    """From any revision on, Alembic finds no difference to what `storage/tables.py` says."""
    url = postgres.url(database)
    if revision:
        engine = create_engine(url)
        with engine.begin() as connection:
            schema_version.upgrade(connection, revision)
        engine.dispose()
    optuna_storage(url).engine.dispose()
    engine = open_database(url)
    with reading(engine) as connection:
        options = {"include_name": is_ours, "version_table": schema_version.VERSION_TABLE}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_all_who_open_a_new_database_at_once_succeed(postgres: Server, database: str) -> None:
    """Our tables and Optuna's are made once, however many searches begin together."""
    open_at_once(postgres.url(database))
    assert postgres.execute("SELECT count(*) FROM alembic_version", database) == [(1,)]


def test_optunas_tables_are_those_that_are_known(postgres: Server, database: str) -> None:
    """A table that Optuna adds would be mistaken for another program's."""
    url = postgres.url(database)
    optuna_storage(url).engine.dispose()
    found = postgres.execute("SELECT tablename FROM pg_tables WHERE schemaname='public'", database)
    assert {name for (name,) in found} == schema_version.OPTUNAS


def test_another_programs_database_is_refused_untouched(postgres: Server, database: str) -> None:
    """Its `alembic_version` would be mistaken for Optuna's, and overwritten."""
    tables = "SELECT tablename FROM pg_tables WHERE schemaname='public' ORDER BY 1"
    postgres.execute("CREATE TABLE alembic_version (version_num TEXT)", database)
    postgres.execute("CREATE TABLE studies (id INT)", database)
    with pytest.raises(DatabaseUnusable, match=r"program \(alembic_version, studies\); give Encor"):
        open_database(postgres.url(database))
    assert postgres.execute(tables, database) == [("alembic_version",), ("studies",)]


def test_a_user_without_rights_is_told_which(postgres: Server, database: str) -> None:
    """A database that others own, and where this user may look but not create."""
    postgres.execute("CREATE USER guest PASSWORD 'hunter2'")
    url = f"postgresql+psycopg://guest:hunter2@127.0.0.1:{postgres.port}/{database}"
    with pytest.raises(DatabaseUnusable, match=r"permission denied .+ let this user create tables"):
        open_database(url)
    postgres.execute("DROP USER guest")


def test_a_server_too_old_is_refused(
    postgres: Server, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence names its version and the one that is needed."""
    monkeypatch.setattr(server, "OLDEST", (99,))
    with pytest.raises(DatabaseUnusable, match=r"is PostgreSQL \d.+, and Encore needs 99 or newer"):
        open_database(postgres.url(database))


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(DatabaseUnusable, match=r"needs the driver psycopg.+\.\[postgres\]"):
        open_database("postgresql://me:hunter2@host/db")


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("{user}:hunter2@127.0.0.1:{port}/postgres", "check the user and the password"),
        ("{user}@127.0.0.1:{port}/postgres", "no password supplied; check the user and the pass"),
        ("{user}:{secret}@127.0.0.1:{port}/nowhere", "create it with `createdb`"),
        ("{user}:{secret}@127.0.0.1:{free}/postgres", "refused; check the host and the port"),
        ("{user}:{secret}@localhost:{free}/postgres", "refused; check the host and the port"),
        ("{user}:{secret}@no-such-host.invalid/db", "check the host and the port"),
        ("{user}:{secret}@/db?host=/nowhere", "check the host and the port"),
        ("{user}:{secret}@127.0.0.1:{port}/postgres?hunter2=x", "check the options after the ?"),
        ("{user}:{secret}@127.0.0.1:{port}/postgres?sslmode=require", "SSL was required"),
    ],
)
def test_what_cannot_be_reached_is_refused_in_a_sentence(
    postgres: Server, place: str, says: str
) -> None:
    """Whatever is wrong with an address, a line says what, and what to do; never the password."""
    secret = "s3cr3t" if "{port}" not in place else QUOTED
    url = place.format(user=USER, secret=secret, port=postgres.port, free=free_port())
    with pytest.raises(DatabaseUnusable, match=says) as caught:
        open_database(f"postgresql+psycopg://{url}")
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"postgresql+psycopg://{USER}")
    for hidden in ("s3cr3t", PASSWORD, QUOTED):
        assert hidden not in text
