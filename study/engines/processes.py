"""The engine that trains in worker processes, one for each slot."""

import math
import multiprocessing
import signal
import time
from collections import Counter, deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait

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
from study.engines.slots import Slot
from study.engines.worker import Broken, Build, Lost, Order, Word, work
from trainers.base import StageTask
from trainers.signals import held_back
from trainers.spawning import with_environment, without_main

_PATIENCE = 10.0
"""Seconds that an idle worker gets to end."""

_STARTS_WITHIN = 120.0
"""Seconds that a worker gets to say its first word: to import ours from a slow disk takes some."""

_TRIES = 3
"""Workers of a slot that may die in a row as they start: one may be killed by chance, not three."""


class ProcessEngine:
    """See `Engine`. A worker that dies costs its stage run a retry, from its `last`, and no other.

    So does one whose GPU has failed: it is ended, as all that it did from then on would fail, too.

    `build` makes the trainer in each worker. After `max_retries` deaths over one stage run, that
    has failed. A worker that dies before its trainer is made says nothing of the stage run, and
    another one is started; where none will start, `events` raises ChildProcessError.
    """

    def __init__(self, build: Build, slots: Sequence[Slot], *, max_retries: int = 2) -> None:
        self._idle = [_Worker(build, slot) for slot in slots]
        self._busy: dict[str, _Worker] = {}
        self._waiting: deque[tuple[str, StageTask]] = deque()
        self._deaths: Counter[str] = Counter()
        self._max_retries = max_retries
        self._watcher: Watcher = unwatched

    def watch(self, watcher: Watcher) -> None:
        """Have `watcher` told of the batches that workers say are done."""
        self._watcher = watcher

    @property
    def slots(self) -> int:
        """How many stage runs it can run at once."""
        return len(self._idle) + len(self._busy)

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

    def close(self) -> None:
        """End the workers, at once if they train."""
        self._abandon()
        for worker in self._idle:
            worker.stop()

    def _assign(self) -> None:
        while self._waiting and self._idle:
            key, task = self._waiting.popleft()
            self._idle[0].begin(key, task)
            self._busy[key] = self._idle.pop(0)

    def _ready(self) -> "list[_Worker]":
        """Wait for workers that have spoken, died or been silent for too long as they start."""
        busy = list(self._busy.values())
        left = min(worker.deadline for worker in busy) - time.monotonic()
        spoken = wait([worker.connection for worker in busy], None if left == math.inf else left)
        return [worker for worker in busy if worker.connection in spoken or worker.is_overdue]

    def _listen(self, worker: "_Worker") -> Generator[Event, None, None]:
        key = worker.key
        if self._busy.get(key) is not worker or not worker.has_news():  # left meanwhile
            return
        match said := worker.hear():
            case (None | Lost()) as last if worker.is_ready:
                yield from self._after_death(worker, last)
            case None:
                self._start_again(worker)
            case Word():
                worker.go_on(said)
            case Broken(error):
                raise error
            case BatchesDone():
                self._watcher(said)
            case EpochEnded():
                yield said
                if self._busy.get(key) is worker and worker.key == key:
                    worker.say(Order.GO_ON)
            case StageEnded() | StageFailed():
                self._release(worker)
                yield said

    def _after_death(self, worker: "_Worker", said: Lost | None) -> Generator[Event, None, None]:
        """Queue the stage run of a dead or useless worker again, or yield its failure."""
        key, task, how = worker.key, worker.task, worker.kill()
        self._release(worker)
        self._deaths[key] += 1
        if self._deaths[key] <= self._max_retries:
            self._waiting.appendleft((key, task))
            return
        deaths = self._deaths.pop(key)
        times = "once," if deaths == 1 else f"{deaths} times, at last"
        reason = f"its worker process died {times} by {said.reason if said else how}"
        yield StageFailed(key, FailureKind.KILLED, reason)

    def _start_again(self, worker: "_Worker") -> None:
        """Put off what a worker that has died as it started was to train."""
        key, task, how = worker.key, worker.task, worker.kill()
        self._release(worker)
        worker.failed_starts += 1
        if worker.failed_starts == _TRIES:
            worker.failed_starts = 0
            raise ChildProcessError(
                f"worker processes die as they start: {_TRIES} in a row for {worker.name}, at last "
                f"by {how}; see what they wrote to the terminal and, for SIGKILL, whether the "
                "system's memory was full, and run the same command again: it goes on"
            )
        self._waiting.appendleft((key, task))

    def _release(self, worker: "_Worker") -> None:
        del self._busy[worker.key]
        self._idle.append(worker)

    def _abandon(self) -> None:
        """End at once whatever trains."""
        for worker in list(self._busy.values()):
            worker.kill()
            self._release(worker)

    def _leave(self, workers: "Sequence[_Worker]") -> None:
        """Have workers leave what they train, all at once; what they still say is not heard."""
        for worker in workers:
            worker.leave()
        errors = []
        for worker in workers:
            if error := worker.wait_until_left():
                errors.append(error)
            self._release(worker)
        if errors:
            raise errors[0]


