"""Processes that leave what is sent to all of them to the one that decides."""

import multiprocessing
import signal
import subprocess
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import pytest

from trainers import signals

pytestmark = pytest.mark.skipif("sys.platform != 'linux'", reason="a matter of Linux's signals")


def stand(begin: Callable[[], None], line: "Connection[object, object]") -> None:
    """Be a process that answers."""
    begin()
    while True:
        line.send(line.recv())


@pytest.mark.parametrize(
    ("begin", "ended"),
    [(signals.ignore, -signal.SIGKILL), (signals.obey_the_parent_alone, 0)],
)
def test_interrupts_from_elsewhere_are_ignored(begin: Callable[[], None], ended: int) -> None:
    """Also those that come while it starts; its parent's SIGTERM ends a daemonic one."""
    spawn = multiprocessing.get_context("spawn")
    line, theirs = spawn.Pipe()
    process = spawn.Process(target=stand, args=(begin, theirs), daemon=True)
    with signals.held_back():
        process.start()
    try:
        for word in ("starting", "working"):
            for number in signals.INTERRUPTS:
                subprocess.run(["kill", f"-{number}", str(process.pid)], check=True)
            time.sleep(0.1)  # a signal that is still pending would swallow the next
            line.send(word)
            assert line.poll(30)
            assert line.recv() == word
        process.terminate()
        process.join(0.5 if ended else 30)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == ended
