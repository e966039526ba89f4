"""Searches by the command line on one PostgreSQL server, at the same time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from study.history.trials import list_trials
from tests.postgres import PASSWORD, QUOTED, Server
from tests.tiny_search import SETTINGS
from tests.tiny_training import noise

CLI = Path(__file__).parents[2] / "cli.py"


@pytest.mark.slow
def test_two_at_once_and_no_password_is_left(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both studies are whole, and the URL's password is in no row, no file and no output."""
    database = postgres.create()
    url = postgres.url(database)
    noise(tmp_path / "photos")
    (tmp_path / "study.toml").write_text(SETTINGS)
    command = [sys.executable, str(CLI), "search", "--data", "photos", "--trials", "2"]
    searches = [
        subprocess.Popen(
            [*command, "--storage", url, "--study", name],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for name in ("planes", "trains")
    ]  # fmt: skip
    said = [search.communicate(timeout=300)[0] for search in searches]
    assert [search.returncode for search in searches] == [0, 0], said
    monkeypatch.chdir(tmp_path)
    for name in ("planes", "trains"):
        assert [line.state for line in list_trials(name, storage=url).trials] == ["complete"] * 2
    tables = postgres.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public'", database
    )
    rows = [
        postgres.execute(f'SELECT whole::text FROM "{table}" whole', database)  # noqa: S608 - the server's names
        for (table,) in tables
    ]
    files = [path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    for secret in (PASSWORD, QUOTED, json.dumps(PASSWORD)[1:-1]):
        assert secret not in str(rows)
        assert not any(secret.encode() in content for content in (*files, *said))
