"""What engines share whose workers train elsewhere: the queue, and what becomes of deaths."""

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
    unwatched,
)
from study.engines.worker import Broken, Lost
from trainers.base import StageTask


class Worker(Protocol):
    """Trains one stage run at a time, and waits after each epoch for a word to go on."""

    key: str
    task: StageTask

    @property
    def usable(self) -> bool:
        """Whether it can train another stage run."""
        ...

    def begin(self, key: str, task: StageTask) -> None:
        """Have a stage run trained, which is `key` and `task` from now on."""
        ...

    def go_on(self) -> None:
        """Have the next epoch trained."""
        ...

    def leave(self) -> None:
        """Ask it to leave its stage run, without waiting for that."""
        ...

    def wait_until_left(self) -> Exception | None:
        """Wait until it has left, or has ended; return what kept its files from being up to date.

        What it still says is not heard.
        """
        ...

    def kill(self) -> object:
        """End it at once."""
        ...


W = TypeVar("W", bound=Worker)


class WorkerPool(ABC, Generic[W]):
    """See `Engine`. A worker that dies costs its stage run a retry, from its `last`, and no other.

    So does one whose GPU has failed: it is ended, as all that it did from then on would fail, too.
    After `max_retries` deaths over one stage run, that has failed: it `died`, is the reason.
    """

    died: str

    def __init__(self, *, max_retries: int) -> None:
        self._idle: list[W] = []
        self._busy: dict[str, W] = {}
        self._waiting: deque[tuple[str, StageTask]] = deque()
        self._deaths: Counter[str] = Counter()
        self._max_retries = max_retries
        self._watcher: Watcher = unwatched

    def watch(self, watcher: Watcher) -> None:
        """Have `watcher` told of the batches that workers say are done."""
        self._watcher = watcher

    def submit(self, key: str, task: StageTask) -> None:
        """Queue a stage run."""
        self._deaths.pop(key, None)
        self._waiting.append((key, task))

    def events(self) -> Generator[Event, None, None]:
        """Train what is queued, yielding what the workers say."""
        try:
            while self._waiting or self._busy:
                self._assign()
                for worker in self._ready():
                    yield from self._listen(worker)
                    self._assign()
        except KeyboardInterrupt:  # now means now, not when the epochs have ended
            self._abandon()
            raise
        finally:
            self._leave(list(self._busy.values()))

    def cancel(self, key: str) -> None:
        """Leave a stage run, at the end of its epoch if it is in the middle of one."""
        self._waiting = deque(waiting for waiting in self._waiting if waiting[0] != key)
        if key in self._busy:
            self._leave([self._busy[key]])

    @abstractmethod
    def _ready(self) -> Iterable[W]:
        """Wait until workers have something to say; return them, or none for the time being."""

    @abstractmethod
    def _listen(self, worker: W) -> Generator[Event, None, None]:
        """Hear what a worker says, and do it."""

    def _assign(self) -> None:
        while self._waiting and self._idle:
            key, task = self._waiting.popleft()
            self._busy[key] = worker = self._idle.pop(0)
            worker.begin(key, task)

    def _heed(self, worker: W, said: object) -> Generator[Event, None, None]:
        """Do what follows from the word of a worker that trains."""
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
                    self._busy[key] = self._busy.pop(key)  # to the end: none waits for long
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
        """Have another worker train the stage run of a dead one before all others."""
        self._release(worker)
        self._waiting.appendleft((worker.key, worker.task))

    def _release(self, worker: W) -> None:
        del self._busy[worker.key]
        if worker.usable:
            self._idle.append(worker)

    def _abandon(self) -> None:
        """End at once whatever trains."""
        for worker in list(self._busy.values()):
            worker.kill()
            self._release(worker)

    def _leave(self, workers: Sequence[W]) -> None:
        """Have workers leave what they train, all at once."""
        for worker in workers:
            worker.leave()
        errors = []
        for worker in workers:
            if error := worker.wait_until_left():
                errors.append(error)
            self._release(worker)
        if errors:
            raise errors[0]
