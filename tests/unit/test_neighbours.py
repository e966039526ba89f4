"""Hashes that are alike are found by an index, as if all had been compared with all."""

import numpy as np
import pytest
from numpy.typing import NDArray

from trainers.data.inspect.neighbours import CLOSEST, RADIUS, Index, alike, differing_bits


def _pairs(windows: NDArray[np.uint64], queries: NDArray[np.uint64]) -> list[tuple[int, int]]:
    blocks = list(alike(windows, queries))
    return sorted(
        (int(i), int(j)) for one, other in blocks for i, j in zip(one, other, strict=True)
    )


def _clusters(draw: np.random.Generator, n: int, size: int, flips: int) -> NDArray[np.uint64]:
    """Return hashes around common centres, each with up to `flips` bits changed."""
    hashes = np.repeat(draw.integers(0, 2**64, n // size, np.uint64), size)
    for _ in range(flips):
        hashes = hashes ^ (np.uint64(1) << draw.integers(0, 64, n, np.uint64))
    return hashes


@pytest.mark.parametrize("seed", range(3))
def test_the_index_finds_what_comparing_all_finds(seed: int) -> None:
    """Of 1,500 photos with 2 windows, it finds all pairs within the radius, and no other."""
    draw = np.random.default_rng(seed)
    hashes = _clusters(draw, 1500, 5, 6)
    windows = np.stack([hashes, _clusters(draw, 1500, 5, 6)], axis=1)
    bits = np.stack(
        [differing_bits(hashes[:, None], column[None]).reshape(1500, 1500) for column in windows.T]
    )
    near = bits.min(axis=0) <= RADIUS
    np.fill_diagonal(near, val=False)
    expected = [(int(i), int(j)) for i, j in zip(*np.nonzero(near), strict=True)]
    assert 500 < len(expected) < 7500
    assert _pairs(windows, hashes) == expected


def test_bits_are_counted() -> None:
    """Hashes differ in as many bits as numbers do."""
    one = np.array([0, 1, 2**64 - 1, 12345], np.uint64)
    other = np.array([0, 2, 0, 12345 ^ (1 << 63)], np.uint64)
    assert differing_bits(one, other).tolist() == [0, 2, 64, 1]


def test_a_crowd_does_not_make_all_pairs() -> None:
    """Of 5,000 photos with one hash, each is paired with a few, and with the first by all."""
    pairs = _pairs(np.zeros((5000, 3), np.uint64), np.zeros(5000, np.uint64))
    assert len(pairs) == 5000 * CLOSEST
    assert sum(j == 0 for _, j in pairs) == 4999


def test_the_closest_are_given_first() -> None:
    """In a crowd, a photo is paired with those whose hashes differ least from its own."""
    draw = np.random.default_rng(0)
    hashes = np.zeros(101, np.uint64)
    hashes[1:51] = 0b1111
    hashes[51:] = draw.permutation(50) < CLOSEST
    found = [j for i, j in _pairs(hashes[:, None], hashes) if i == 0]
    assert len(found) == CLOSEST
    assert all(differing_bits(hashes[:1], hashes[j : j + 1])[0] <= 1 for j in found)


def test_few_of_all_are_compared() -> None:
    """For 20,000 random hashes, fewer than one in a hundred of all pairs is looked at."""
    hashes = np.random.default_rng(0).integers(0, 2**64, 20_000, np.uint64)
    assert Index(hashes).cost(hashes) < 20_000**2 / 100


def test_one_photo_has_no_neighbour() -> None:
    """A photo is not paired with itself, nor with its other windows."""
    assert _pairs(np.zeros((1, 11), np.uint64), np.zeros(1, np.uint64)) == []
