"""Photos that are there more than once: to the last pixel, or changed a little."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from trainers.data.inspect.findings import Likeness, Pair
from trainers.data.inspect.fingerprints import Fingerprint, mirrored
from trainers.data.inspect.neighbours import alike
from trainers.data.manifest import Photo

LEAST_COSINE = 0.75
"""From this cosine of features on, photos with hashes alike are one shot: 97 % of the copies of 300
photos of flowers have it, cropped, mirrored and recompressed ones too, and 0.1 % of the others."""

NEARER = 0.6
"""Where all photos of a set look alike, as X-rays do, copies must be nearer by so much of the way
from the usual cosine to 1."""

SAMPLE = 100
"""Photos that tell the usual cosine."""

MOST = 16
"""Of one photo, so many earlier copies are told: a film of one scene has millions of pairs."""

Features = Callable[[Sequence[int]], NDArray[np.float32]]
"""Gives features of photos by index: (n, F), rows of length 1."""

_Found = tuple[int, int, bool]
"""Indices of two photos, the first the smaller, and whether one is turned over."""


def find_duplicates(
    photos: Sequence[Photo], prints: Sequence[Fingerprint], features: Features
) -> tuple[tuple[Pair, ...], tuple[tuple[Photo, ...], ...], int]:
    """Give the pairs of duplicates, the groups they form, and how many photos were not compared.

    EXACT copies are paired with the first of them. NEAR ones have perceptual hashes alike in some
    window, mirrored or not, which the cosine of features confirms; `features` are asked for only
    for these, and a few others. Photos without a perceptual hash are compared by all their pixels.
    """
    first = _firsts(prints)
    exact = [
        Pair(photos[origin], photos[index], Likeness.EXACT, 1.0)
        for index, origin in enumerate(first)
        if index != origin
    ]
    distinct = [
        index
        for index, origin in enumerate(first)
        if index == origin and prints[index].hashes is not None
    ]
    candidates = _candidates(distinct, prints)
    near = [
        Pair(photos[one], photos[other], Likeness.NEAR, cosine, turned)
        for (one, other, turned), cosine in _confirmed(candidates, len(photos), features)
    ]
    pairs = tuple(sorted((*exact, *near), key=lambda pair: (pair.first.path, pair.second.path)))
    uncompared = sum(each.hashes is None for each in prints)
    return pairs, _groups(photos, pairs), uncompared


def _firsts(prints: Sequence[Fingerprint]) -> list[int]:
    """Give, for each photo, the first one with the same pixels."""
    seen: dict[str, int] = {}
    return [seen.setdefault(each.sha256, index) for index, each in enumerate(prints)]


def _candidates(distinct: Sequence[int], prints: Sequence[Fingerprint]) -> list[_Found]:
    """Give the pairs whose hashes are alike; those of each photo with the first `MOST` of them."""
    if len(distinct) < 2:
        return []
    table = np.stack([hashes for i in distinct if (hashes := prints[i].hashes) is not None])
    turned: dict[tuple[int, int], bool] = {}
    for flip, windows in ((False, table), (True, mirrored(table))):
        for left, right in alike(table[:, 0], list(windows.T)):
            apart = left != right
            small, large = np.minimum(left, right)[apart], np.maximum(left, right)[apart]
            for pair in zip(small.tolist(), large.tolist(), strict=True):
                turned.setdefault(pair, flip)
    earlier: dict[int, int] = defaultdict(int)
    found = []
    for (small, large), flip in sorted(turned.items()):
        earlier[large] += 1
        if earlier[large] <= MOST:
            found.append((distinct[small], distinct[large], flip))
    return found


def _confirmed(
    candidates: Sequence[_Found], n_photos: int, features: Features
) -> Iterable[tuple[_Found, float]]:
    if not candidates:
        return
    asked = sorted({index for one, other, _ in candidates for index in (one, other)})
    others = np.random.default_rng(0).permutation(n_photos)[:SAMPLE].tolist()
    rows = dict(zip([*asked, *others], features([*asked, *others]), strict=True))
    least = _least_cosine(np.stack([rows[index] for index in others]))
    for one, other, turned in candidates:
        cosine = min(float(rows[one] @ rows[other]), 1.0)
        if cosine >= least:
            yield (one, other, turned), cosine


def _least_cosine(sample: NDArray[np.float32]) -> float:
    cosines = (sample @ sample.T)[np.triu_indices(len(sample), 1)]
    usual = float(np.median(cosines)) if len(cosines) else 0.0
    return max(LEAST_COSINE, usual + NEARER * (1 - usual))


def _groups(photos: Sequence[Photo], pairs: Sequence[Pair]) -> tuple[tuple[Photo, ...], ...]:
    """Give the connected components, the largest first."""
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
