"""Reading needs no right to write: not to the database, nor to any folder around it."""

import ctypes
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import create_engine

from storage import schema_version
from storage.errors import DatabaseUnusable
from storage.read_only import source_of
from storage.store import open_store
from tests.lab import Lab
from tests.studies import write_study
from tests.tiny_training import card_of, network_of
from trainers.checkpoint import save_weights

ROOT = Path(__file__).parents[2]
_DROP, _DAC_OVERRIDE = 24, 1
"""Linux's PR_CAPBSET_DROP, and the capability by which root may write what is read-only."""


def _obey_permissions() -> None:
    """Have a child obey permission bits though root starts it."""
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(_DROP, _DAC_OVERRIDE, 0, 0, 0):
        os._exit(77)


def _encore(folder: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    found = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=_obey_permissions,
        check=False,
    )
    if found.returncode == 77:
        pytest.skip("needs Linux, where root can give up its right to write everything")
    return found


def _lock(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """Make a study's folder that nothing can be written to."""
    folder = tmp_path / "locked"
    folder.mkdir()
    write_study(folder, 4)
    _lock(folder)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="of capabilities and permission bits")
@pytest.mark.parametrize(
    "arguments",
    [["ls"], ["show", "0"], ["best"], ["doctor"], ["report", "--to", "out.html"]],
    ids=lambda arguments: arguments[0],
)
def test_reading_commands_work_on_a_read_only_folder(
    locked: Path, tmp_path: Path, arguments: list[str]
) -> None:
    """With permission bits alone between them and the files; nothing appears in the folder."""
    before = sorted(locked.rglob("*"))
    database = next(locked.rglob("*.db"))
    found = _encore(tmp_path, [*arguments, "--storage", f"sqlite:///{database}"])
    assert found.returncode == 0, found.stderr
    assert sorted(locked.rglob("*")) == before
    if arguments == ["doctor"]:
        assert "read-only: it is read as it is" in found.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="of capabilities and permission bits")
def test_predict_works_where_nothing_can_be_written(tmp_path: Path) -> None:
    """With weights, photos and the current folder read-only; no file appears."""
    folder = tmp_path / "locked"
    folder.mkdir()
    save_weights(folder / "tiny.safetensors", network_of().state_dict(), card_of())
    Image.new("RGB", (40, 30), "red").save(folder / "red.png")
    _lock(folder)
    before = sorted(folder.rglob("*"))
    found = _encore(folder, ["predict", "red.png", "--weights", "tiny.safetensors", "--json"])
    assert found.returncode == 0, found.stderr
    assert "red.png" in found.stdout
    assert sorted(folder.rglob("*")) == before


@pytest.fixture
def finished_for_good(finished: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Have a study's database count as read-only, also for root."""
    monkeypatch.setattr("storage.database.is_read_only", lambda _: True)
    return finished


def _read(url: str) -> tuple[int, bool]:
    with open_store(url, create=False) as store:
        return len(store.trials(store.studies()[0].id)), store.is_written


def test_a_read_only_database_is_read_and_never_written(finished_for_good: Lab) -> None:
    """What is asked to write says so in a sentence, and the file keeps its bytes."""
    url = finished_for_good.url
    file = Path(url.removeprefix("sqlite:///"))
    before = file.read_bytes()
    trials, written = _read(url)
    assert trials > 0
    assert not written
    refused = pytest.raises(DatabaseUnusable, match="readonly")
    with open_store(url, create=False) as store, refused:
        store.move_study(store.studies()[0].id, "elsewhere")
    assert file.read_bytes() == before


def test_without_a_log_no_log_is_made(finished: Lab) -> None:
    """Where SQLite would have to make one to read, it is told that the file does not change."""
    with closing(source_of(Path(finished.url.removeprefix("sqlite:///"))).connect()) as connection:
        assert connection.execute("SELECT count(*) FROM encore_trials").fetchone()[0] > 0


def test_a_database_of_an_earlier_encore_is_read_in_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be brought up to date where it lies: its bytes stay, all of it is read."""
    path = tmp_path / "old.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        schema_version.upgrade(connection, "0001")
    engine.dispose()
    before = path.read_bytes()
    monkeypatch.setattr("storage.database.is_read_only", lambda file: file == path)
    with open_store(f"sqlite:///{path}", create=False) as store:
        assert (store.studies(), store.is_written) == ([], False)
    assert path.read_bytes() == before


def test_what_a_crash_left_in_the_log_is_read_too(tmp_path: Path) -> None:
    """The last transactions are in the log alone; read-only, it cannot be merged where it lies."""
    live, dead = tmp_path / "live.db", tmp_path / "dead.db"
    with closing(sqlite3.connect(live, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE found (number INTEGER)")
        connection.execute("INSERT INTO found VALUES (7)")
        for end in ("", "-wal"):
            shutil.copyfile(f"{live}{end}", f"{dead}{end}")
    log = Path(f"{dead}-wal").read_bytes()
    with closing(source_of(dead).connect()) as connection:
        assert connection.execute("SELECT number FROM found").fetchall() == [(7,)]
    assert Path(f"{dead}-wal").read_bytes() == log
