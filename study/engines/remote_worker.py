"""A worker on another machine: trains in a scratch folder of its own, and sends its files home."""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from study.engines.base import Event, Watcher, unwatched
from study.engines.inline import InlineEngine
from study.engines.slots import Slot
from study.engines.worker import Broken, Left, Lost, sendable
from trainers.base import StageTask, Trainer
from trainers.errors import DeviceLost
from trainers.files import replacing

Content = NDArray[np.uint8]
Files = Mapping[str, Content]
"""Files of a folder by name, as arrays: Ray passes these without copying."""

BuildAway = Callable[[Slot, Path], Trainer]
"""Makes the trainer of a slot, given the folder where its machine keeps decoded photos."""

_START = "start.safetensors"


@dataclass(frozen=True)
class Reply:
    """A worker's message, and its files that have changed since the last one."""

    said: Event | Left | Broken | Lost
    files: Files


class AwayWorker:
    """Trains stage runs one after the other, an epoch at a time.

    Between two calls nothing runs, so the coordinator's files match what was recorded. `cache` is
    where the coordinator keeps decoded photos; on a machine without it they lie in a folder of
    temporary files, for all workers there. Batches are reported to `watcher`.
    """

    def __init__(
        self, build: BuildAway, slot: Slot, cache: Path, watcher: Watcher = unwatched
    ) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the coordinator says when to stop
        os.environ.update(slot.environment)
        self._build, self._slot, self._watcher = build, slot, watcher
        self._cache = cache if cache.is_dir() else _ours() / "cache"
        self._scratch = _scratch()
        self._engine: InlineEngine | None = None
        self._events: Generator[Event, None, None]
        self._sent: dict[str, tuple[int, int, int]] = {}

    def missing(self, names: Sequence[str]) -> list[str]:
        """Return which of the given decoded photos this machine lacks."""
        return [name for name in names if not (self._cache / name).exists()]

    def keep(self, names: Sequence[str], *contents: Content) -> list[str]:
        """Store decoded photos for all workers of this machine; return those still missing."""
        self._cache.mkdir(parents=True, exist_ok=True)
        with FileLock(self._cache / "lock"):
            for name, content in zip(names, contents, strict=True):
                if not (self._cache / name).exists():
                    (self._cache / name).parent.mkdir(exist_ok=True)
                    write_whole(self._cache / name, content)
        return self.missing(names)

    def begin(self, key: str, task: StageTask, start: Content | None, files: Files) -> Reply:
        """Train a stage run's next epoch, starting from `files`."""
        self._folder = self._scratch / task.folder.name
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        for name, content in files.items():
            write_whole(self._folder / name, content)
        self._sent = {name: _stamp(self._folder / name) for name in files}
        here = replace(task, folder=self._folder, start=None)
        if start is not None:
            write_whole(self._scratch / _START, start)
            here = replace(here, start=self._scratch / _START)
        try:
            self._engine = self._engine or InlineEngine(self._build(self._slot, self._cache))
        except Exception as error:  # noqa: BLE001 - what it was, the coordinator says
            return Reply(Broken(sendable(error)), {})
        self._engine.watch(self._watcher)
        self._engine.submit(key, here)
        self._events = self._engine.events()
        return self.go_on()

    def go_on(self) -> Reply:
        """Train another epoch."""
        return self._say(lambda: next(self._events))

    def leave(self) -> Reply:
        """Stop the stage run; its files are up to date."""
        return self._say(self._leave)

    def vacate(self) -> None:
        """Remove everything from this machine but the decoded photos."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _leave(self) -> Left:
        self._events.close()
        return Left()

    def _say(self, act: Callable[[], Event | Left]) -> Reply:
        try:
            said = act()
        except DeviceLost as error:
            return Reply(Lost(error.reason), {})
        except Exception as error:  # noqa: BLE001 - what it was, the coordinator says
            return Reply(Broken(sendable(error)), {})
        return Reply(said, self._changed())

    def _changed(self) -> dict[str, Content]:
        changed = {}
        for name in files_of(self._folder):
            if (stamp := _stamp(self._folder / name)) != self._sent.get(name):
                changed[name] = read_whole(self._folder / name)
                self._sent[name] = stamp
        return changed


def files_of(folder: Path) -> list[str]:
    """Name the files of a task's folder: the best weights come home before what goes on."""
    found = (path.relative_to(folder) for path in folder.rglob("*.safetensors"))
    return sorted(path.as_posix() for path in found)


def write_whole(path: Path, content: Content) -> None:
    """Write a file that appears under its name only when it is safely on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, synced=True) as temporary, temporary.open("wb") as stream:
        content.tofile(stream)


def read_whole(path: Path) -> Content:
    """Read a file."""
    return np.fromfile(path, np.uint8)


def _stamp(path: Path) -> tuple[int, int, int]:
    about = path.stat()
    return about.st_mtime_ns, about.st_size, about.st_ino


def _ours() -> Path:
    folder = Path(tempfile.gettempdir()) / f"encore-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; remove it, or set TMPDIR")
    return folder


def _scratch() -> Path:
    """Return a folder for this process; remove those of processes that were killed."""
    for left in _ours().glob("worker-*"):
        if not Path(f"/proc/{left.name.split('-')[1]}").exists() and Path("/proc/self").exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"worker-{os.getpid()}-", dir=_ours()))
