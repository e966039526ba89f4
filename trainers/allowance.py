"""The CPUs and the memory that this process may use, within its cgroups' limits.

Batch systems and containers grant a part of a machine. More threads than CPUs would wait for each
other, and memory beyond the limit would end the process. Free of torch.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
PROCESS = Path("/proc/self/cgroup")


def usable_cpus(groups: Sequence[Path] | None = None) -> int:
    """Count the CPUs that this process may run on, at least 1, within its groups' quotas."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
    pinned = len(affinity(0)) if affinity else os.cpu_count() or 1
    quotas = map(_quota, own_groups() if groups is None else groups)
    return max(1, min([pinned, *(quota for quota in quotas if quota is not None)]))


def usable_memory(groups: Sequence[Path] | None = None) -> int:
    """Count the bytes that this process may still allocate.

    The machine's, within its groups' limits. A group's reclaimable file cache counts as free, as it
    does for the machine.
    """
    left = map(_left, own_groups() if groups is None else groups)
    machine: int = psutil.virtual_memory().available
    return max(0, min([machine, *(size for size in left if size is not None)]))


def own_groups(root: Path = CGROUPS, process: Path = PROCESS) -> list[Path]:
    """Return the folders of the cgroups (v2) that this process is in, the innermost first."""
    with suppress(OSError):
        for line in process.read_text(encoding="utf-8").splitlines():
            number, _, path = line.partition("::")
            if number == "0":
                # In a container the path may be valid only outside of it: "..", or a missing
                # folder. The root is then the container's own group.
                place = Path(os.path.normpath(root / path.lstrip("/")))
                above = [place, *place.parents]
                return above[: above.index(root) + 1] if root in above else [root]
    return []


def _quota(group: Path) -> int | None:
    """Read how many CPUs' time a group may use, rounded up; None without a limit."""
    quota, *period = _words(group / "cpu.max")
    if not (quota.isdecimal() and period and period[0].isdecimal() and int(period[0])):
        return None
    return ceil(int(quota) / int(period[0]))


def _left(group: Path) -> int | None:
    """Read how many bytes a group may still take; None without a limit."""
    (limit, *_), (used, *_) = _words(group / "memory.max"), _words(group / "memory.current")
    if not (limit.isdecimal() and used.isdecimal()):
        return None
    return int(limit) - int(used) + _named(group / "memory.stat", "inactive_file")


def _named(path: Path, name: str) -> int:
    """Read the number after a name at the beginning of a line; 0 if there is none."""
    for first, *others in map(str.split, _lines(path)):
        if first == name and others and others[0].isdecimal():
            return int(others[0])
    return 0


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split() or [""]


def _lines(path: Path) -> Iterator[str]:
    with suppress(OSError):
        yield from filter(str.strip, path.read_text(encoding="utf-8").splitlines())
