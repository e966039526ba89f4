"""Signals sent by a terminal or a cluster to all processes: only the coordinator handles them."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

TERMINATIONS = (signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
"""Signals that ask a process to end: from a cluster, a container, or a closed terminal."""

INTERRUPTS = (signal.SIGINT, *TERMINATIONS)


@contextmanager
def held_back() -> Iterator[None]:
    """Block interrupts: a process started meanwhile gets none until it ignores them."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # it would unblock them as it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore() -> None:
    """Make this process ignore interrupts, including those blocked at its start."""
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)


def obey_the_parent_alone() -> None:
    """Make a process that was started with interrupts blocked end only on its parent's SIGTERM.

    Where the sender of a signal is unknown (not Linux), any SIGTERM ends it.
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
