"""The progress of an epoch: batches counted as they are consumed."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class BatchCount:
    """Counts the batches of an epoch, and calls `tell` with the done ones and the total.

    On a GPU, a batch that counts as done may still be in the device's queue. `ahead` of the `total`
    are batches of arrays that have to be made first, unless they exist.
    """

    def __init__(
        self, tell: Callable[[int, int], None] = lambda *_: None, total: int = 0, ahead: int = 0
    ) -> None:
        self._tell = tell
        self._done, self._total, self._ahead = 0, total, ahead

    def passing(self, batches: Iterable[T]) -> Iterator[T]:
        """Pass batches on; one is done when the next is asked for."""
        for batch in batches:
            yield batch
            self._done += 1
            self._tell(self._done, self._total)

    def more(self, batches: Iterable[T], count: int) -> Iterator[T]:
        """Pass on batches of an array that has to be made first."""
        known = min(self._ahead, count)
        self._ahead -= known
        self._total += count - known
        return self.passing(batches)
