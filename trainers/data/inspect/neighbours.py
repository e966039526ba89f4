"""Which hashes are alike: multi-index hashing (Norouzi et al. 2012), so that not all meet all."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

RADIUS = 7
"""So many of 64 bits may differ; then at most one does in some quarter of them."""

_QUARTERS = 4
_BITS = 64 // _QUARTERS
_FLIPS = np.array([0, *(1 << bit for bit in range(_BITS))], np.uint16)
_BLOCK = 256  # photos that look for theirs at once

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


class Index:
    """Finds, among n hashes, uint64 (n,), those within `RADIUS` bits of others.

    Each quarter of a hash is a key to a table; who is alike has a quarter with at most one bit
    changed, so each hash is looked up under 4 x 17 keys.
    """

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        self._hashes = hashes
        keys = _quarters(hashes)
        self._orders = [np.argsort(column, kind="stable") for column in keys.T]
        self._starts = [
            np.searchsorted(column[order], np.arange(2**_BITS + 1))
            for column, order in zip(keys.T, self._orders, strict=True)
        ]

    def alike(self, queries: NDArray[np.uint64]) -> Pairs:
        """Give (query, hash) for all that are alike, by their indices, each pair once."""
        found = [
            self._check(queries, *self._under(quarter, keys))
            for quarter, keys in enumerate(_quarters(queries).T)
        ]
        pairs = np.unique(np.concatenate(found), axis=0)
        return pairs[:, 0], pairs[:, 1]

    def _under(self, quarter: int, keys: NDArray[np.uint16]) -> Pairs:
        """Give (query, hash) for all hashes under a query's key or one with a bit changed."""
        order, starts = self._orders[quarter], self._starts[quarter]
        wanted = (keys[:, None] ^ _FLIPS).ravel().astype(np.int64)
        counts = starts[wanted + 1] - starts[wanted]
        which = np.repeat(np.arange(len(wanted)), counts)
        within = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        return which // len(_FLIPS), order[starts[wanted][which] + within]

    def _check(
        self, queries: NDArray[np.uint64], left: NDArray[np.int64], right: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        near = np.bitwise_count(queries[left] ^ self._hashes[right]) <= RADIUS
        return np.column_stack([left[near], right[near]])


def alike(hashes: NDArray[np.uint64], queries: Sequence[NDArray[np.uint64]]) -> Iterator[Pairs]:
    """Give, block by block, pairs (i, j) of which a query of photo i is like the hash of photo j.

    `hashes` are (n,), each of `queries` (n,) as well: the photos seen through different windows.
    """
    index = Index(hashes)
    table = np.stack(queries, axis=1)
    for start in range(0, len(hashes), _BLOCK):
        block = table[start : start + _BLOCK]
        left, right = index.alike(block.ravel())
        yield start + left // table.shape[1], right


def _quarters(hashes: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """Cut hashes (n,) into four, (n, 4)."""
    return np.ascontiguousarray(hashes).view(np.uint16).reshape(-1, _QUARTERS)
