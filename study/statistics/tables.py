"""The probabilities of more candidates than fit into memory, read on demand."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float32]
"""Probabilities of n photos and C classes, (n, C)."""

HELD = 32_000_000
"""How many probabilities are kept in memory: 128 MB."""


class Tables:
    """Acts as an array (M, n, C), indexed by a candidate, a slice of them, or (columns, rows).

    `read` returns a candidate's table. The most recently used ones are kept.
    """

    def __init__(self, read: Callable[[int], Table], candidates: int) -> None:
        self._read = read
        self._candidates = candidates
        self._held: OrderedDict[int, Table] = OrderedDict()

    def __len__(self) -> int:
        return self._candidates

    def __iter__(self) -> Iterator[Table]:
        return map(self._table, range(self._candidates))

    @overload
    def __getitem__(self, wanted: int | tuple[NDArray[np.int64], NDArray[np.int64]]) -> Table: ...
    @overload
    def __getitem__(self, wanted: slice) -> list[Table]: ...
    def __getitem__(self, wanted: Any) -> Any:
        if isinstance(wanted, slice):
            return [self._table(column) for column in range(self._candidates)[wanted]]
        if not isinstance(wanted, tuple):
            return self._table(int(wanted))
        columns, rows = wanted
        found: Table | None = None
        for column in np.unique(columns):
            table, here = self._table(int(column)), columns == column
            if found is None:
                found = np.empty((len(rows), table.shape[1]), np.float32)
            found[here] = table[rows[here]]
        return found

    def _table(self, column: int) -> Table:
        if column not in self._held:
            table = self._read(column)
            while self._held and (len(self._held) + 1) * table.size > HELD:
                self._held.popitem(last=False)
            self._held[column] = table
        self._held.move_to_end(column)
        return self._held[column]
