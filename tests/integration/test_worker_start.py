"""Worker processes that die, or fall silent, before they can train: a retry, or one sentence.

What is started in place of Python is a shell script, so that they die for good or at will.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import resource_tracker, spawn
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from study.engines import processes
from study.engines.base import StageEnded
from study.engines.processes import ProcessEngine
from study.engines.slots import Slot, slots_of
from tests import lab
from tests.contract.conftest import told
from tests.engines import Watched, read, until, watched, workers
from trainers.base import StageTask

pytestmark = pytest.mark.skipif("sys.platform != 'linux'", reason="/proc, and shell scripts")

MANY = bytes(1_000_000)
"""What no pipe has room for: a recipe with the manifest of many photos."""

StartAs = Callable[[str], None]


@pytest.fixture
def start_as(tmp_path: Path) -> Iterator[StartAs]:
    """Return what has workers start as lines of shell, with `$python` "$@" to go on as they should.

    A test that hangs all the same ends after a minute.
    """
    before = spawn.get_executable()

    def start(lines: str) -> None:
        script = tmp_path / "start"
        script.write_text(f"#!/bin/sh\npython={sys.executable}\ncd {tmp_path}\n{lines}\n")
        script.chmod(0o755)
        multiprocessing.set_executable(str(script))

    def too_late(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError("it hangs")

    resource_tracker.ensure_running()  # it is started as Python in any case
    signal.signal(signal.SIGALRM, too_late)
    signal.alarm(60)
    yield start
    signal.alarm(0)
    multiprocessing.set_executable(before)


@pytest.fixture
def make_engine() -> Iterator[Callable[..., ProcessEngine]]:
    """Return what makes an engine without retries; afterwards all its processes must be gone."""
    made: list[ProcessEngine] = []

    def make(slots: int = 1, build: Any = watched, **options: Any) -> ProcessEngine:
        built = partial(build, **options) if options else build
        made.append(ProcessEngine(built, slots_of(f"cpu:{slots}"), max_retries=0))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
    assert workers() == []


def heavy(_slot: Slot, *, ballast: bytes) -> Watched:
    """Build a trainer from a recipe that is long."""
    assert ballast == MANY
    return Watched()


def fatal(_slot: Slot) -> Watched:
    """Die while the trainer is made, as in a library of a GPU that is broken."""
    os.kill(os.getpid(), signal.SIGSEGV)
    return Watched()


def task(folder: Path, key: str) -> StageTask:
    """Make a task of two epochs in a folder of its own, named as its key."""
    (folder / key).mkdir(exist_ok=True)
    schedule = lab.schedule(lab.stage(epochs=2))
    return StageTask(schedule=schedule, seed=0, folder=folder / key)


@pytest.mark.parametrize(
    ("lines", "how"),
    [
        ("exit 3", "exit code 3"),
        ("kill -KILL $$", "SIGKILL"),
        ("exec $python -c 'import nothing_of_the_kind'", "exit code 1"),
        ("exec /no/such/python", r"exit code 12\d"),
    ],
)
@pytest.mark.parametrize("slots", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_workers_that_die_as_they_start_end_everything(
    start_as: StartAs,
    make_engine: Callable[..., ProcessEngine],
    tmp_path: Path,
    lines: str,
    how: str,
    slots: int,
) -> None:
    """However long the recipe: one sentence says how they died, and no stage run has failed."""
    start_as(f"echo >> started; {lines}")
    engine = make_engine(slots, build=heavy, ballast=MANY)
    for key in "ab":
        engine.submit(key, task(tmp_path, key))
    with pytest.raises(ChildProcessError, match=f"3 in a row for cpu, at last by {how}; see what"):
        list(engine.events())
    assert workers() == []
    assert 3 <= len(read(tmp_path / "started").splitlines()) <= 3 * slots


@pytest.mark.long
def test_once_workers_start_the_engine_can_be_used_again(
    start_as: StartAs, make_engine: Callable[..., ProcessEngine], tmp_path: Path
) -> None:
    """After the end that their deaths brought about, and with a recipe that is long."""
    start_as("exit 3")
    engine = make_engine(2, build=heavy, ballast=MANY)
    for key in "ab":
        engine.submit(key, task(tmp_path, key))
    with pytest.raises(ChildProcessError, match="3 in a row for cpu"):
        list(engine.events())
    start_as('exec $python "$@"')
    for key in "cd":
        engine.submit(key, task(tmp_path, key))
    events = list(engine.events())
    assert told(events, "c") == told(events, "d") == [1, 2, StageEnded]


@pytest.mark.long
def test_a_worker_that_dies_as_its_trainer_is_made_ends_everything(
    make_engine: Callable[..., ProcessEngine], tmp_path: Path
) -> None:
    """No stage run has been begun, so none of them can be what killed it."""
    engine = make_engine(build=fatal)
    engine.submit("a", task(tmp_path, "a"))
    with pytest.raises(ChildProcessError, match=r"3 in a row for cpu, at last by SIGSEGV"):
        list(engine.events())


@pytest.mark.long
def test_workers_killed_as_they_start_are_started_again(
    start_as: StartAs, make_engine: Callable[..., ProcessEngine], tmp_path: Path
) -> None:
    """Two by chance, each time one is due, are no end of a search and no retry of a stage run."""
    start_as('echo >> n; [ $(wc -l < n) -le 2 ] && kill -KILL $$; exec $python "$@"')
    engine = make_engine(build=heavy, ballast=MANY)
    for key in "ab":
        engine.submit(key, task(tmp_path, key))
        assert told(list(engine.events()), key) == [1, 2, StageEnded]
        (tmp_path / "n").unlink()
        for process in workers():  # so that the next one has to start as well
            process.kill()
            process.join()


@pytest.mark.long
def test_a_worker_killed_while_its_recipe_is_sent_is_started_again(
    make_engine: Callable[..., ProcessEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it has left, the other half waits for a reader that dies."""
    say, killed = processes._Worker.say, []

    def kill_meanwhile(worker: Any, order: object) -> None:
        process = worker._process
        if not killed:
            killed.append(process.pid)
            os.kill(process.pid, signal.SIGSTOP)
            threading.Timer(0.5, process.kill).start()
        say(worker, order)

    monkeypatch.setattr(processes._Worker, "say", kill_meanwhile)
    engine = make_engine(build=heavy, ballast=MANY)
    engine.submit("a", task(tmp_path, "a"))
    assert told(list(engine.events()), "a") == [1, 2, StageEnded]
    assert killed != [int(read(tmp_path / "a.pid"))]


