"""Room in memory for photos while they are decoded: a bound over all threads and processes."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from trainers.allowance import usable_memory

LARGEST = 4 << 30
"""Bytes for all photos that are decoded at a time: the largest one that is read fits in alone."""

LEAST = 256 << 20
"""However little memory is free: a photo of 12 megapixels fits in."""


class Room:
    """So many bytes, of which each takes what it needs, and waits until there are as many."""

    def __init__(self, size: int) -> None:
        self._whole = self._size = size
        self._used = 0
        self._changed = threading.Condition()
        self._alone: AbstractContextManager[object] = nullcontext()

    def share(self, sharers: int, alone: AbstractContextManager[object] | None = None) -> None:
        """Have this process take one of `sharers` parts; for more than that it holds `alone`.

        Together those that hold the same then take at most twice the size.
        """
        self._size, self._alone = self._whole // sharers, alone or nullcontext()

    @contextmanager
    def taken(self, needed: int) -> Iterator[None]:
        """Take some of it for a while. What needs more than all of it takes all of it."""
        with self._alone if needed > self._size else nullcontext():
            needed = min(needed, self._size)
            with self._changed:
                self._changed.wait_for(lambda: self._used + needed <= self._size)
                self._used += needed
            try:
                yield
            finally:
                with self._changed:
                    self._used -= needed
                    self._changed.notify_all()


def size_of_room() -> int:
    """Return the bytes for this process: no more than half of what it may still take."""
    return max(LEAST, min(LARGEST, usable_memory() // 2))


ROOM = Room(size_of_room())
"""This process's."""
