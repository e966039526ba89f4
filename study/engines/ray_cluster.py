"""The engine that trains on a Ray cluster."""

import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.engines.base import EpochEnded, Event, Watcher
from study.engines.inline import TELL_EVERY
from study.engines.pool import WorkerPool
from study.engines.ray_connection import PATIENCE, join, living_nodes
from study.engines.ray_progress import ProgressBoard
from study.engines.remote_worker import (
    AwayWorker,
    BuildAway,
    Content,
    Reply,
    files_of,
    read_whole,
    write_whole,
)
from study.engines.slots import Share, shares_of
from study.engines.worker import Broken, Lost
from study.formatting import count_text
from trainers.base import StageTask
from trainers.errors import DeviceLost

_GLANCE = 1.0
"""Seconds between two looks at the cluster's nodes."""

_TRIES = 3
"""How many workers in a row may fail to start on a node before it gets no more."""


class ClusterEngine(WorkerPool["_Worker"]):
    """See `Engine` and `WorkerPool`. A worker for each slot of each node.

    Workers need no access to our disk or database. Nodes may join and leave: a stage run on a node
    that left continues elsewhere from the last epoch that was sent back. The decoded photos under
    `cache` named by `maps()` are sent once to each node that lacks them. `say` is called with a
    sentence when nodes join or leave and when workers are lost.
    """

    died = "its worker on the Ray cluster was lost"

    def __init__(
        self,
        build: BuildAway,
        *,
        cache: Path,
        maps: Callable[[], Sequence[Path]] = list,
        address: str | None = None,
        devices: str = "auto",
        per_device: int = 1,
        max_retries: int = 2,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(max_retries=max_retries)
        self._build, self._cache, self._maps, self._say = build, cache.resolve(), maps, say
        self._devices, self._per_device = devices, per_device
        self._arriving: list[_Worker] = []
        self._refused: Counter[str] = Counter()
        self._stored: dict[str, Any] = {}
        self._board: ProgressBoard | None = None
        self._looked, self._leaving = 0.0, join(address)
        self._known = living_nodes()
        if not self._count(self._known):
            self.close()
            what = "GPU" if self._devices == "cuda" else "CPU"
            raise ConnectionError(
                f"no node of the Ray cluster has a {what} to train on; start nodes "
                "that have, or check --devices"
            )

    @property
    def slots(self) -> int:
        """How many stage runs it can run at once, as the cluster is now."""
        crew = len(self._idle) + len(self._busy) + len(self._arriving)
        return max(1, crew or self._count(living_nodes()))

    def close(self) -> None:
        """End the workers, and Ray itself where this engine started it or joined it."""
        self._abandon()
        with suppress(RayError):
            for vacated in [worker.actor.vacate.remote() for worker in self._idle]:
                ray.get(vacated, timeout=PATIENCE)
        for worker in [*self._arriving, *self._idle]:
            worker.kill()
        self._arriving, self._idle = [], []
        self._stored.clear()
        if self._board:
            self._board.close()
            self._board = None
        self._leaving.close()

    def _hire(self) -> None:
        """Add the slots of nodes that have joined, remove those of nodes that left."""
        if time.monotonic() - self._looked < _GLANCE:
            return
        self._looked = time.monotonic()
        nodes = living_nodes()
        self._tell(nodes)
        for workers in (self._idle, self._arriving):
            workers[:] = [worker for worker in workers if worker.node in nodes]
        crew = [*self._arriving, *self._idle, *self._busy.values()]
        held = Counter(worker.node for worker in crew)
        for node, shares in self._shares(nodes).items():
            if self._refused[node] < _TRIES:
                for share in shares[held[node] :]:
                    self._arriving.append(self._hired(share, node))
                    self._arriving[-1].survey(self._names())

    def _hired(self, share: Share, node: str) -> "_Worker":
        self._board = self._board or ProgressBoard()
        return _Worker(self._build, share, self._cache, node, self._board.writer)

    def _read_board(self) -> None:
        """Report batches, unless their epoch has ended since."""
        for said in self._board.read() if self._board else ():
            worker = self._busy.get(said.key)
            if worker is not None and said.epoch > worker.epochs:
                self._watcher(said)

    def _tell(self, nodes: dict[str, dict[str, float]]) -> None:
        for node in self._known.keys() ^ nodes.keys():
            does = "joined" if node in nodes else "left"
            slots = count_text(self._count(nodes), "slot")
            self._say(f"a node has {does} the Ray cluster, which has {slots} now")
        self._known = nodes

    def _shares(self, nodes: dict[str, dict[str, float]]) -> dict[str, list[Share]]:
        return shares_of(nodes, self._devices, self._per_device)

    def _count(self, nodes: dict[str, dict[str, float]]) -> int:
        return sum(map(len, self._shares(nodes).values()))

    def _names(self) -> list[str]:
        return [str(path.resolve().relative_to(self._cache)) for path in self._maps()]

    def _assign(self) -> None:
        """Start workers first.

        They start with the first stage run, not with the engine: by then the coordinator has
        decoded the photos.
        """
        self._hire()
        super()._assign()

    def _ready(self) -> "list[_Worker]":
        """Return a worker that has sent a message; none if none has for a while."""
        self._read_board()
        by_word = {worker.word: worker for worker in (*self._busy.values(), *self._arriving)}
        if not by_word:
            time.sleep(_GLANCE / 10)
            return []
        ready, _ = ray.wait(list(by_word), timeout=TELL_EVERY)
        return [by_word[word] for word in ready]

    def _listen(self, worker: "_Worker") -> Generator[Event, None, None]:
        if worker in self._arriving:
            self._settle(worker)
            return
        try:
            said = worker.hear()
        except RayError as lost:
            worker.kill()
            yield from self._after_death(worker, type(lost).__name__)
            return
        if isinstance(said, EpochEnded):
            worker.epochs = said.metrics.epoch
        yield from self._heed(worker, said)

    def _settle(self, worker: "_Worker") -> None:
        """Send a worker the decoded photos that its node lacks; then it can train."""
        try:
            missing = ray.get(worker.word)
        except RayError as error:
            self._refuse(worker, error)
            return
        if missing:
            for name in missing:
                if name not in self._stored:
                    self._stored[name] = ray.put(read_whole(self._cache / name))
            worker.word = worker.actor.keep.remote(missing, *(self._stored[n] for n in missing))
        else:
            self._refused.pop(worker.node, None)
            self._arriving.remove(worker)
            self._idle.append(worker)

    def _refuse(self, worker: "_Worker", error: RayError) -> None:
        self._arriving.remove(worker)
        worker.kill()
        nodes = living_nodes()
        self._refused[worker.node] += worker.node in nodes
        if all(self._refused[node] >= _TRIES for node in nodes):
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ConnectionError(
                f"no node of the Ray cluster can train ({lines[-1].strip()}); "
                "install the same Encore on every node"
            )

    def _put_back(self, worker: "_Worker") -> None:
        self._say("a worker on the Ray cluster was lost; its stage run goes on elsewhere")
        super()._put_back(worker)


class _Worker:
    """An actor in a slot of a node, and the pending call to it."""

    def __init__(
        self, build: BuildAway, share: Share, cache: Path, node: str, watcher: Watcher
    ) -> None:
        self.node = node
        self.key: str
        self.task: StageTask
        self.epochs = 0  # that have ended in this stage run
        self.usable = True
        self.word: Any = None
        self._left: Any = None
        place = NodeAffinitySchedulingStrategy(node, soft=False)
        made: Any = ray.remote(AwayWorker)
        self.actor = made.options(
            num_cpus=share.cpus, num_gpus=share.gpus, max_restarts=0, scheduling_strategy=place
        ).remote(build, share.slot, cache, watcher)

    def survey(self, names: Sequence[str]) -> None:
        """Ask which decoded photos its node lacks."""
        self.word = self.actor.missing.remote(names)

    def begin(self, key: str, task: StageTask) -> None:
        """Train a stage run, starting from its files here."""
        self.key, self.task, self.epochs = key, task, 0
        names = files_of(task.folder)
        files: dict[str, Content] = {name: read_whole(task.folder / name) for name in names}
        start = read_whole(task.start) if task.start else None
        self.word = self.actor.begin.remote(key, task, start, files)

    def go_on(self) -> None:
        """Start the next epoch."""
        self.word = self.actor.go_on.remote()

    def leave(self) -> None:
        """Ask it to stop its stage run, at the end of the epoch."""
        self._left = self.actor.leave.remote()

    def wait_until_left(self) -> Exception | None:
        """Wait until its stage run has stopped; return the error if that failed.

        If the worker is lost, the files are those of the last epoch that was sent back.
        """
        try:
            for word in filter(None, (self.word, self._left)):  # an epoch may have ended
                self.word = word
                said = self.hear()
                if isinstance(said, Broken):
                    raise said.error
                if isinstance(said, Lost):
                    raise DeviceLost(said.reason)
        except Exception as error:  # noqa: BLE001 - raised when all have left
            self.kill()
            return None if isinstance(error, RayError | DeviceLost) else error
        return None

    def hear(self) -> object:
        """Return its message, after storing its files here. Raises `RayError` if it is lost."""
        word: Reply = ray.get(self.word)
        self.word = None
        for name, content in word.files.items():
            write_whole(self.task.folder / name, content)
        return word.said

    def kill(self) -> None:
        """End it at once, without a restart."""
        self.usable = False
        with suppress(RayError):
            ray.kill(self.actor)
