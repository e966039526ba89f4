"""Worker processes that die, or whose coordinator does: the others go on."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from study.config.loading import load_config
from study.engines.base import EpochEnded, Event, FailureKind, StageEnded, StageFailed, Woken
from study.engines.inline import InlineEngine
from study.engines.processes import ProcessEngine
from study.engines.recipe import Recipe
from study.engines.slots import Slot, slots_of
from tests import lab
from tests.contract.conftest import told
from tests.engines import (
    THREADS,
    Unpacked,
    Watched,
    all_dead,
    lives,
    poisoned,
    read,
    until,
    watched,
    workers,
    write,
)
from trainers.base import BEST, LAST, StageTask
from trainers.data.manifest import Manifest
from trainers.errors import DeviceLost

ROOT = Path(__file__).parents[2]
EPOCHS = 4

MakeEngine = Callable[..., ProcessEngine]

SEARCH = """
import os, sys
from functools import partial
from pathlib import Path
from study.engines.processes import ProcessEngine
from study.engines.slots import slots_of
from tests import lab
from tests.engines import watched
from trainers.base import StageTask

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    engine = ProcessEngine(partial(watched, halts={"a": 2, "b": 2}), slots_of("cpu:2"))
    for key in "ab":
        (folder / key).mkdir()
        task = StageTask(schedule=lab.schedule(lab.stage(epochs=4)), seed=0, folder=folder / key)
        engine.submit(key, task)
    for event in engine.events():
        print(event.key, type(event).__name__, flush=True)
    engine.close()
"""
"""A coordinator of two stage runs, each of which stands still in its second epoch."""


@pytest.fixture
def make_engine() -> Iterator[MakeEngine]:
    """Return what makes an engine; afterwards all its processes must be gone."""
    made: list[ProcessEngine] = []

    def make(
        slots: int = 1,
        build: Any = watched,
        retries: int = 2,
        devices: str | None = None,
        **options: Any,
    ) -> Any:
        built = partial(build, **options) if options else build
        some = slots_of(devices or f"cpu:{slots}")
        made.append(ProcessEngine(built, some, max_retries=retries))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
    assert workers() == []


def task(folder: Path, key: str, epochs: int = EPOCHS) -> StageTask:
    """Make a task in a folder of its own, named as its key."""
    (folder / key).mkdir(parents=True, exist_ok=True)
    schedule = lab.schedule(lab.stage(epochs=epochs))
    return StageTask(schedule=schedule, seed=0, folder=folder / key)


def undisturbed(folder: Path, key: str, epochs: int = EPOCHS) -> dict[str, bytes]:
    """Return the files of the same task, trained in this process."""
    engine = InlineEngine(Watched())
    engine.submit(key, task(folder / "calm", key, epochs))
    list(engine.events())
    return files(folder / "calm" / key)


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of a task; their metadata may be in any order."""
    return {path.name: bytes(sorted(path.read_bytes())) for path in folder.iterdir()}


def pid_of(folder: Path, key: str) -> int:
    """Wait until a stage run is in training; return its process."""
    until(lambda: read(folder / f"{key}.pid"))
    return int(read(folder / f"{key}.pid"))


def halted(folder: Path, key: str, epoch: int) -> int:
    """Wait until a stage run stands still in an epoch; return its process."""
    until(lambda: read(folder / f"{key}.at") == str(epoch))
    return pid_of(folder, key)


def in_background(steps: Callable[[], None]) -> threading.Thread:
    """Do something while the engine waits."""
    thread = threading.Thread(target=steps)
    thread.start()
    return thread


def start_both(engine: ProcessEngine, folder: Path) -> None:
    """Have two workers train one epoch each: from then on, what is submitted begins at once.

    They have to be made to stand still in the first epoch of `x` and `y`.
    """
    for key in "xy":
        engine.submit(key, task(folder, key, 1))

    def let_go() -> None:
        for key in "xy":
            halted(folder, key, 1)
        for key in "xy":
            (folder / f"{key}.go").touch()

    thread = in_background(let_go)
    list(engine.events())
    thread.join()


def test_a_killed_worker_costs_nothing_but_time(make_engine: MakeEngine, tmp_path: Path) -> None:
    """Its stage run goes on from `last` to the same files; the others do not notice."""
    engine = make_engine(2, halts={"a": 3})
    for key in "ab":
        engine.submit(key, task(tmp_path, key))
    first: list[int] = []

    def kill() -> None:
        first.append(halted(tmp_path, "a", 3))
        (tmp_path / "a.go").touch()
        os.kill(first[0], signal.SIGKILL)

    thread = in_background(kill)
    events = list(engine.events())
    thread.join()
    assert told(events, "b") == [1, 2, 3, 4, StageEnded]
    a = told(events, "a")
    assert a[-5:] == [1, 2, 3, 4, StageEnded]  # told again from the start, then trained on
    assert a[:-5] == [1, 2]
    assert pid_of(tmp_path, "a") != first[0]
    assert files(tmp_path / "a") == undisturbed(tmp_path, "a")
    assert files(tmp_path / "b") == undisturbed(tmp_path, "b")