class _Worker:
    """A process and the line to it; it is started when there is something to train.

    `is_ready` once its trainer is made; until then, it is to say something before `deadline`.
    """

    def __init__(self, build: Build, slot: Slot) -> None:
        self.name = slot.device
        self._recipe = build, slot
        self._process: multiprocessing.process.BaseProcess | None = None
        self.connection: Connection[object, object]
        self.key: str
        self.task: StageTask
        self.is_ready = False
        self.deadline = math.inf
        self.failed_starts = 0

    def begin(self, key: str, task: StageTask) -> None:
        """Have a stage run trained, once there is a process that is ready for it."""
        self.key, self.task = key, task
        if self._process is None or not self._process.is_alive():
            self._start()
        else:
            self.say((key, task))

    def go_on(self, said: Word) -> None:
        """Tell the process what it needs as it starts."""
        self.deadline = math.inf
        if said is Word.AWAKE:
            self.say(self._recipe)
        else:
            self.is_ready, self.failed_starts = True, 0
            self.say((self.key, self.task))

    def say(self, order: object) -> None:
        """Send an order; a dead worker's silence is noticed when it is listened to."""
        with suppress(ConnectionError):
            self.connection.send(order)

    @property
    def is_overdue(self) -> bool:
        """Whether it should have said something by now."""
        return time.monotonic() >= self.deadline

    def has_news(self) -> bool:
        """Whether there is something to hear, be it that the worker is dead or overdue."""
        return self.connection.poll() or self.is_overdue

    def hear(self) -> object:
        """Return what the worker says next; None if it is dead, or says nothing though overdue."""
        if self.is_overdue and not self.connection.poll():
            return None
        try:
            return self.connection.recv()
        except (EOFError, OSError):  # the latter where it died in the middle of a word
            return None

    def leave(self) -> None:
        """Have it leave what it trains; one that does not train yet has nothing to save."""
        if self.is_ready:
            self.say(Order.LEAVE)
        else:
            self.kill()

    def wait_until_left(self) -> Exception | None:
        """Wait until what it trained is left, or has ended; return what kept it from that."""
        if self._process is None:
            return None
        while isinstance(said := self.hear(), EpochEnded | BatchesDone):
            pass
        if said is None or isinstance(said, Broken | Lost):
            self.kill()
        return said.error if isinstance(said, Broken) else None

    def stop(self) -> None:
        """End the process of an idle worker."""
        if self._process is not None:
            if self.is_ready:
                self.say(None)
                self._process.join(_PATIENCE)
            self.kill()

    def kill(self) -> str:
        """End the process at once; say how it ended."""
        if self._process is None:
            return "nothing"
        silent = self.is_overdue and self._process.is_alive()
        self._process.kill()
        self._process.join()
        code = self._process.exitcode or 0
        self._hang_up()
        if silent:
            return f"saying nothing for {_STARTS_WITHIN:g} s"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def _start(self) -> None:
        # A fresh interpreter: a forked one would share the parent's threads and CUDA context.
        spawn = multiprocessing.get_context("spawn")
        connection, theirs = spawn.Pipe()
        held, lifeline = spawn.Pipe(duplex=False)
        process = spawn.Process(target=work, args=(theirs, held), name="encore-worker")
        try:
            with held_back(), without_main(), with_environment(self._recipe[1].environment):
                process.start()
                self._process, self.connection, self._lifeline = process, connection, lifeline
                self.is_ready, self.deadline = False, time.monotonic() + _STARTS_WITHIN
        finally:
            theirs.close()
            held.close()

    def _hang_up(self) -> None:
        self.connection.close()
        self._lifeline.close()
        self._process, self.is_ready, self.deadline = None, False, math.inf