def test_workers_that_never_say_a_word_end_everything(
    start_as: StartAs,
    make_engine: Callable[..., ProcessEngine],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They get their time, and are killed."""
    monkeypatch.setattr(processes, "_STARTS_WITHIN", 0.3)
    start_as("exec sleep 600")
    engine = make_engine(2, build=heavy, ballast=MANY)
    for key in "ab":
        engine.submit(key, task(tmp_path, key))
    with pytest.raises(ChildProcessError, match=r"at last by saying nothing for 0\.3 s; see"):
        list(engine.events())
    assert workers() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("lines", ["exec sleep 600", "sleep 0.2; exit 1"])
def test_a_signal_ends_what_waits_for_a_worker_to_start(
    start_as: StartAs,
    make_engine: Callable[..., ProcessEngine],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: str,
    number: int,
) -> None:
    """Be it silent or dying again and again; the signals are those of a search."""
    monkeypatch.setattr(processes, "_TRIES", 1000)
    start_as(f"echo >> started; {lines}")
    before = signal.signal(number, _interrupt)
    engine = make_engine(build=heavy, ballast=MANY)
    engine.submit("a", task(tmp_path, "a"))

    def interrupt() -> None:
        until(lambda: read(tmp_path / "started"))
        subprocess.run(["sleep", "0.5"], check=True)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(engine.events())
    finally:
        thread.join()
        signal.signal(number, before)
    assert workers() == []


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
