"""Optuna's dashboard: refused in one sentence, or served to this machine alone."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from storage.errors import StudyNotFound
from study.dashboard.serve import dashboard
from study.errors import ConfigError
from tests.lab import Lab

ROOT = Path(__file__).parents[2]


@pytest.fixture
def port() -> int:
    """Return a port that is free."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_taken_port_is_told_with_the_way_out(finished: Lab) -> None:
    """Nothing is served, and the flag is named."""
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        ready: list[str] = []
        with pytest.raises(ConfigError, match=rf"port {taken} cannot be used .+ --port") as error:
            dashboard(storage=finished.url, port=taken, ready=ready.append)
        assert "\n" not in str(error.value)
        assert ready == []


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path, port: int) -> None:
    """A misspelt URL is told, and leaves no file behind."""
    with pytest.raises(StudyNotFound, match="there are no studies in"):
        dashboard(storage=f"sqlite:///{tmp_path / 'none.db'}", port=port)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def server(finished: Lab, port: int) -> Iterator["subprocess.Popen[Any]"]:
    """Start the command and return it once it answers."""
    command = [sys.executable, str(ROOT / "cli.py"), "dashboard"]
    command += ["--storage", finished.url, "--port", str(port)]
    with subprocess.Popen(
        command, cwd=finished.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as started:
        try:
            wait_for(started, port)
            yield started
        finally:
            started.kill()


def wait_for(server: "subprocess.Popen[Any]", port: int) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + 60
    while not can_connect("127.0.0.1", port):
        assert server.poll() is None, server.stdout and server.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def can_connect(host: str, port: int) -> bool:
    """Return whether a server listens there."""
    with closing(socket.socket()) as probe:
        probe.settimeout(2)
        return probe.connect_ex((host, port)) == 0


def own_addresses() -> set[str]:
    """Return this machine's addresses beside 127.0.0.1, as far as they can be found."""
    # All of 127/8 is this machine on Linux; elsewhere no server answers there anyway.
    found = {"127.0.0.2"}
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
            found.add(probe.getsockname()[0])
        except OSError:
            pass
    return found - {"127.0.0.1"}


def get(port: int, path: str) -> tuple[int, str, str]:
    """Ask for a page; return its status, kind and text."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        kind = answer.getheader("Content-Type", "")
        return answer.status, kind.partition(";")[0], answer.read().decode()


def test_this_machine_alone_is_told_the_winner_and_every_trial_s_parameters(
    server: "subprocess.Popen[Any]", port: int
) -> None:
    """The page and the studies are there, but at no address that others could reach.

    The study's note has the estimate, each trial has parameters, the terminal stays calm.
    """
    status, kind, _ = get(port, "/dashboard")
    assert (status, kind) == (200, "text/html")
    assert get(port, "/")[0] in (200, 302)
    assert [host for host in own_addresses() if can_connect(host, port)] == []
    status, kind, text = get(port, "/api/studies")
    assert (status, kind) == (200, "application/json")
    [study] = json.loads(text)["study_summaries"]
    assert study["study_name"] == "lab"
    found = json.loads(get(port, f"/api/studies/{study['study_id']}?after=0")[2])
    assert "**Winner: trial" in found["note"]["body"]
    assert "estimated accuracy on new photos" in found["note"]["body"].replace("\\", "")
    assert all(trial["params"] for trial in found["trials"])
    assert get(port, f"/api/studies/{study['study_id']}/param_importances")[0] == 200
    server.kill()
    assert server.stdout is not None
    said = server.stdout.read().decode()
    assert "Warning" not in said
    assert len(said.splitlines()) <= 2
