"""A bound on the memory of photos being decoded, over all threads and processes."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from trainers.allowance import usable_memory

LARGEST = 4 << 30
"""Bytes for all photos being decoded at the same time: the largest allowed photo fits."""

LEAST = 256 << 20
"""The minimum, however little memory is free: a photo of 12 megapixels fits."""


class Room:
    """A semaphore of bytes: each user takes what it needs, and waits until it is available."""

    def __init__(self, size: int) -> None:
        self._whole = self._size = size
        self._used = 0
        self._changed = threading.Condition()
        self._alone: AbstractContextManager[object] = nullcontext()

    def share(self, sharers: int, alone: AbstractContextManager[object] | None = None) -> None:
        """Limit this process to one of `sharers` parts; larger photos need the lock `alone`.

        Together the processes with the same lock then use at most twice the size.
        """
        self._size, self._alone = self._whole // sharers, alone or nullcontext()

    @contextmanager
    def taken(self, needed: int) -> Iterator[None]:
        """Acquire bytes as a context; a request for more than all gets all."""
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
    """Return the bytes for this process: at most half of what it may still allocate."""
    return max(LEAST, min(LARGEST, usable_memory() // 2))


ROOM = Room(size_of_room())
"""This process's."""
