"""Peak memory of this process and all its children, sampled from /proc (Linux).

It is the proportional set size: a page that n processes share counts for a nth in each, so forked
workers are not charged again for what they inherited. The kernel walks all pages for it, some
10 ms for each process and sample, which is why no run is timed and watched at once.
"""

import re
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

PAUSE = 0.1
"""Seconds between two samples."""


class PeakMemory:
    """Within its `with`, watches the memory, if `watching`; else does nothing at all."""

    def __init__(self, *, watching: bool) -> None:
        self.peak_mb: float | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True) if watching else None

    def __enter__(self) -> Self:
        """Begin to watch."""
        if self._thread:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop watching."""
        self._done.set()
        if self._thread:
            self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(PAUSE):
            self.peak_mb = max(self.peak_mb or 0.0, family_mb())


def family_mb() -> float:
    """Return the memory of this process and all its descendants, in millions of bytes."""
    kibibytes = sum(_proportional(pid) for pid in _family("self"))
    return kibibytes * 1024 / 1e6


def _family(root: str) -> list[str]:
    family = [root]
    for pid in family:  # grows while it is walked: children of children
        with suppress(OSError):  # a process may end at any time
            for thread in Path(f"/proc/{pid}/task").iterdir():
                family += (thread / "children").read_text().split()
    return family


def _proportional(pid: str) -> int:
    with suppress(OSError):
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
        return int(found[1]) if found else 0
    return 0
