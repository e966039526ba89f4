"""Trainers and engines for the tests of engines, where a worker process can import them."""

import os
import pickle
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import safetensors

from study.engines.base import Engine, EpochEnded, Event, Watcher, unwatched
from study.engines.inline import InlineEngine
from study.engines.processes import ProcessEngine
from study.engines.slots import Slot, slots_of
from trainers.base import BEST, LAST, StageTask, Trainer
from trainers.metrics import EpochMetrics
from trainers.synthetic import SyntheticTrainer

TRAINER = "trainer.pickle"
"""Beside the folders of tasks, the trainer of these tasks."""


class Failing(SyntheticTrainer):
    """Fails where it is told to: at the start of the stage, or after some epochs."""

    def __init__(self, error: BaseException, *, key: str, after: int = 0) -> None:
        super().__init__(np.array([0, 1]), 2)
        self.error, self.key, self.after = error, key, after

    def train(self, task: StageTask) -> Generator[EpochMetrics, None, None]:
        """Train as far as it goes."""
        for metrics in super().train(task):
            if task.folder.name == self.key and metrics.epoch > self.after:
                raise self.error
            yield metrics


class FailingWhenLeft(SyntheticTrainer):
    """Cannot write what it has reached."""

    def __init__(self, error: Exception) -> None:
        super().__init__(np.array([0, 1]), 2)
        self.error = error

    def train(self, task: StageTask) -> Generator[EpochMetrics, None, None]:
        """Train until it is left."""
        try:
            yield from super().train(task)
        except GeneratorExit:
            raise self.error from None


class Late(SyntheticTrainer):
    """Writes its files when its stage ends or is left, and not before."""

    def train(self, task: StageTask) -> Generator[EpochMetrics, None, None]:
        """Train; the files are away in between."""
        files = [task.folder / name for name in (LAST, BEST)]
        contents: dict[Path, bytes] = {}
        for metrics in super().train(task):
            contents |= {path: path.read_bytes() for path in files if path.exists()}
            try:
                if metrics.epoch < task.stage.epochs:
                    for path in files:
                        path.unlink(missing_ok=True)
                yield metrics
            finally:
                for path, content in contents.items():
                    path.write_bytes(content)


class Telling(SyntheticTrainer):
    """Tells of its batches in its second epoch until there is a file `heard`."""

    def __init__(self, heard: Path) -> None:
        super().__init__(np.array([0, 1]), 2)
        self.heard = heard

    def train(self, task: StageTask) -> Generator[EpochMetrics, None, None]:
        """Train, and tell."""

        def told() -> bool:
            task.progress(3, 8)
            return self.heard.exists()

        for metrics in super().train(task):
            if metrics.epoch == 2:
                until(told)
            yield metrics


class Given:
    """Trains each task with the trainer that lies beside the task's folder.

    So workers serve test after test: to start one takes longer than most tests.
    """

    def __init__(self, slot: Slot) -> None:
        self.slot = slot

    def train(self, task: StageTask) -> Generator[EpochMetrics, None, None]:
        """Train as that one does."""
        trainer: Trainer = pickle.loads((task.folder.parent / TRAINER).read_bytes())  # noqa: S301
        yield from trainer.train(task)


@dataclass
class Inline:
    """Makes engines that train in this process."""

    engine: Callable[[Trainer], Engine]

    def make(self, trainer: Trainer, _folder: Path) -> Engine:
        """Return an engine for tasks in folders below `folder`."""
        return self.engine(trainer)


@dataclass
class Processes:
    """One engine with worker processes, for all tests."""

    slots: int
    engine: ProcessEngine | None = field(default=None, compare=False)

    def make(self, trainer: Trainer, folder: Path) -> Engine:
        """Return an engine for tasks in folders below `folder`."""
        (folder / TRAINER).write_bytes(pickle.dumps(trainer))
        if self.engine is None:
            self.engine = ProcessEngine(Given, slots_of(f"cpu:{self.slots}"), max_retries=0)
        return self.engine

    def close(self) -> None:
        """End the workers."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None


class Interleaved:
    """Several slots in this process. After each event, `pick` says whose epoch comes next.

    It is given the keys in training, the one that waits longest first.
    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        slots: int = 2,
        pick: Callable[[list[str]], str] = lambda keys: keys[0],
    ) -> None:
        self.slots, self._trainer, self._pick = slots, trainer, pick
        self._waiting: list[tuple[str, StageTask]] = []
        self._training: dict[str, tuple[InlineEngine, Generator[Event, None, None]]] = {}
        self._watcher: Watcher = unwatched

    def watch(self, watcher: Watcher) -> None:
        """Have `watcher` told of batches."""
        self._watcher = watcher

    def submit(self, key: str, task: StageTask) -> None:
        """Queue a stage run."""
        self._waiting.append((key, task))

    def events(self) -> Generator[Event, None, None]:
        """Train in turns."""
        try:
            while self._waiting or self._training:
                while self._waiting and len(self._training) < self.slots:
                    key, task = self._waiting.pop(0)
                    engine = InlineEngine(self._trainer)
                    engine.watch(self._watcher)
                    engine.submit(key, task)
                    self._training[key] = engine, engine.events()
                key = self._pick(list(self._training))
                slot = self._training.pop(key)
                event = next(slot[1])
                if isinstance(event, EpochEnded):
                    self._training[key] = slot
                yield event
        finally:
            while self._training:
                _, (_, events) = self._training.popitem()
                events.close()

    def wake(self) -> None:
        """Do nothing: it never waits."""

    def cancel(self, key: str) -> None:
        """Leave a stage run."""
        self._waiting = [waiting for waiting in self._waiting if waiting[0] != key]
        if key in self._training:
            engine, _ = self._training.pop(key)
            engine.cancel(key)

    def close(self) -> None:
        """Hold nothing."""


