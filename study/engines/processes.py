"""The engine that trains in worker processes, one for each slot."""

import multiprocessing
import signal
from collections import Counter, deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait

from study.engines.base import EpochEnded, Event, FailureKind, StageEnded, StageFailed
from study.engines.worker import Broken, Build, Order, work
from study.slots import Slot
from trainers.base import StageTask
from trainers.interrupts import held_back

_PATIENCE = 10.0
"""Seconds that an idle worker gets to end."""


class ProcessEngine:
    """See `Engine`. A worker that dies costs its stage run a retry, from its `last`, and no other.

    `build` makes the trainer in each worker. After `max_retries` deaths over one stage run, that
    has failed.
    """

    def __init__(self, build: Build, slots: Sequence[Slot], *, max_retries: int = 2) -> None:
        self._idle = [_Worker(build, slot) for slot in slots]
        self._busy: dict[str, _Worker] = {}
        self._waiting: deque[tuple[str, StageTask]] = deque()
        self._deaths: Counter[str] = Counter()
        self._max_retries = max_retries

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
        by_line: dict[object, _Worker] = {each.connection: each for each in self._busy.values()}
        return [by_line[line] for line in wait([each.connection for each in by_line.values()])]

    def _listen(self, worker: "_Worker") -> Generator[Event, None, None]:
        key = worker.key
        if self._busy.get(key) is not worker or not worker.has_spoken():  # left meanwhile
            return
        match said := worker.hear():
            case None:
                yield from self._bury(worker)
            case Broken(error):
                raise error
            case EpochEnded():
                yield said
                if self._busy.get(key) is worker and worker.key == key:
                    worker.say(Order.GO_ON)
            case StageEnded() | StageFailed():
                self._release(worker)
                yield said

    def _bury(self, worker: "_Worker") -> Generator[Event, None, None]:
        """Give the stage run of a dead worker another try, or give it up."""
        key, task, how = worker.key, worker.task, worker.kill()
        self._release(worker)
        self._deaths[key] += 1
        if self._deaths[key] <= self._max_retries:
            self._waiting.appendleft((key, task))
            return
        deaths = self._deaths.pop(key)
        times = "once," if deaths == 1 else f"{deaths} times, at last"
        reason = f"its worker process died {times} by {how}"
        yield StageFailed(key, FailureKind.KILLED, reason)

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
            worker.say(Order.LEAVE)
        errors = []
        for worker in workers:
            if error := worker.wait_until_left():
                errors.append(error)
            self._release(worker)
        if errors:
            raise errors[0]


class _Worker:
    """A process and the line to it; it is started when there is something to train."""

    def __init__(self, build: Build, slot: Slot) -> None:
        self._build = build
        self._slot = slot
        self._process: multiprocessing.process.BaseProcess | None = None
        self.connection: Connection[object, object]
        self.key: str
        self.task: StageTask

    def begin(self, key: str, task: StageTask) -> None:
        """Have a stage run trained."""
        self.key, self.task = key, task
        if self._process is None or not self._process.is_alive():
            self._start()
        self.say((key, task))

    def say(self, order: object) -> None:
        """Send an order; a dead worker's silence is noticed when it is listened to."""
        with suppress(ConnectionError):
            self.connection.send(order)

    def has_spoken(self) -> bool:
        """Whether there is something to hear, be it that the worker is dead."""
        return self.connection.poll()

    def hear(self) -> object:
        """Give what the worker says next; None if it is dead."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):  # the latter where it died in the middle of a word
            return None

    def wait_until_left(self) -> Exception | None:
        """Wait until what it trained is left, or has ended; give what kept it from that."""
        while isinstance(said := self.hear(), EpochEnded):
            pass
        if said is None or isinstance(said, Broken):
            self.kill()
        return said.error if isinstance(said, Broken) else None

    def stop(self) -> None:
        """End the process of an idle worker."""
        if self._process is not None:
            self.say(None)
            self._process.join(_PATIENCE)
            self.kill()

    def kill(self) -> str:
        """End the process at once; say how it ended."""
        if self._process is None:
            return "nothing"
        self._process.kill()
        self._process.join()
        code = self._process.exitcode or 0
        self._hang_up()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def _start(self) -> None:
        # A fresh interpreter: a forked one would share the parent's threads and CUDA context.
        spawn = multiprocessing.get_context("spawn")
        connection, theirs = spawn.Pipe()
        held, lifeline = spawn.Pipe(duplex=False)
        arguments = (theirs, held, self._build, self._slot)
        process = spawn.Process(target=work, args=arguments, name="encore-worker")
        try:
            with held_back():
                process.start()
        finally:
            theirs.close()
            held.close()
        self._process, self.connection, self._lifeline = process, connection, lifeline

    def _hang_up(self) -> None:
        self.connection.close()
        self._lifeline.close()
        self._process = None
