"""One coordinator a study: who comes second is told, who is dead is replaced, who lost learns."""

import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from unittest import mock

import pytest

from storage.database import open_database
from storage.errors import StudyInUse
from storage.ownership import Claim
from storage.records import Role
from storage.store import Store
from study.searching import ownership
from study.searching.ownership import STALE_AFTER, DatabaseReplaced, Ownership
from tests.lab import schedule, stage
from trainers.metrics import Metric

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from storage.database import open_database
from storage.store import Store
from study.searching.ownership import Ownership
store = Store(open_database(sys.argv[1]))
with Ownership(store, int(sys.argv[2])):
    print("mine", flush=True)
    input()
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Open a store with one study, of id 1."""
    store = Store(open_database(f"sqlite:///{tmp_path / 'encore.db'}"))
    assert store.create_study("planes", Metric.ACCURACY, "m", {}, {}).id == 1
    yield store
    store.close()


@pytest.fixture
def holder(store: Store) -> Iterator[subprocess.Popen[str]]:
    """Start another process that owns the study."""
    command = [sys.executable, "-c", HOLD, str(store._engine.url), "1"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "mine\n"
        yield child
        child.kill()


def test_a_second_search_is_refused_and_told_by_whom(
    store: Store, holder: subprocess.Popen[str]
) -> None:
    """The sentence names the process and its command, and the first one does not notice."""
    with pytest.raises(StudyInUse) as refused, Ownership(store, 1):
        pass
    text = str(refused.value)
    assert f"process {holder.pid} on " in text
    assert f"`{shlex.join(['-c', str(store._engine.url), '1'])}`" in text
    assert "\n" not in text
    assert holder.poll() is None
    owner = store.owner(1)
    assert owner is not None
    assert owner.pid == holder.pid


def test_an_owner_that_was_stopped_amid_a_transaction_is_named(
    store: Store, holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    """Writing is impossible then; the error states the reason, not that the database is locked."""
    with closing(sqlite3.connect(tmp_path / "encore.db")) as theirs:
        theirs.execute("BEGIN IMMEDIATE")
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(StudyInUse, match="which is stopped"), Ownership(store, 1):
            pass


def test_a_killed_owner_is_replaced_at_once(store: Store, holder: subprocess.Popen[str]) -> None:
    """There is no wait for a heartbeat that will never come."""
    holder.kill()
    holder.wait()
    with Ownership(store, 1) as mine:
        assert mine.lost is None
    assert store.owner(1) is None


def test_an_owner_that_ends_makes_room(store: Store, holder: subprocess.Popen[str]) -> None:
    """A search that is over leaves no owner behind, however it ended."""
    holder.communicate("\n", timeout=30)
    assert store.owner(1) is None
    with pytest.raises(KeyboardInterrupt), Ownership(store, 1):
        raise KeyboardInterrupt
    assert store.owner(1) is None


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def elsewhere() -> AbstractContextManager[object]:
    """Have this process be on another machine, of which only its heartbeat tells."""
    return mock.patch("study.searching.ownership.socket.gethostname", return_value="another")


def take_over(store: Store, token: str, after: timedelta) -> None:
    """Claim the study as a process on another host, which has watched its owner for a while."""
    owner = store.owner(1)
    assert owner is not None
    now = datetime.now(UTC) + after
    with mock.patch("storage.store.clock", return_value=now):
        store.claim(
            Claim(1, token),
            host="far",
            pid=1,
            command="python cli.py search",
            stale_after=STALE_AFTER,
            silent=owner.heartbeat_at,
        )


def test_a_heartbeat_keeps_the_study(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it lives, it says so again and again, and another host respects that."""
    monkeypatch.setattr(ownership, "HEARTBEAT_SECONDS", 0.01)
    with elsewhere(), Ownership(store, 1) as mine:
        first = store.owner(1)
        assert first is not None
        wait_for(lambda: (owner := store.owner(1)) and owner.heartbeat_at > first.heartbeat_at)
        with pytest.raises(StudyInUse):
            take_over(store, "other", STALE_AFTER / 2)
        assert mine.lost is None