class Watched(SyntheticTrainer):
    """Writes its process beside its folder as `<key>.pid`, and what that sees; may take its time.

    It stands still in epoch `halts[key]` as long as there is no file `<key>.go`.
    """

    def __init__(self, *, halts: dict[str, int] | None = None, photos: int = 20) -> None:
        super().__init__(np.repeat(np.arange(2), photos // 2), 2)
        self.halts = halts or {}

    def train(self, task: StageTask) -> Generator[EpochMetrics, None, None]:
        """Train, and say what is reached: `<key>.at` holds the epoch at hand."""
        key, beside = task.folder.name, task.folder.parent
        write(beside / f"{key}.pid", str(os.getpid()))
        write(beside / f"{key}.torch", str("torch" in sys.modules))
        seen = {name: os.environ.get(name, "") for name in ("CUDA_VISIBLE_DEVICES", THREADS)}
        write(beside / f"{key}.seen", repr(seen))
        for number, metrics in enumerate(super().train(task), 1):
            write(beside / f"{key}.at", str(number))
            if number == self.halts.get(key):
                until((beside / f"{key}.go").exists)
            yield metrics


class Poisoned(Watched):
    """Its GPU fails in the second epoch of `a`, so often in all; then nothing works in its process.

    On a real `device` a kernel is made to fail, elsewhere CUDA's error is played.
    """

    def __init__(self, times: int, device: str) -> None:
        super().__init__()
        self.times, self.device, self.lost = times, device, False

    def train(self, task: StageTask) -> Generator[EpochMetrics, None, None]:
        """Train as long as there is a GPU."""
        faults = task.folder.parent / "faults"
        for metrics in super().train(task):
            if (task.folder.name, metrics.epoch) == ("a", 2) and len(read(faults)) < self.times:
                write(faults, read(faults) + "x")
                self.lost = True
            if self.lost:
                self._fail()
            yield metrics

    def _fail(self) -> None:
        if self.device == "cpu":
            raise RuntimeError("CUDA error: device-side assert triggered\nSearch for ...")
        import torch

        torch.zeros(2, device=self.device)[torch.tensor([5], device=self.device)].sum().item()


def poisoned(_slot: Slot, *, times: int = 1, device: str = "cpu") -> Trainer:
    """Build a trainer whose GPU fails."""
    return Poisoned(times, device)


class Unpacked:
    """Builds a trainer, and writes which GPUs its process sees as soon as this arrives there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __setstate__(self, state: dict[str, Path]) -> None:
        """Arrive."""
        write(state["path"], os.environ.get("CUDA_VISIBLE_DEVICES", "all"))

    def __call__(self, _slot: Slot) -> Trainer:
        """Build it."""
        return Watched()


THREADS = "OMP_NUM_THREADS"


def watched(_slot: Slot, *, halts: dict[str, int] | None = None, photos: int = 20) -> Trainer:
    """Build a trainer that can be watched."""
    return Watched(halts=halts, photos=photos)


def write(path: Path, text: str) -> None:
    """Write a file that appears whole."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def until(holds: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until `holds()` is true."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def epochs_in(path: Path) -> int:
    """Count the epochs that a synthetic trainer's file knows."""
    with safetensors.safe_open(path, "np") as file:
        return int((file.metadata() or {}).get("epochs", 0))


def read(path: Path) -> str:
    """Return what a file says, "" if it is not there (yet)."""
    with suppress(FileNotFoundError):
        return path.read_text()
    return ""


def workers() -> list[BaseProcess]:
    """Return the worker processes of this process that live."""
    return [child for child in active_children() if child.name == "encore-worker"]


def lives(pid: int) -> bool:
    """Return whether a process lives (a zombie does not)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def all_dead(pids: Iterable[int]) -> bool:
    """Return whether none of these processes lives."""
    return not any(lives(pid) for pid in pids)
