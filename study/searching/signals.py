"""Signals that end a search: the first lets its epochs end, the second stops it at once."""

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from trainers.signals import INTERRUPTS, TERMINATIONS

ECHO = 5.0
"""Seconds in which a second SIGTERM or SIGHUP is ignored.

A cluster sends it to every process of a job, and the job's script forwards it; when a terminal
closes, both the system and its shell send it.
"""


FINISHING = "finishing this epoch, then stopping"
AGAIN = "press Ctrl-C again to stop now"


@contextmanager
def interruption(
    event: threading.Event, say: Callable[[str], None] = lambda _: None
) -> Iterator[None]:
    """Make the first of `INTERRUPTS` set `event`, and the second raise `KeyboardInterrupt`.

    `say` is called on the first, from a separate thread: a handler may interrupt printing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first: tuple[int, float] | None = None

    def interrupt(number: int, _frame: FrameType | None) -> None:
        nonlocal first
        leave_the_terminal(number)
        now = time.monotonic()
        if first is None:
            first = number, now
            event.set()
            text = f"{FINISHING}; {AGAIN}" if number == signal.SIGINT else FINISHING
            threading.Thread(target=say, args=(text,), name="interrupted", daemon=True).start()
        elif not {first[0], number} <= set(TERMINATIONS) or now - first[1] >= ECHO:
            raise KeyboardInterrupt

    heard = [number for number in INTERRUPTS if not is_deaf_to(number)]
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_deaf_to(number: int) -> bool:
    """Return whether this process was started to survive its terminal, as by `nohup`."""
    return number not in (signal.SIGINT, signal.SIGTERM) and (
        signal.getsignal(number) is signal.SIG_IGN
    )


def leave_the_terminal(number: int) -> None:
    """After SIGHUP, discard output: writing to a closed terminal would fail during an epoch."""
    if sys.platform == "win32" or number != signal.SIGHUP:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if _is_terminal(stream):
            os.dup2(nowhere, stream)
    os.close(nowhere)


def _is_terminal(stream: int) -> bool:
    try:
        os.get_terminal_size(stream)
    except OSError as error:
        return error.errno == errno.EIO  # one that is closed
    return True
