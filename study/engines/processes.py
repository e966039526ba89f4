"""The engine that trains in worker processes, one for each slot."""

import math
import multiprocessing
import signal
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait

from study.engines.base import BatchesDone, EpochEnded, Event
from study.engines.pool import WorkerPool
from study.engines.slots import Slot
from study.engines.worker import Broken, Build, Lost, Order, Readiness, work
from trainers.base import StageTask
from trainers.signals import held_back
from trainers.spawning import with_environment, without_main

_PATIENCE = 10.0
"""Seconds for an idle worker to exit."""

_STARTS_WITHIN = 120.0
"""Seconds for a worker's first message: importing from a slow disk takes a while."""

_TRIES = 3
"""How many workers of a slot may die in a row at start: one may be killed by chance, not three."""


class ProcessEngine(WorkerPool["_Worker"]):
    """See `Engine` and `WorkerPool`. `build` makes the trainer in each worker.

    A worker that dies before its trainer is made does not count against the stage run; another one
    is started. If none starts, `events` raises ChildProcessError.
    """

    died = "its worker process died"

    def __init__(self, build: Build, slots: Sequence[Slot], *, max_retries: int = 2) -> None:
        super().__init__(max_retries=max_retries)
        self._idle = [_Worker(build, slot) for slot in slots]
        self._bell = _Bell()

    @property
    def slots(self) -> int:
        """How many stage runs it can run at once."""
        return len(self._idle) + len(self._busy)

    def wake(self) -> None:
        """Have `events` yield `Woken`."""
        super().wake()
        self._bell.ring()

    def close(self) -> None:
        """End the workers, at once if they train."""
        self._abandon()
        for worker in self._idle:
            worker.stop()

    def _ready(self) -> "list[_Worker]":
        """Wait for workers that have sent a message, died, or been silent for too long at start."""
        busy = list(self._busy.values())
        left = min(worker.deadline for worker in busy) - time.monotonic()
        heard = [self._bell.heard, *(worker.connection for worker in busy)]
        spoken = wait(heard, None if left == math.inf else left)
        if self._bell.heard in spoken:
            self._bell.silence()
        return [worker for worker in busy if worker.connection in spoken or worker.is_overdue]

    def _listen(self, worker: "_Worker") -> Generator[Event, None, None]:
        if self._busy.get(worker.key) is not worker or not worker.has_news():  # left meanwhile
            return
        match said := worker.hear():
            case None if worker.is_ready:
                yield from self._after_death(worker, worker.kill())
            case None:
                self._start_again(worker)
            case Readiness():
                worker.prepare(said)
            case _:
                yield from self._heed(worker, said)

    def _start_again(self, worker: "_Worker") -> None:
        """Queue again the stage run of a worker that died at start."""
        how = worker.kill()
        self._put_back(worker)
        worker.failed_starts += 1
        if worker.failed_starts == _TRIES:
            worker.failed_starts = 0
            raise ChildProcessError(
                f"worker processes die as they start: {_TRIES} in a row for {worker.name}, at last "
                f"by {how}; see what they wrote to the terminal and, for SIGKILL, whether the "
                "system's memory was full, and run the same command again: it goes on"
            )


class _Bell:
    """Wakes who waits for workers; it may be rung by any thread."""

    def __init__(self) -> None:
        self.heard, self._cord = multiprocessing.Pipe(duplex=False)
        self._lock, self._rung = threading.Lock(), False

    def ring(self) -> None:
        """Have `heard` be ready to be read."""
        with self._lock:
            if not self._rung:
                self._cord.send_bytes(b"!")
            self._rung = True

    def silence(self) -> None:
        """Read what was rung, so that it can be again."""
        with self._lock:
            self.heard.recv_bytes()
            self._rung = False


class _Worker:
    """A process and its connection; it is started when there is something to train.

    `is_ready` once its trainer is made; until then, a message is due before `deadline`.
    """

    usable = True  # another process takes the place of a dead one

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
        """Train a stage run, once the process is ready for it."""
        self.key, self.task = key, task
        if self._process is None or not self._process.is_alive():
            self._start()
        else:
            self.say((key, task))

    def prepare(self, said: Readiness) -> None:
        """Send the process what it needs at start."""
        self.deadline = math.inf
        if said is Readiness.AWAKE:
            self.say(self._recipe)
        else:
            self.is_ready, self.failed_starts = True, 0
            self.say((self.key, self.task))

    def go_on(self) -> None:
        """Start the next epoch."""
        self.say(Order.GO_ON)

    def say(self, order: object) -> None:
        """Send an order; that a worker is dead is noticed when receiving."""
        with suppress(ConnectionError):
            self.connection.send(order)

    @property
    def is_overdue(self) -> bool:
        """Whether a message from it is overdue."""
        return time.monotonic() >= self.deadline

    def has_news(self) -> bool:
        """Whether there is something to act on: a message, a dead worker, or an overdue one."""
        return self.connection.poll() or self.is_overdue

    def hear(self) -> object:
        """Return the worker's next message; None if it is dead or overdue."""
        if self.is_overdue and not self.connection.poll():
            return None
        try:
            return self.connection.recv()
        except (EOFError, OSError):  # the latter if it died in the middle of a message
            return None

    def leave(self) -> None:
        """Ask it to stop its stage run; one that does not train yet has nothing to save."""
        if self.is_ready:
            self.say(Order.LEAVE)
        else:
            self.kill()

    def wait_until_left(self) -> Exception | None:
        """Wait until its stage run has stopped or ended; return the error if that failed."""
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
        """End the process at once; return how it ended."""
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
