"""The common part of engines whose workers train elsewhere: the queue and retries after deaths."""

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Generator, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from study.engines.base import (
    BatchesDone,
    EpochEnded,
    Event,
    FailureKind,
    StageEnded,
    StageFailed,
    Watcher,
    Woken,
    unwatched,
)
from study.engines.worker import Broken, Lost
from trainers.base import StageTask


class Worker(Protocol):
    """Trains one stage run at a time, and waits after each epoch for the order to continue."""

    key: str
    task: StageTask

    @property
    def usable(self) -> bool:
        """Whether it can train another stage run."""
        ...

    def begin(self, key: str, task: StageTask) -> None:
        """Start training a stage run, which is `key` and `task` from now on."""
        ...

    def go_on(self) -> None:
        """Start the next epoch."""
        ...

    def leave(self) -> None:
        """Ask it to stop its stage run, without waiting for that."""
        ...

    def wait_until_left(self) -> Exception | None:
        """Wait until it has stopped, or has ended; return why its files are not up to date, if so.

        Messages that it still sends are ignored.
        """
        ...

    def kill(self) -> object:
        """End it at once."""
        ...


W = TypeVar("W", bound=Worker)


class WorkerPool(ABC, Generic[W]):
    """See `Engine`.

    If a worker dies, its stage run is retried from its `last`, and no other is affected. A worker
    whose GPU has failed is ended and counts as dead, since its context cannot be used again. After
    more than `max_retries` deaths the stage run has failed, with the reason `died`.
    """

    died: str

    def __init__(self, *, max_retries: int) -> None:
        self._idle: list[W] = []
        self._busy: dict[str, W] = {}
        self._waiting: deque[tuple[str, StageTask]] = deque()
        self._deaths: Counter[str] = Counter()
        self._max_retries = max_retries
        self._watcher: Watcher = unwatched
        self._woken = False

    def watch(self, watcher: Watcher) -> None:
        """Report to `watcher` the batches that workers have finished."""
        self._watcher = watcher

    def submit(self, key: str, task: StageTask) -> None:
        """Queue a stage run."""
        self._deaths.pop(key, None)
        self._waiting.append((key, task))

    def events(self) -> Generator[Event, None, None]:
        """Train what is queued, yielding the workers' events."""
        try:
            while self._waiting or self._busy:
                self._assign()
                for worker in self._ready():
                    yield from self._listen(worker)
                    self._assign()
                if self._woken:
                    self._woken = False
                    yield Woken()
        except KeyboardInterrupt:  # stop at once, not at the end of the epochs
            self._abandon()
            raise
        finally:
            self._leave(list(self._busy.values()))

    def wake(self) -> None:
        """Have `events` yield `Woken` once `_ready` returns, which may wait for long."""
        self._woken = True

    def cancel(self, key: str) -> None:
        """Cancel a stage run, at the end of its epoch if it is in the middle of one."""
        self._waiting = deque(waiting for waiting in self._waiting if waiting[0] != key)
        if key in self._busy:
            self._leave([self._busy[key]])

    @abstractmethod
    def _ready(self) -> Iterable[W]:
        """Wait for messages; return the workers that have sent one, or none for now."""

    @abstractmethod
    def _listen(self, worker: W) -> Generator[Event, None, None]:
        """Receive a worker's message and act on it."""

    def _assign(self) -> None:
        while self._waiting and self._idle:
            key, task = self._waiting.popleft()
            self._busy[key] = worker = self._idle.pop(0)
            worker.begin(key, task)

    def _heed(self, worker: W, said: object) -> Generator[Event, None, None]:
        """Act on the message of a worker that trains."""
        key = worker.key
        match said:
            case Lost(reason):
                worker.kill()
                yield from self._after_death(worker, reason)
            case Broken(error):
                worker.kill()
                self._release(worker)
                raise error
            case BatchesDone():
                self._watcher(said)
            case EpochEnded():
                yield said
                if self._busy.get(key) is worker:  # else it was cancelled meanwhile
                    # to the end of the queue: none waits for long
                    self._busy[key] = self._busy.pop(key)
                    worker.go_on()
            case StageEnded() | StageFailed():
                self._release(worker)
                yield said

    def _after_death(self, worker: W, how: str) -> Generator[Event, None, None]:
        """Queue the stage run of a dead worker again, or yield its failure."""
        key = worker.key
        self._deaths[key] += 1
        if self._deaths[key] <= self._max_retries:
            self._put_back(worker)
            return
        self._release(worker)
        deaths = self._deaths.pop(key)
        times = "once" if deaths == 1 else f"{deaths} times, at last"
        yield StageFailed(key, FailureKind.KILLED, f"{self.died} {times} ({how})")

    def _put_back(self, worker: W) -> None:
        """Put the stage run of a dead worker at the front of the queue."""
        self._release(worker)
        self._waiting.appendleft((worker.key, worker.task))

    def _release(self, worker: W) -> None:
        del self._busy[worker.key]
        if worker.usable:
            self._idle.append(worker)

    def _abandon(self) -> None:
        """End all training workers at once."""
        for worker in list(self._busy.values()):
            worker.kill()
            self._release(worker)

    def _leave(self, workers: Sequence[W]) -> None:
        """Stop the workers' stage runs, all in parallel."""
        for worker in workers:
            worker.leave()
        errors = []
        for worker in workers:
            if error := worker.wait_until_left():
                errors.append(error)
            self._release(worker)
        if errors:
            raise errors[0]
