"""Deal photos out to train, valid and test: 60/20/20 in each class, by seed and contents alone."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from trainers.data.sources import Split
from trainers.errors import DatasetError


def assign_splits(
    labels: Sequence[str], hashes: Sequence[str], given: Sequence[Split | None], seed: int
) -> list[Split]:
    """Keep the given splits and fill each class up to 60/20/20, counted in distinct photos.

    Photos of one hash stay together. Raises DatasetError for a class with fewer than 3 distinct
    photos to assign.
    """
    chosen: dict[str, Split] = {}
    for split in reversed(Split):  # a photo given to several splits: its copies go to the first
        chosen |= {sha: split for sha, other in zip(hashes, given, strict=True) if other is split}
    distinct: dict[str, set[str]] = defaultdict(set)
    for label, sha in zip(labels, hashes, strict=True):
        distinct[label].add(sha)
    _check_enough(labels, given, distinct)
    # The smallest class first: it has the least room where classes share photos.
    for label in sorted(distinct, key=lambda label: (len(distinct[label]), label)):
        _fill(distinct[label], chosen, seed)
    return [split or chosen[sha] for sha, split in zip(hashes, given, strict=True)]


def _check_enough(
    labels: Sequence[str], given: Sequence[Split | None], distinct: dict[str, set[str]]
) -> None:
    for label in sorted({label for label, split in zip(labels, given, strict=True) if not split}):
        if len(distinct[label]) < len(Split):
            raise DatasetError(
                f"class {label!r} must have at least {len(Split)} distinct photos to be split, "
                f"got {len(distinct[label])}; add photos or assign the splits yourself"
            )


def _fill(hashes: set[str], chosen: dict[str, Split], seed: int) -> None:
    """Choose splits for the hashes of one class that have none, nearest to the shares."""
    room = _shares(len(hashes))
    for sha in hashes & chosen.keys():
        room[chosen[sha]] -= 1
    for sha in sorted(hashes - chosen.keys(), key=lambda sha: _draw(seed, sha)):
        split = max(Split, key=room.__getitem__)
        chosen[sha] = split
        room[split] -= 1


def _shares(n: int) -> dict[Split, int]:
    fifth = max(1, round(n / 5))
    return {Split.TRAIN: n - 2 * fifth, Split.VALID: fifth, Split.TEST: fifth}


def _draw(seed: int, sha: str) -> bytes:
    return hashlib.sha256(f"{seed} {sha}".encode()).digest()
