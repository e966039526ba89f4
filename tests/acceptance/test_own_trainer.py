"""The trainer of `docs/own-training.md`: searched with, killed, gone on with, chosen from."""

import hashlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import cli

ROOT = Path(__file__).parents[2]
SLOWER = "\nimport time\nreal = MyTrainer.train\ndef train(self, task):\n    "
SLOWER += "for epoch in real(self, task):\n        time.sleep(0.2)\n        yield epoch\n"
SLOWER += "MyTrainer.train = train\n"


def example() -> str:
    """Return the trainer of `docs/own-training.md`."""
    text = (ROOT / "docs/own-training.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    (found,) = (block for block in blocks if "class MyTrainer" in block)
    return str(found)


def start(folder: Path, *flags: str) -> subprocess.Popen[bytes]:
    """Begin a search with it on the digits, over two workers."""
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(example() + SLOWER, encoding="utf-8")
    command = [sys.executable, str(ROOT / "cli.py"), "search", "--trainer", "mine:MyTrainer"]
    command += ["--devices", "cpu:2", "--sampler", "random", "--trials", "6", *flags]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, start_new_session=True)


def query(folder: Path, sql: str) -> list[Any]:
    """Ask the database, past all of ours; nothing if it is not there yet."""
    try:
        uri = f"{(folder / 'runs' / 'encore.db').as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            return connection.execute(sql).fetchall()
    except sqlite3.OperationalError:
        return []


def weights(folder: Path) -> dict[str, str]:
    """Return the hash of each stage run's best weights, checked against the file."""
    sql = "SELECT key, path FROM encore_checkpoints JOIN encore_stage_runs ON id = stage_run_id"
    found = query(folder, f"{sql} WHERE kind = 'best'")
    return {
        key: hashlib.sha256((folder / "runs" / "digits" / path).read_bytes()).hexdigest()
        for key, path in found
    }


def test_it_is_short() -> None:
    """At most 40 lines, no longer than ours."""
    lines = [line for line in example().splitlines() if line.strip()]
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100


@pytest.mark.slow
def test_it_is_searched_with_killed_and_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Coordinator and workers die by SIGKILL; the same command ends, weights are bit-identical."""
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    calm_search, killed = start(calm), start(rough)
    deadline = time.monotonic() + 60
    while len(query(rough, "SELECT * FROM encore_epochs")) < 3:
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    again = start(rough)
    for search in (calm_search, again):
        _, said = search.communicate(timeout=120)
        assert search.returncode == 0, said
    states = query(rough, "SELECT DISTINCT state FROM encore_trials")
    assert {state for (state,) in states} <= {"complete", "pruned"}
    ours, theirs = weights(rough), weights(calm)
    common = ours.keys() & theirs.keys()
    assert common
    assert {key: ours[key] for key in common} == {key: theirs[key] for key in common}

    monkeypatch.chdir(rough)
    assert cli.run(["best", "--json"]) == 0
    chosen = json.loads(capsys.readouterr().out)
    assert Path(chosen["file"]).is_file()
    assert chosen["trials"] == 6
