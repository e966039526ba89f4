"""Databases of every age and kind are opened, upgraded or refused."""

import re
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from storage import schema_version
from storage.database import open_database, reading
from storage.errors import DatabaseTooNew, DatabaseUnusable, StudyNotFound
from storage.records import State
from storage.redaction import redact
from storage.store import Store
from storage.tables import Base, is_ours
from tests.contract.conftest import epoch
from trainers.schedule import Schedule, Stage

SCHEDULE = Schedule(backbone="resnet18", stages=(Stage(image_size=64, batch_size=8),))
T = "'2026-01-02 03:04:05.000000'"
OLD_ROWS = f"""
    INSERT INTO encore_studies (id, name, metric, manifest_digest, config, space, created_at,
        used_at) VALUES (1, 'old', 'f1', 'm', '{{"a": 1}}', '{{}}', {T}, {T});
    INSERT INTO encore_manifests VALUES ('m', '/photos', x'');
    INSERT INTO encore_stage_runs (id, study_id, key, position, seed, image_size, epochs, state,
        trial_number, seconds, started_at, finished_at)
        VALUES (5, 1, 'k', 0, 7, 64, 1, 'complete', 0, 2.5, {T}, {T});
    INSERT INTO encore_trials VALUES (3, 1, 0, '{SCHEDULE.digest}', '{SCHEDULE.to_json()}', 7,
        'explore', 'complete', 0.75, 0.5, 5, 1, NULL, 2.5, {T}, {T});
    INSERT INTO encore_trial_stages VALUES (3, 0, 5);
    INSERT INTO encore_epochs (stage_run_id, epoch, cycle, lrs, train_loss, valid_loss, accuracy,
        balanced_accuracy, f1, seconds, images_per_second) VALUES (
        5, 1, 1, '[0.1, 0.2, 0.3]', 1, 0.5, 0.8, 0.7, 0.75, 2.5, 9);
    INSERT INTO encore_predictions VALUES (5, 1, 'full', x'00');
    INSERT INTO encore_checkpoints VALUES (5, 'best', 'w.safetensors', 'f', 10, 1, 0.75);
"""  # noqa: S608 - written here, for a database of our own
OPEN = "from storage.database import open_database as o; import sys; o(sys.argv[1]).dispose()"


def run_sql(path: Path, script: str) -> None:
    """Run plain SQL on a database, past all of ours."""
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()