@pytest.mark.parametrize("retries", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_stage_run_that_kills_its_workers_fails(
    make_engine: MakeEngine, tmp_path: Path, retries: int
) -> None:
    """After so many retries it has failed, by the signal's name; the next is trained."""
    engine = make_engine(build=Suicidal, retries=retries)
    engine.submit("a", task(tmp_path, "a"))
    engine.submit("b", task(tmp_path, "b"))
    events = list(engine.events())
    failed = [event for event in events if isinstance(event, StageFailed)]
    times = "once" if retries == 0 else "2 times"
    assert [(each.key, each.kind) for each in failed] == [("a", FailureKind.KILLED)]
    assert "SIGKILL" in failed[0].reason
    assert times in failed[0].reason
    assert told(events, "b") == [1, 2, 3, 4, StageEnded]
    assert len(read(tmp_path / "deaths")) == retries + 1

    engine.submit("a", task(tmp_path, "a"))  # again, as a search that is taken up would
    assert [type(event) for event in engine.events()] == [StageFailed]
    assert len(read(tmp_path / "deaths")) == 2 * (retries + 1)


class Suicidal(Watched):
    """Kills its own process over stage run `a`, as the out-of-memory killer would."""

    def __init__(self, _slot: Slot) -> None:
        super().__init__()

    def train(self, task: StageTask) -> Any:
        """Die, or train."""
        if task.folder.name == "a":
            with (task.folder.parent / "deaths").open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        yield from super().train(task)


@pytest.mark.long
def test_a_worker_killed_in_the_middle_of_a_word_is_a_dead_worker(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    """Metrics of many photos do not fit into the line at once: half of them count for nothing."""
    engine = make_engine(2, photos=400_000, halts={"x": 1, "y": 1})
    start_both(engine, tmp_path)
    for key in "ab":
        engine.submit(key, task(tmp_path, key, 2))
    events, heard = engine.events(), []
    heard.append(next(events))
    other = "b" if heard[0].key == "a" else "a"
    until(lambda: read(tmp_path / f"{other}.at"))
    time.sleep(0.5)  # it is in the middle of sending by now, as no one reads
    os.kill(pid_of(tmp_path, other), signal.SIGKILL)
    heard += list(events)
    assert told(heard, heard[0].key) == [1, 2, StageEnded]
    assert told(heard, other) == [1, 2, StageEnded]


def test_who_waits_for_workers_can_be_woken(make_engine: MakeEngine, tmp_path: Path) -> None:
    """By any thread, again and again, while a worker has nothing to say."""
    engine = make_engine(halts={"a": 1})
    engine.submit("a", task(tmp_path, "a", 1))
    engine.wake()  # before anybody listens
    events = engine.events()
    assert next(events) == Woken()
    for _ in range(2):
        threading.Timer(0.1, engine.wake).start()
        assert next(events) == Woken()
    (tmp_path / "a.go").touch()
    assert told(list(events), "a") == [1, StageEnded]


def test_a_worker_that_died_while_idle_is_replaced(make_engine: MakeEngine, tmp_path: Path) -> None:
    """That is no death over a stage run."""
    engine = make_engine(retries=0)
    engine.submit("a", task(tmp_path, "a"))
    list(engine.events())
    (process,) = workers()
    process.kill()
    process.join()
    engine.submit("b", task(tmp_path, "b"))
    assert told(list(engine.events()), "b") == [1, 2, 3, 4, StageEnded]
    assert pid_of(tmp_path, "b") != pid_of(tmp_path, "a")


def test_a_worker_told_to_leave_what_has_just_ended_serves_on(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    """The word to leave crosses the word that it has ended; no process ends over that."""
    engine = make_engine(2, retries=0, halts={"x": 1, "y": 1})
    start_both(engine, tmp_path)
    for key in "ab":
        engine.submit(key, task(tmp_path, key, 1))
    events = engine.events()
    ended: list[Event] = []
    while len(ended) < 1:
        ended += [event for event in [next(events)] if isinstance(event, StageEnded)]
    time.sleep(0.2)
    events.close()  # the other one may have ended as well by now
    before = {process.pid for process in workers()}
    for key in "cd":
        engine.submit(key, task(tmp_path, key, 1))
    after = list(engine.events())
    assert told(after, "c") == told(after, "d") == [1, StageEnded]
    assert {process.pid for process in workers()} == before


def test_each_worker_sees_its_own_device_and_threads(tmp_path: Path) -> None:
    """The slot's environment is set before the trainer is made."""
    slots = [
        Slot(f"cuda:{index}", "cuda", 3, 2, {"CUDA_VISIBLE_DEVICES": str(index), THREADS: "3"})
        for index in (4, 7)
    ]
    engine = ProcessEngine(partial(watched, halts={"x": 1, "y": 1}), slots)
    with closing(engine):
        start_both(engine, tmp_path)
    seen = {read(tmp_path / f"{key}.seen") for key in "xy"}
    assert seen == {repr({"CUDA_VISIBLE_DEVICES": gpu, THREADS: "3"}) for gpu in ("4", "7")}
    assert {read(tmp_path / f"{key}.torch") for key in "xy"} == {"False"}


def test_a_worker_is_told_its_recipe_without_torch(tmp_path: Path, photos: Manifest) -> None:
    """What a real search sends to a worker imports no torch before the environment is set."""
    config = load_config({"study": "lab"})
    build = partial(Recipe.of(config, photos, tmp_path).trainer, alone=True)
    write(tmp_path / "program.py", "import pickle, sys; pickle.load(sys.stdin.buffer)\n"
          "import study.engines.worker; print('torch' in sys.modules)")  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")],
        input=pickle.dumps(build), cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [b"False"]


class Unbuildable:
    """A trainer that cannot be made."""

    def __init__(self, _slot: Slot, *, error: Exception) -> None:
        raise error


def test_a_process_whose_gpu_has_failed_is_replaced(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    """Its stage run goes on from its `last` in another one, and the next ones do not fail."""
    engine = make_engine(build=poisoned, times=1)
    for key in "ab":
        engine.submit(key, task(tmp_path, key))
    found = list(engine.events())
    assert told(found, "a") == [1, 1, 2, 3, 4, StageEnded]
    assert told(found, "b") == [1, 2, 3, 4, StageEnded]
    assert files(tmp_path / "a") == undisturbed(tmp_path, "a")


def test_a_stage_run_whose_gpu_fails_each_time_has_failed(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    """As often as it may be tried, with CUDA's own word for it; the others are trained."""
    engine = make_engine(build=poisoned, times=9)
    for key in "ab":
        engine.submit(key, task(tmp_path, key))
    found = list(engine.events())
    (failed,) = [event for event in found if isinstance(event, StageFailed)]
    assert (failed.key, failed.kind) == ("a", FailureKind.KILLED)
    assert failed.reason.endswith("3 times, at last (CUDA error: device-side assert triggered)")
    assert told(found, "b") == [1, 2, 3, 4, StageEnded]


def test_in_this_process_a_gpu_that_has_failed_ends_everything(tmp_path: Path) -> None:
    """No other stage run would fare better; the sentence says what to do."""
    engine = InlineEngine(poisoned(slots_of("cpu")[0]))
    for key in "ab":
        engine.submit(key, task(tmp_path, key))
    with pytest.raises(DeviceLost, match=r"\(CUDA error: device-side assert triggered\).* again"):
        list(engine.events())
    assert not (tmp_path / "b.pid").exists()


def test_a_process_sees_its_gpu_alone_from_its_first_import_on(
    make_engine: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes with the trainer's class may ask for GPUs as it is imported. We see ours still."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    engine = make_engine(build=Unpacked(tmp_path / "seen"), devices="1")
    engine.submit("a", task(tmp_path, "a", 1))
    list(engine.events())
    assert read(tmp_path / "seen") == "7"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "6,7"


class Odd(Exception):
    """An error that cannot be unpickled."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one}, {two}")


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ValueError("no such device"), marks=pytest.mark.long),
        FileNotFoundError(2, "No such file or directory", "a.jpg"),
        pytest.param(OSError("the disk is odd"), marks=pytest.mark.slow),
        pytest.param(EOFError("the cache ends early"), marks=pytest.mark.slow),
        pytest.param(ConnectionError("the hub cannot be reached"), marks=pytest.mark.slow),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_trainer_that_cannot_be_made_ends_everything(
    make_engine: MakeEngine, tmp_path: Path, error: Exception
) -> None:
    """The error comes out as it was, with a note of where; the processes end."""
    engine = make_engine(build=Unbuildable, error=error)
    engine.submit("a", task(tmp_path, "a"))
    with pytest.raises(type(error)) as raised:
        list(engine.events())
    assert str(raised.value) == str(error)
    assert "In a worker process" in raised.value.__notes__[0]
    assert workers() == []


def build_oddly(_slot: Slot) -> Any:
    """Fail with what does not travel."""
    raise Odd("one", "two")


def test_an_error_that_does_not_travel_is_told_in_words(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    """Its name and its text are what arrives."""
    engine = make_engine(build=build_oddly)
    engine.submit("a", task(tmp_path, "a"))
    with pytest.raises(RuntimeError, match=r"^Odd: one, two$"):
        list(engine.events())


def test_a_build_that_cannot_be_sent_is_told_at_once(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    """A misuse that must not hang."""
    engine = make_engine(2, build=lambda slot: Watched())  # noqa: ARG005
    for key in "ab":
        engine.submit(key, task(tmp_path, key))
    with pytest.raises((AttributeError, TypeError), match=r"pickle|lambda"):
        list(engine.events())
    assert workers() == []


def test_an_interrupt_ends_the_workers_at_once(make_engine: MakeEngine, tmp_path: Path) -> None:
    """The second Ctrl-C stops at once, without waiting for the end of an epoch."""
    engine = make_engine(halts={"a": 1})
    engine.submit("a", task(tmp_path, "a"))

    def interrupt() -> None:
        halted(tmp_path, "a", 1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = in_background(interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(engine.events())
    thread.join()
    assert workers() == []
    (tmp_path / "a.go").touch()
    engine.submit("a", task(tmp_path, "a"))
    assert told(list(engine.events()), "a") == [1, 2, 3, 4, StageEnded]


def test_closed_after_an_exception_no_process_is_left(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    """Neither those that train nor those that wait, though events were not read to the end."""
    engine = make_engine(2, halts={"x": 1, "y": 1, "b": 1})
    start_both(engine, tmp_path)
    for key in "ab":
        engine.submit(key, task(tmp_path, key))
    events = engine.events()
    while not isinstance(next(events), StageEnded):
        pass
    halted(tmp_path, "b", 1)
    assert len(workers()) == 2
    engine.close()
    assert workers() == []
    engine.close()


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a coordinator in a group of its own; its two workers stand in their second epoch."""
    write(tmp_path / "search.py", SEARCH)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "search.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    yield process
    process.kill()
    process.communicate()
    until(lambda: all_dead(int(read(path)) for path in tmp_path.glob("*.pid")), 5)


def test_no_worker_outlives_its_coordinator(
    coordinator: subprocess.Popen[str], tmp_path: Path
) -> None:
    """SIGKILL leaves it no time to end them, and they end all the same."""
    pids = [halted(tmp_path, key, 2) for key in "ab"]
    assert all(lives(pid) for pid in pids)
    coordinator.kill()
    coordinator.wait()
    until(lambda: all_dead(pids), 5)


@pytest.mark.long
def test_a_coordinator_killed_while_a_worker_starts_leaves_none(
    coordinator: subprocess.Popen[str],
) -> None:
    """A worker that has not learnt yet whose it is ends as well."""
    children = Path(f"/proc/{coordinator.pid}/task/{coordinator.pid}/children")
    until(lambda: len(read(children).split()) == 3)  # two workers and multiprocessing's tracker
    pids = [int(pid) for pid in read(children).split()]
    coordinator.kill()
    coordinator.wait()
    until(lambda: all_dead(pids), 5)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_leaves_the_workers_to_the_coordinator(
    coordinator: subprocess.Popen[str], tmp_path: Path, number: int
) -> None:
    """Ctrl-C in a terminal reaches them all: the workers go on, be they in training or starting."""
    ours = {coordinator.pid}
    children = Path(f"/proc/{coordinator.pid}/task/{coordinator.pid}/children")
    until(lambda: len(read(children).split()) == 3)
    starting = set(map(int, read(children).split())) - ours
    for pid in starting:
        os.kill(pid, number)
    pids = [halted(tmp_path, key, 2) for key in "ab"]
    assert set(pids) <= starting
    for pid in pids:
        os.kill(pid, number)
    time.sleep(0.2)
    assert all(lives(pid) for pid in pids)
    for key in "ab":
        (tmp_path / f"{key}.go").touch()
    said, complaints = coordinator.communicate(timeout=30)
    assert coordinator.returncode == 0, complaints
    for key in "ab":
        expected = [f"{key} {EpochEnded.__name__}"] * EPOCHS + [f"{key} {StageEnded.__name__}"]
        assert [line for line in said.splitlines() if line.startswith(key)] == expected
    assert files(tmp_path / "a")[LAST] == undisturbed(tmp_path, "a")[LAST]
    assert BEST in files(tmp_path / "b")
    assert complaints == ""