def test_who_lost_the_study_learns_of_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a long sleep another host owns it: `lost` says who, and its row is left alone."""
    with elsewhere(), Ownership(store, 1) as mine:
        take_over(store, "other", 2 * STALE_AFTER)
        monkeypatch.setattr(ownership, "HEARTBEAT_SECONDS", 0.01)
        mine._beat()
        wait_for(lambda: mine.lost)
        assert "process 1 on far" in str(mine.lost)
    owner = store.owner(1)
    assert owner is not None
    assert owner.token == "other"  # noqa: S105 - no secret


def test_a_database_that_is_busy_for_once_ends_no_heartbeat(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that is not the loss of the study is outlived."""
    monkeypatch.setattr(ownership, "HEARTBEAT_SECONDS", 0.01)
    beats: list[int] = []
    real = store.heartbeat

    def stumbling(claim: Claim) -> None:
        beats.append(claim.study_id)
        if len(beats) < 3:
            raise OSError("busy")
        real(claim)

    monkeypatch.setattr(store, "heartbeat", stumbling)
    with Ownership(store, 1) as mine:
        wait_for(lambda: len(beats) > 4)
        assert mine.lost is None


def test_a_slow_clock_costs_nobody_the_study(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two minutes apart, the owner's heartbeats look old; but they come, which is watched."""
    monkeypatch.setattr(ownership, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(ownership, "WATCH_SECONDS", 0.5)
    said: list[str] = []
    real = datetime.now(UTC)
    slow = (datetime.now(UTC) - 2 * STALE_AFTER + timedelta(seconds=n) for n in count())
    behind = mock.patch("storage.ownership.clock", side_effect=lambda _: next(slow))
    with elsewhere(), behind, Ownership(store, 1) as mine:
        monkeypatch.setattr("study.searching.ownership.socket.gethostname", lambda: "here")
        wait_for(lambda: (owner := store.owner(1)) and owner.heartbeat_at < real - STALE_AFTER)
        with pytest.raises(StudyInUse, match="on another"), Ownership(store, 1, said.append):
            pass
        assert mine.lost is None
    assert len(said) == 1


def test_a_silent_owner_elsewhere_is_watched_and_then_replaced(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that was lost keeps the study for no longer than that."""
    monkeypatch.setattr(ownership, "WATCH_SECONDS", 0.01)
    with mock.patch("storage.store.clock", return_value=datetime.now(UTC) - 2 * STALE_AFTER):
        store.claim(Claim(1, "lost"), host="far", pid=1, command="", stale_after=STALE_AFTER)
    assert ownership.searcher(store, 1) is None
    with Ownership(store, 1) as mine:
        owner = store.owner(1)
        assert owner is not None
        assert owner.token == mine.claim.token


def test_what_stumbles_after_the_loss_says_that_it_was_lost(store: Store) -> None:
    """Whatever the other one's writes lead to here, the user reads the reason."""

    def stumble() -> None:
        with elsewhere(), Ownership(store, 1):
            take_over(store, "other", 2 * STALE_AFTER)
            raise ValueError("number must be new to the study, got 7")

    with pytest.raises(StudyInUse, match="process 1 on far"):
        stumble()


def test_a_write_in_the_moment_of_the_loss_is_undone(store: Store) -> None:
    """Between two heartbeats, no thread has noticed yet: the transaction itself does."""
    with elsewhere(), Ownership(store, 1) as mine:
        own = store.fenced(mine.claim)
        own.add_trial(1, 0, schedule(stage()), 0, Role.EXPLORE)
        take_over(store, "other", 2 * STALE_AFTER)
        assert mine.lost is None
        with pytest.raises(StudyInUse):
            own.add_trial(1, 1, schedule(stage()), 0, Role.EXPLORE)
    assert [trial.number for trial in store.trials(1)] == [0]


def delete(file: Path) -> None:
    """Delete the database."""
    file.unlink()


def restore(file: Path) -> None:
    """Put a copy in the database's place, as a backup does."""
    copy = file.with_suffix(".copy")
    shutil.copy(file, copy)
    copy.replace(file)


def empty(file: Path) -> None:
    """Put an empty file in the database's place."""
    file.unlink()
    file.with_suffix(".other").touch()
    file.with_suffix(".other").replace(file)


@pytest.mark.parametrize("disturb", [delete, restore, empty])
def test_a_database_that_is_no_longer_there_is_noticed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disturb: Callable[[Path], None]
) -> None:
    """The open file can no longer be found by its name: the next heartbeat says what to do."""
    monkeypatch.setattr(ownership, "HEARTBEAT_SECONDS", 0.01)
    with Ownership(store, 1) as mine:
        disturb(tmp_path / "encore.db")
        wait_for(lambda: mine.lost)
        assert isinstance(mine.lost, DatabaseReplaced)
        assert "put it back and run the same command again" in str(mine.lost)
        with pytest.raises(DatabaseReplaced):
            mine.confirm()
