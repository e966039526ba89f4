"""A worker process: trains stage runs one after the other, as ordered by its coordinator."""

import ctypes
import os
import pickle
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from study.engines.base import BatchesDone, EpochEnded
from study.engines.inline import InlineEngine
from study.engines.slots import Slot
from trainers import signals
from trainers.base import StageTask, Trainer
from trainers.errors import DeviceLost

Build = Callable[[Slot], Trainer]
"""Makes the trainer in the worker; it must be picklable."""


class Readiness(Enum):
    """A worker's messages before it trains."""

    AWAKE = "started, and waiting for what makes its trainer"
    READY = "ready, its trainer made"


class Order(Enum):
    """The orders to a worker after each epoch."""

    GO_ON = "go on"
    LEAVE = "leave"


@dataclass(frozen=True)
class Left:
    """A worker has stopped its stage run; the files are up to date."""


@dataclass(frozen=True)
class Broken:
    """A worker cannot work at all: every other stage run would fail as well."""

    error: Exception


@dataclass(frozen=True)
class Lost:
    """A worker's GPU has failed: the same stage run may succeed in another process."""

    reason: str


def work(connection: "Connection[object, object]", lifeline: "Connection[object, object]") -> None:
    """Train the stage runs sent through `connection` until None; exit when `lifeline` breaks.

    The first message makes the trainer. It is too long for an argument of the process: if that died
    at once, its parent would wait for ever for the argument to be read.
    """
    _die_with_the_coordinator(lifeline)
    signals.ignore()  # the coordinator says when to stop
    try:
        engine = _awake(connection)
        while (order := connection.recv()) is not None:
            if isinstance(order, tuple):  # else an order to stop a stage run that had just ended
                _train(connection, engine, *order)
    except DeviceLost as error:
        with suppress(ConnectionError):
            connection.send(Lost(error.reason))
    except Exception as error:  # noqa: BLE001 - what it was, the coordinator says
        with suppress(ConnectionError):  # unless the coordinator is gone
            connection.send(Broken(sendable(error)))


def _awake(connection: "Connection[object, object]") -> InlineEngine:
    connection.send(Readiness.AWAKE)
    recipe: Any = connection.recv()
    build, slot = recipe
    engine = InlineEngine(build(slot))
    engine.watch(partial(_tell, connection))
    connection.send(Readiness.READY)
    return engine


def _tell(connection: "Connection[object, object]", said: BatchesDone) -> None:
    """Report an epoch's progress, unless the coordinator is busy: no batch waits for it."""
    with suppress(ConnectionError):
        if select.select([], [connection], [], 0)[1]:
            connection.send(said)


def _train(connection: "Connection[object, object]", engine: InlineEngine, key: str,
           task: StageTask) -> None:  # fmt: skip
    """Train one stage run, in step with the coordinator.

    After each epoch the worker waits for an order, so that its files, when it is told to stop,
    match what was recorded. The wait is milliseconds, while an epoch takes seconds.
    """
    engine.submit(key, task)
    with closing(engine.events()) as events:
        for event in events:
            connection.send(event)
            if isinstance(event, EpochEnded) and connection.recv() is Order.LEAVE:
                break
        else:
            return
    connection.send(Left())


def sendable(error: Exception) -> Exception:
    """Return an error that survives pickling: some classes cannot be unpickled."""
    error.add_note(f"In a worker process:\n{traceback.format_exc()}")
    with suppress(Exception):
        copied = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        if type(copied) is type(error) and str(copied) == str(error):
            return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def _die_with_the_coordinator(lifeline: "Connection[object, object]") -> None:
    """End this process when the coordinator ends, in whatever way.

    No orphan may keep a GPU. Linux kills it; elsewhere a thread notices that the pipe is closed.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1  # prctl.h
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)

    def watch() -> None:
        try:
            lifeline.recv()
        except (EOFError, OSError):
            os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
