"""What a terminal or a cluster sends to all processes at once is for the one that decides."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

TERMINATIONS = (signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
"""What asks a process to end: a cluster, a container, or a terminal that is closed."""

INTERRUPTS = (signal.SIGINT, *TERMINATIONS)


@contextmanager
def held_back() -> Iterator[None]:
    """Hold interrupts back: a process started meanwhile gets none until it ignores them."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # it would let them through as it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore() -> None:
    """Have this process ignore interrupts, also those that were held back as it started."""
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)


def obey_the_parent_alone() -> None:
    """Have a process that was started with interrupts held back end by its parent's SIGTERM alone.

    Where the system does not tell who sends a signal (not Linux), any SIGTERM ends it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        threading.Thread(target=_wait_for_the_parent, name="interrupts", daemon=True).start()
    elif sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _wait_for_the_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
