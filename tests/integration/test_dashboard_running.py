"""The dashboard beside a search that runs: real processes, one SQLite file, no harm done."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from storage.records import State
from tests.chaos_search import make_lab
from tests.engines import until
from tests.unit.test_dashboard import ROOT, port, wait_for

__all__ = ["port"]

TRIALS = 24


class Visitor:
    """A client that clicks: counts answers, and keeps the bad ones."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.bad: list[str] = []
        self.visits = 0

    def ask(self, path: str, method: str = "GET", body: Any = None) -> bytes:
        """Ask for a page, and note it if it fails."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        self.visits += 1
        if answer.status >= 400:
            self.bad.append(f"{method} {path}: {answer.status} {content[:200]!r}")
        return content

    def trials(self) -> list[dict[str, Any]]:
        """Load the page's data, as it does by itself every few seconds."""
        studies = json.loads(self.ask("/api/studies"))["study_summaries"]
        return [
            trial
            for study in studies
            for trial in json.loads(self.ask(f"/api/studies/{study['study_id']}?after=0"))["trials"]
        ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with an empty study."""
    lab = make_lab(tmp_path / "lab", TRIALS)
    with lab.bench():
        pass
    return tmp_path / "lab"


@pytest.fixture
def served(folder: Path, port: int) -> Iterator[tuple[Visitor, "subprocess.Popen[str]"]]:
    """Serve the study in a process of its own."""
    command = [sys.executable, str(ROOT / "cli.py"), "dashboard", "--port", str(port)]
    command += ["--storage", f"sqlite:///{folder / 'encore.db'}"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            wait_for(server, port)
            yield Visitor(port), server
        finally:
            server.kill()


@pytest.mark.slow
def test_a_search_is_never_disturbed(
    folder: Path, served: tuple[Visitor, "subprocess.Popen[str]"]
) -> None:
    """Loaded, clicked and reloaded all the while, the search loses no write, the visitor nothing.

    Every epoch of every trial is there once, all trials end well, no lock is reported, and
    Optuna's own tables hold none of our notes.
    """
    visitor, server = served
    command = [sys.executable, "-m", "tests.chaos_search", str(folder), str(TRIALS)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as search:
        while search.poll() is None:
            for trial in visitor.trials()[-3:]:
                for artifact in trial["artifacts"]:
                    if artifact["filename"] in ("curves.png", "confusion.png"):
                        visitor.ask(f"/artifacts/1/{trial['trial_id']}/{artifact['artifact_id']}")
            visitor.ask("/dashboard")
        heard = search.communicate()[0]
    assert search.returncode == 0, heard
    assert heard == ""
    assert visitor.bad == []
    assert visitor.visits > 20
    lab = make_lab(folder, TRIALS)
    with lab.reading() as (store, study, _):
        trials = store.trials(study.id)
        assert {trial.state for trial in trials} <= {State.COMPLETE, State.PRUNED}
        for trial in trials:
            epochs = store.epochs_of_trial(trial.id)
            places = [(each.stage, each.epoch) for each in epochs]
            assert len(set(places)) == len(places)
            if trial.state is State.COMPLETE:
                assert len(places) == trial.schedule.epochs
    # For some seconds the dashboard answers with the trials that it has read before.
    until(lambda: sum(bool(trial["note"]["body"]) for trial in visitor.trials()) == len(trials))
    server.terminate()
    said = server.communicate()[0]
    assert not re.search("lock|Traceback|OperationalError", said), said
    database = (folder / "encore.db").read_bytes()
    assert b"dashboard:" not in database


@pytest.mark.long
def test_what_people_write_stays_and_comes_first(
    folder: Path, served: tuple[Visitor, "subprocess.Popen[str]"]
) -> None:
    """A note edited by a user is kept in the database, and ours is no longer shown."""
    visitor, _ = served
    make_lab(folder, 2).search()
    before = next(trial for trial in visitor.trials() if trial["note"]["body"])
    assert before["note"]["version"] == 1
    place = f"/api/studies/1/{before['trial_id']}/note"
    visitor.ask(place, "PUT", {"version": 2, "body": "mine"})
    after = next(t for t in visitor.trials() if t["trial_id"] == before["trial_id"])
    assert after["note"] == {"version": 2, "body": "mine"}
    assert visitor.bad == []
