"""Databases and files that are damaged, full or of another Optuna: a sentence, no "unexpected"."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import event

import cli
from storage.database import open_database
from storage.errors import DatabaseFull, DatabaseTooNew, DatabaseUnusable
from storage.store import Store
from study.errors import NothingToSelect
from study.history import doctor as module
from study.history.doctor import Level, doctor
from study.searching.optuna_storage import optuna_storage
from study.searching.retention import Spare, discard
from study.selection.best import best
from tests.lab import Lab, schedule, stage
from trainers.metrics import Metric

PAGE = 4096


@pytest.fixture(autouse=True)
def _healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say nothing of the machine, which is asked for with torch."""
    monkeypatch.setattr(module, "_machine", lambda: iter(()))


def change(lab: Lab, statement: str) -> None:
    """Change rows of the database behind everybody's back."""
    with sqlite3.connect(lab.folder / "encore.db") as connection:
        assert connection.execute(statement).rowcount > 0


def test_whatever_page_is_damaged_it_is_said(finished: Lab) -> None:
    """Of `best` and `doctor`: an answer, or one of the errors that the command line knows."""
    path = finished.folder / "encore.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = path.read_bytes()
    answers = 0
    for start in range(PAGE, len(whole), 3 * PAGE):
        for name in ("encore.db-wal", "encore.db-shm"):
            (finished.folder / name).unlink(missing_ok=True)
        path.write_bytes(whole[:start] + b"\xa5" * PAGE + whole[start + PAGE :])
        assert doctor(storage=finished.url)
        try:
            best(storage=finished.url)
            answers += 1
        except (DatabaseUnusable, NothingToSelect):
            pass
    assert answers > 5


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE encore_manifests SET document = substr(document, 1, 40)",
        "UPDATE encore_studies SET config = '{'",
        "UPDATE encore_studies SET created_at = 'yesterday'",
    ],
)
def test_rows_that_are_none_are_named(finished: Lab, statement: str) -> None:
    """A manifest, a JSON or a date that cannot be read: `best` says so, `doctor` goes on."""
    change(finished, statement)
    with pytest.raises(DatabaseUnusable, match="restore it from a copy"):
        best(storage=finished.url)
    assert Level.BAD in {finding.level for finding in doctor(storage=finished.url)}


def test_a_path_out_of_the_vault_is_no_file_of_it(finished: Lab, tmp_path: Path) -> None:
    """It is passed over and named by `best`, named by `doctor`, and never deleted."""
    with finished.reading() as (store, study, vault):
        first, second = (each.checkpoint for each in store.ranking(study)[:2])
        assert first is not None
        assert second is not None
        (tmp_path / "mine").write_bytes(vault.path(first.path).read_bytes())
    outside = os.path.relpath(tmp_path / "mine", finished.folder / "lab")
    change(
        finished,
        f"UPDATE encore_checkpoints SET path = '{outside}' WHERE path = '{first.path}'",  # noqa: S608
    )
    chosen = best(storage=finished.url)
    assert chosen.damaged == (outside,)
    assert Path(chosen.file).name == Path(second.path).name
    (found,) = [each for each in doctor(storage=finished.url) if each.level is Level.BAD]
    assert outside in found.found
    with finished.reading() as (store, study, vault):
        (lost,) = [each for each in store.checkpoints(study.id) if each.path == outside]
        discard([Spare(lost, "not needed")], study.id, store, vault)
        assert outside not in store.known_paths(study.id)
    assert (tmp_path / "mine").exists()


def test_a_sparse_terabyte_is_not_read(finished: Lab) -> None:
    """In place of the best file it is known by its size, at once; `--weights` says the bound."""
    with finished.reading() as (store, study, vault):
        first = store.ranking(study)[0].checkpoint
        assert first is not None
        os.truncate(vault.path(first.path), 10**12)
        path = vault.path(first.path)
    assert best(storage=finished.url).damaged == (first.path,)
    assert cli.run(["search", "--weights", str(path), "--storage", finished.url]) == 2


def test_a_full_database_is_told_with_what_to_do(tmp_path: Path) -> None:
    """Whether our rows or Optuna's find no room: make some, and the same command goes on."""
    url = f"sqlite:///{tmp_path / 'encore.db'}"
    engine = open_database(url)
    theirs = optuna_storage(url)

    def bounded(connection: sqlite3.Connection, _: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    for each in (engine, theirs.engine):
        each.dispose()
        event.listen(each, "connect", bounded)
    store = Store(engine)

    def ours() -> None:
        for number in range(99):
            store.create_study(f"{number}", Metric.F1, "d" * 64, {"a": "b" * 9999}, {})

    def optunas() -> None:
        for number in range(99):
            theirs.set_study_user_attr(study, f"{number}", "b" * 9999)

    study = theirs.create_new_study([], "lab")
    for write in (ours, optunas):
        with pytest.raises(DatabaseFull, match="make room and run the same command again: it goe"):
            write()
    store.close()
    theirs.engine.dispose()


def test_tables_of_another_optuna_are_named(make_lab: Callable[..., Lab]) -> None:
    """A newer Optuna's schema is refused in a sentence."""
    lab = make_lab(schedule(stage()))
    lab.search()
    change(lab, "UPDATE alembic_version SET version_num = 'v9.9.0.a'")
    with pytest.raises(DatabaseTooNew, match="holds tables of another Optuna, which this one, 5"):
        lab.search()
