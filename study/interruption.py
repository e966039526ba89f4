"""Signals that end a search: the first lets its epochs end, the second is obeyed at once."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trainers.interrupts import INTERRUPTS

ECHO = 5.0
"""Seconds in which a second SIGTERM says nothing new.

A cluster sends it to every process of a job, and the job's script passes it on.
"""


@contextmanager
def interruption(event: threading.Event) -> Iterator[None]:
    """Have the first Ctrl-C or SIGTERM set `event`, the second one raise `KeyboardInterrupt`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first: tuple[int, float] | None = None

    def interrupt(number: int, _frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if first is None:
            first = number, now
            event.set()
        elif not first[0] == number == signal.SIGTERM or now - first[1] >= ECHO:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
