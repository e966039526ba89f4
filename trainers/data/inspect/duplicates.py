"""Duplicate photos: exact, or slightly changed."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainers.data.inspect.findings import Likeness, Pair
from trainers.data.inspect.fingerprints import Fingerprint
from trainers.data.inspect.neighbours import alike
from trainers.data.inspect.overlay import agreement
from trainers.data.manifest import Photo

LEAST_AGREEMENT = 0.9
"""From this correlation of detail on, photos with similar hashes are duplicates.

Of 720 photos of flowers, all copies reached it, and other pairs 0.6 at most
(`benchmarks/duplicates.py`).
"""

LEAST_COSINE = 0.4
"""The minimum cosine of the features: grey copies had 0.42 (all but 1 %), the others 0.6."""

MOST = 16
"""Maximum number of earlier copies listed per photo: a film of one scene has millions of pairs."""

Features = Callable[[Sequence[int]], NDArray[np.float32]]
"""Returns features of photos by index: (n, F), rows of length 1."""


class _Found(NamedTuple):
    """Two photos by their index, the smaller first; `turned` if one is mirrored."""

    one: int
    other: int
    agreement: float
    turned: bool


def find_duplicates(
    photos: Sequence[Photo], prints: Sequence[Fingerprint], features: Features
) -> tuple[tuple[Pair, ...], tuple[tuple[Photo, ...], ...], int]:
    """Return the pairs of duplicates, the groups they form, and how many photos were not compared.

    EXACT copies are paired with the first of them. NEAR ones have similar perceptual hashes in some
    window, mirrored or not, and agree in their detail and their features, which are computed only
    for these. Photos without a `look` are only compared exactly.
    """
    first = _firsts(prints)
    exact = [
        Pair(photos[origin], photos[index], Likeness.EXACT, 1.0, 1.0)
        for index, origin in enumerate(first)
        if index != origin
    ]
    distinct = [
        index
        for index, origin in enumerate(first)
        if index == origin and prints[index].look is not None
    ]
    near = [
        Pair(
            photos[each.one], photos[each.other], Likeness.NEAR, each.agreement, cosine, each.turned
        )
        for each, cosine in _confirmed(_agreeing(distinct, prints), features)
    ]
    pairs = tuple(sorted((*exact, *near), key=lambda pair: (pair.first.path, pair.second.path)))
    uncompared = sum(each.look is None for each in prints)
    return pairs, _groups(photos, pairs), uncompared


def _firsts(prints: Sequence[Fingerprint]) -> list[int]:
    """Return, for each photo, the first one with the same pixels."""
    seen: dict[str, int] = {}
    return [seen.setdefault(each.sha256, index) for index, each in enumerate(prints)]


def _agreeing(distinct: Sequence[int], prints: Sequence[Fingerprint]) -> list[_Found]:
    """Return the duplicates by hash and detail; for each photo, at most `MOST` earlier ones."""
    looks = [look for index in distinct if (look := prints[index].look) is not None]
    if not looks:
        return []
    windows = np.stack([look.hashes for look in looks])
    turned_over = np.array([look.mirrored for look in looks], np.uint64)
    greys = np.stack([look.grey for look in looks])
    best: dict[tuple[int, int], tuple[float, bool]] = {}
    for turned, queries in ((False, windows[:, 0]), (True, turned_over)):
        for one, other in alike(windows, queries):
            step = -1 if turned else 1
            found = agreement(greys[one][:, :, ::step], greys[other])
            for i, j, value in zip(one.tolist(), other.tolist(), found.tolist(), strict=True):
                if value >= LEAST_AGREEMENT:
                    pair = min(i, j), max(i, j)
                    best[pair] = max(best.get(pair, (0.0, False)), (value, turned))
    earlier: dict[int, int] = defaultdict(int)
    kept = []
    for (small, large), (value, turned) in sorted(best.items()):
        earlier[large] += 1
        if earlier[large] <= MOST:
            kept.append(_Found(distinct[small], distinct[large], value, turned))
    return kept


def _confirmed(found: Sequence[_Found], features: Features) -> Iterable[tuple[_Found, float]]:
    """Yield those with similar features as well, with the cosine."""
    if not found:
        return
    asked = sorted({index for each in found for index in (each.one, each.other)})
    rows = dict(zip(asked, features(asked), strict=True))
    for each in found:
        cosine = min(float(rows[each.one] @ rows[each.other]), 1.0)
        if cosine >= LEAST_COSINE:
            yield each, cosine


def _groups(photos: Sequence[Photo], pairs: Sequence[Pair]) -> tuple[tuple[Photo, ...], ...]:
    """Return the connected components, the largest first."""
    from scipy.cluster.hierarchy import DisjointSet

    places = {photo.path: index for index, photo in enumerate(photos)}
    linked = DisjointSet()
    for pair in pairs:
        ends = places[pair.first.path], places[pair.second.path]
        for end in ends:
            linked.add(end)
        linked.merge(*ends)
    groups = [tuple(photos[index] for index in sorted(group)) for group in linked.subsets()]
    return tuple(sorted(groups, key=lambda group: (-len(group), group[0].path)))
