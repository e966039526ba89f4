"""Similar hashes by multi-index hashing (Norouzi et al. 2012), without comparing all pairs."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

RADIUS = 9
"""The maximum number of differing bits of 64.

Then, of the quarters of a hash, one of the first two differs in at most 2 bits, or one of the last
two in at most 1.
"""

CROWD = 256
"""The maximum number of hashes compared per key.

Thousands of photos of one scene may share it, and each resembles the first of them.
"""

CLOSEST = 16
"""The maximum number of similar photos returned for each, the nearest ones."""

_QUARTERS = 4
_BITS = 64 // _QUARTERS
_BLOCK = 1024  # photos that look for theirs at once
_AT_ONCE = 2**21  # hashes that are compared at once
_ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)

Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]


class Index:
    """Finds, among n hashes, uint64 (n,), those within `RADIUS` bits of others.

    Each quarter of a hash is a key to a table. A hash is looked up under its own keys and those
    with a bit or two changed, 308 in all.
    """

    def __init__(self, hashes: Hashes) -> None:
        self._hashes = hashes
        keys = _quarters(hashes)
        self._orders = [np.argsort(column, kind="stable") for column in keys.T]
        self._starts = [
            np.searchsorted(column[order], np.arange(2**_BITS + 1))
            for column, order in zip(keys.T, self._orders, strict=True)
        ]

    def alike(self, queries: Hashes) -> tuple[Indices, Indices, Indices]:
        """Return (query, hash, differing bits) of all similar pairs; some more than once."""
        found = []
        for quarter in range(_QUARTERS):
            query, hashed = self._under(quarter, *self._keys(quarter, queries))
            bits = differing_bits(queries[query], self._hashes[hashed])
            near = bits <= RADIUS
            found.append(np.stack([query[near], hashed[near], bits[near]]))
        query, hashed, bits = np.concatenate(found, axis=1)
        return query, hashed, bits

    def cost(self, queries: Hashes) -> int:
        """Return how many hashes would be compared."""
        return sum(int(self._keys(quarter, queries)[1].sum()) for quarter in range(_QUARTERS))

    def _keys(self, quarter: int, queries: Hashes) -> tuple[Indices, Indices]:
        """Return the keys of all queries, one after the other, and how many hashes each has."""
        keys = (_quarters(queries)[:, quarter, None] ^ _FLIPS[quarter]).ravel().astype(np.int64)
        starts = self._starts[quarter]
        return keys, np.minimum(starts[keys + 1] - starts[keys], CROWD)

    def _under(self, quarter: int, keys: Indices, counts: Indices) -> tuple[Indices, Indices]:
        """Return (query, hash) for all hashes under the keys."""
        which = np.repeat(np.arange(len(keys)), counts)
        within = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        places = self._starts[quarter][keys[which]] + within
        return which // len(_FLIPS[quarter]), self._orders[quarter][places]


def alike(windows: Hashes, queries: Hashes) -> Iterator[tuple[Indices, Indices]]:
    """Yield, block by block, pairs (i, j) where the query of i resembles a window of j.

    `windows` are (n, w), of n photos, and `queries` (n,). No photo is paired with itself.
    """
    index = Index(windows.ravel())
    starts = range(0, len(queries), _BLOCK)
    blocks = [(start, min(start + _BLOCK, len(queries))) for start in reversed(starts)]
    while blocks:
        start, stop = blocks.pop()
        if stop - start > 1 and index.cost(queries[start:stop]) > _AT_ONCE:
            middle = (start + stop) // 2
            blocks += [(middle, stop), (start, middle)]
        else:
            query, hashed, bits = index.alike(queries[start:stop])
            yield _closest(start + query, hashed // windows.shape[1], bits)


def differing_bits(one: Hashes, other: Hashes) -> Indices:
    """Count the bits in which hashes differ, one by one."""
    ones = _ONES[(one ^ other).view(np.uint8)].reshape(-1, 8)
    return np.asarray(ones.sum(axis=1, dtype=np.int64))


def _closest(one: Indices, other: Indices, bits: Indices) -> tuple[Indices, Indices]:
    """Return each pair once, and of each photo those with the `CLOSEST`."""
    apart = one != other
    order = np.lexsort((bits[apart], other[apart], one[apart]))
    one, other, bits = one[apart][order], other[apart][order], bits[apart][order]
    first = np.append(True, (np.diff(one) != 0) | (np.diff(other) != 0))[: len(one)]
    one, other, bits = one[first], other[first], bits[first]
    order = np.lexsort((bits, one))
    one, other = one[order], other[order]
    rank = np.arange(len(one)) - np.searchsorted(one, one)
    return one[rank < CLOSEST], other[rank < CLOSEST]


def _quarters(hashes: Hashes) -> NDArray[np.uint16]:
    """Cut hashes (n,) into four, (n, 4)."""
    return np.ascontiguousarray(hashes).view(np.uint16).reshape(-1, _QUARTERS)


def _flips(most: int) -> NDArray[np.uint16]:
    """Return the masks that change none to `most` bits of a key."""
    changed = [bits for count in range(most + 1) for bits in combinations(range(_BITS), count)]
    return np.array([sum(1 << bit for bit in bits) for bits in changed], np.uint16)


# Otherwise at least 3 + 3 + 2 + 2 bits would differ, which is more than RADIUS.
_FLIPS = [_flips(2), _flips(2), _flips(1), _flips(1)]
