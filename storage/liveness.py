"""Whether a process of this machine still lives, as far as the system tells."""

import os
from pathlib import Path

_DEAD = ("Z", "X")  # a zombie waits only for its parent to notice


def born(pid: int) -> str | None:
    """Give what tells a process from a later one with the same pid; None where unknown."""
    try:
        return f"{_where()}/{_stat(pid)[19]}"  # field 22 of proc(5): when it started, in ticks
    except OSError:
        return None


def alive(pid: int, birth: str | None) -> bool:
    """Tell whether the process that had `pid` and `birth` lives; in doubt it does."""
    if os.name != "posix":
        return True  # there, signal 0 is Ctrl-C
    if birth is not None and not _within_sight(birth):
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it lives, under another user
    try:
        if _stat(pid)[0] in _DEAD:
            return False
    except OSError:
        return True
    return birth is None or born(pid) in (None, birth)


def _within_sight(birth: str) -> bool:
    """Tell whether a process was born where we are: machines and containers may share a name."""
    try:
        return birth.rpartition("/")[0] == _where()
    except OSError:
        return True


def _where() -> str:
    """Name the machine since its last boot, and the container: each counts its own pids."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"


def _stat(pid: int) -> list[str]:
    """Give the fields of /proc/<pid>/stat from the third on: the second may hold anything."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode().split()