def tables(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Read all rows of all tables, past all of ours."""
    connection = sqlite3.connect(path)
    names = [name for (name,) in connection.execute("SELECT name FROM pragma_table_list")]
    rows = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in names}  # noqa: S608
    connection.close()
    return rows


def database_at(revision: str, path: Path) -> Path:
    """Make a database with rows as a release left it that ended at that revision."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        schema_version.upgrade(connection, revision)
    engine.dispose()
    run_sql(path, OLD_ROWS)
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Make a database with rows as the first release left it, at revision 0001."""
    return database_at("0001", tmp_path / "old.db")


def test_old_database_is_upgraded_with_all_its_rows(old: Path) -> None:
    """Every row of revision 0001 is there after the upgrade; what is new is empty."""
    before = tables(old)
    open_database(f"sqlite:///{old}", create=False).dispose()
    after = tables(old)
    assert "encore_owners" not in before
    new = ("owners", "deletions", "looks", "checks", "names")
    assert [after.pop(f"encore_{name}") for name in new] == [[]] * len(new)
    for changed in (before, after):
        changed.pop("sqlite_schema")
    ((*study, identity, folder),) = after.pop("encore_studies")
    assert [tuple(study)] == before.pop("encore_studies")
    assert identity is folder is None
    assert before.pop("encore_version") == [("0001",)]
    assert after.pop("encore_version") == [(schema_version.REVISIONS[-1],)]
    ((*first, data_wait, micro_batch, calibrated_loss, own_score),) = after.pop("encore_epochs")
    assert [tuple(first)] == before.pop("encore_epochs")
    assert data_wait is micro_batch is calibrated_loss is own_score is None
    ((*run, taken_from, first_score, first_loss),) = after.pop("encore_stage_runs")
    assert [tuple(run)] == before.pop("encore_stage_runs")
    assert taken_from is first_score is first_loss is None
    assert after == before
    assert len(before["encore_trials"]) == 1


def test_epochs_that_were_not_measured_stay_so(tmp_path: Path) -> None:
    """An epoch of revision 0002 says nothing of waiting or memory; the next one may."""
    path = database_at("0002", tmp_path / "second.db")
    assert tables(path)["encore_version"] == [("0002",)]
    store = Store(open_database(f"sqlite:///{path}", create=False))
    (first,) = store.epochs(5)
    assert (first.epoch, first.train_loss, first.seconds, first.images_per_second) == (1, 1, 2.5, 9)
    store.record_epoch(5, replace(epoch(2), data_wait=0.25, micro_batch=4))
    assert [(e.data_wait, e.micro_batch) for e in store.epochs(5)] == [(None, None), (0.25, 4)]
    store.close()


def test_all_that_was_suggested_becomes_an_exploration(tmp_path: Path) -> None:
    """Branches and free suggestions of revision 0007 do; presets and repeats stay what they are."""
    roles = ("explore", "branch", "free", "preset", "repeat")
    path = database_at("0007", tmp_path / "seventh.db")
    rows = ", ".join(
        f"({10 + at}, 1, {1 + at}, 'd', '{SCHEDULE.to_json()}', 7, '{role}', 'running', 0, {T})"
        for at, role in enumerate(roles)
    )
    columns = "id, study_id, number, schedule_digest, schedule, seed, role, state, seconds"
    run_sql(path, f"INSERT INTO encore_trials ({columns}, started_at) VALUES {rows}")  # noqa: S608
    store = Store(open_database(f"sqlite:///{path}", create=False))
    _, *trials = store.trials(1)
    assert [trial.role.value for trial in trials] == ["explore"] * 3 + ["preset", "repeat"]
    store.close()


def test_epochs_of_an_earlier_encore_have_no_calibrated_loss(old: Path) -> None:
    """They count nowhere in what a search starts from; an epoch after the upgrade does."""
    store = Store(open_database(f"sqlite:///{old}", create=False))
    study = store.study("old")
    assert [each.calibrated_loss for each in store.epochs_of_study(study.id)] == [None]
    assert store.calibrated_losses(study) == {}
    store.record_epoch(5, replace(epoch(2), accuracy=0.9, f1=0.9, calibrated_loss=0.25))
    assert [each.calibrated_loss for each in store.epochs(5)] == [None, 0.25]
    assert store.calibrated_losses(study) == {5: 0.25}
    store.close()


def test_upgraded_database_is_of_use(old: Path) -> None:
    """What was searched with the first release is ranked by this one."""
    store = Store(open_database(f"sqlite:///{old}"))
    study = store.study("old")
    (ranked,) = store.ranking(study)
    assert ranked.trial.schedule == SCHEDULE
    assert ranked.trial.state is State.COMPLETE
    assert ranked.checkpoint is not None
    assert ranked.checkpoint.path == "w.safetensors"
    (epoch,) = store.epochs_of_trial(ranked.trial.id)
    assert epoch.score(study.metric) == 0.75
    assert store.owner(study.id) is None
    store.close()


def test_failed_upgrade_changes_nothing(tmp_path: Path) -> None:
    """An upgrade that fails at its last table leaves none of the tables before it."""
    path = tmp_path / "odd.db"
    run_sql(path, "CREATE TABLE encore_checkpoints (odd)")
    with pytest.raises(DatabaseUnusable, match="encore_checkpoints already exists"):
        open_database(f"sqlite:///{path}")
    assert set(tables(path)) <= {"encore_checkpoints", "sqlite_schema", "sqlite_temp_schema"}


def test_newer_database_is_refused_untouched(old: Path) -> None:
    """A database of a later release is not guessed at."""
    run_sql(old, "UPDATE encore_version SET version_num = '0999'")
    before = tables(old)
    with pytest.raises(
        DatabaseTooNew, match=r"written by a newer Encore .+; upgrade encore-search"
    ):
        open_database(f"sqlite:///{old}")
    assert tables(old) == before


def test_optunas_tables_and_version_are_untouched(tmp_path: Path) -> None:
    """Both live in one file, each with its own version table, in either order."""
    path = tmp_path / "shared.db"
    optuna.storages.RDBStorage(f"sqlite:///{path}").engine.dispose()
    before = tables(path)
    open_database(f"sqlite:///{path}").dispose()
    after = tables(path)
    assert before["alembic_version"]
    theirs = [name for name in before if not name.startswith("sqlite_")]
    assert {name: after[name] for name in theirs} == {name: before[name] for name in theirs}
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    assert optuna.create_study(storage=storage).trials == []


FIRST, *LATER = schema_version.REVISIONS[:-1]


@pytest.mark.parametrize(
    "revision", [None, FIRST, *(pytest.param(each, marks=pytest.mark.long) for each in LATER)]
)
def test_migrated_tables_are_those_the_code_describes(tmp_path: Path, revision: str | None) -> None:
    """From any revision on, Alembic finds no difference to what `storage/tables.py` says."""
    if revision:
        database_at(revision, tmp_path / "new.db")
    url = f"sqlite:///{tmp_path / 'new.db'}"
    optuna.storages.RDBStorage(url).engine.dispose()
    with reading(open_database(url)) as connection:
        options = {"include_name": is_ours, "version_table": schema_version.VERSION_TABLE}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []


def test_known_revisions_are_those_in_the_folder() -> None:
    """The list that spares us importing Alembic is the one Alembic would find."""
    folder = Path(schema_version.__file__).with_name("migrations")
    config = Config()
    config.set_main_option("script_location", str(folder))
    found = ScriptDirectory.from_config(config).walk_revisions()
    assert tuple(script.revision for script in found)[::-1] == schema_version.REVISIONS


@pytest.mark.long
def test_processes_that_open_a_new_database_at_once_all_succeed(tmp_path: Path) -> None:
    """Two coordinators started together on a new URL find one database, made once."""
    for attempt in range(2):
        url = f"sqlite:///{tmp_path / str(attempt) / 'new.db'}"
        command = [sys.executable, "-c", OPEN, url]
        children = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
        for child in children:
            _, errors = child.communicate(timeout=60)
            assert child.returncode == 0, errors.decode()
        assert Store(open_database(url, create=False)).studies() == []


def test_opening_to_read_imports_nothing_heavy(tmp_path: Path) -> None:
    """An up-to-date database is opened without Alembic, Optuna, pandas or torch."""
    url = f"sqlite:///{tmp_path / 'new.db'}"
    open_database(url).dispose()
    code = "import storage.store; " + OPEN + "; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, url], capture_output=True, text=True, check=True
    )
    modules = {name.partition(".")[0] for name in done.stdout.split()}
    assert "sqlalchemy" in modules
    assert not modules & {"alembic", "optuna", "pandas", "torch"}


def test_message_shows_the_path_as_it_was_written(tmp_path: Path) -> None:
    """A folder's odd characters are neither mangled in the file's name nor in an error."""
    path = tmp_path / "Müller & Söhne #1" / "50%.db"
    store = Store(open_database(f"sqlite:///{path}"))
    assert path.exists()
    with pytest.raises(
        StudyNotFound, match=re.escape(f"'x' in sqlite:///{path}; run a search first")
    ):
        store.study("x")
    store.close()


def test_nothing_is_created_where_one_only_looks(tmp_path: Path) -> None:
    """With create=False a missing file stays missing, and a file without our tables as it is."""
    missing, empty, theirs = (tmp_path / name for name in ("missing/x.db", "empty.db", "optuna.db"))
    empty.touch()
    optuna.storages.RDBStorage(f"sqlite:///{theirs}").engine.dispose()
    for path in (missing, empty, theirs):
        with pytest.raises(StudyNotFound, match=r"no studies in .+; run a search first"):
            open_database(f"sqlite:///{path}", create=False)
    assert not missing.parent.exists()
    assert empty.stat().st_size == 0 or not any(n.startswith("encore_") for n in tables(empty))
    assert not any(name.startswith("encore_") for name in tables(theirs))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlite:///{folder}/text.db", "file is not a database"),
        ("sqlite:///{folder}", "is a folder"),
        ("sqlite:///{folder}/text.db/x.db", "cannot be used"),
        ("sqlite:////proc/encore/x.db", "cannot be used"),
        ("sqlite://", "must name a file"),
        ("sqlite:///file:x.db?uri=true", "must name a file"),
        ("encore.db", "not the URL of a database"),
        ("postgres://me:hunter2@host/db", "needs the driver"),
        ("postgresql+nodriver://me:hunter2@host/db", "needs the driver"),
        ("postgresql://me:hunter2@host:port/db", "not the URL of a database"),
        ("postgresql//me:hunter2@host/db", "not the URL of a database"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(
    tmp_path: Path, url: str, reason: str
) -> None:
    """Whatever is wrong with a URL, the answer is one line that shows it without its password."""
    (tmp_path / "text.db").write_text("this is a text, not a database\n" * 100)
    with pytest.raises(DatabaseUnusable, match=reason) as caught:
        open_database(url.format(folder=tmp_path))
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////a/b:c@d.db", "sqlite:////a/b:c@d.db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql://me:hunter2@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me:hun@ter2@host/db", "postgresql://me:***@host/db"),
        ("postgresql://host/db?password=hunter2&a=b", "postgresql://host/db?password=***&a=***"),
        ("postgresql//me:hunter2@host/db", "postgresql//me:***@host/db"),
        ("postgresql:me:hunter2@host/db", "***@host/db"),
        ("postgresql://me:hun/ter2@host:x/db", "postgresql://me:***@host:x/db"),
    ],
)
def test_redacted_url_shows_no_password(url: str, shown: str) -> None:
    """A password is hidden wherever it stands, even in a URL that cannot be read."""
    assert redact(url) == shown
