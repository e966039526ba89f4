"""Whether a process of this machine is still alive, as far as the system knows."""

import os
from enum import Enum
from pathlib import Path

_DEAD = ("Z", "X")  # a zombie has ended
_STOPPED = ("T", "t")  # by Ctrl-Z or SIGSTOP, or by a debugger


class Life(Enum):
    """The state of a process; UNKNOWN if it may run on another machine."""

    RUNNING = "running"
    STOPPED = "stopped"
    GONE = "gone"
    UNKNOWN = "unknown"


def born(pid: int) -> str | None:
    """Return what distinguishes a process from a later one with the same pid; None if unknown."""
    try:
        return f"{_where()}/{_stat(pid)[19]}"  # field 22 of proc(5): when it started, in ticks
    except OSError:
        return None


def life(pid: int, birth: str | None) -> Life:
    """Return the state of the process with `pid` and `birth` on a machine of this one's name."""
    if os.name != "posix" or (birth is not None and not _within_sight(birth)):
        return Life.UNKNOWN  # elsewhere, signal 0 is Ctrl-C
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return Life.GONE
    except PermissionError:
        pass  # it is alive, under another user
    try:
        state = _stat(pid)[0]
    except FileNotFoundError:
        return Life.UNKNOWN
    if state in _DEAD or (birth is not None and born(pid) not in (None, birth)):
        return Life.GONE
    if birth is None:
        return Life.UNKNOWN
    return Life.STOPPED if state in _STOPPED else Life.RUNNING


def _within_sight(birth: str) -> bool:
    """Return whether a process started on this machine: several may share a name."""
    try:
        return birth.rpartition("/")[0] == _where()
    except OSError:
        return False


def _where() -> str:
    """Name the machine since its last boot, and the container: each counts its own pids."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the third on: the second may hold anything."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode().split()
