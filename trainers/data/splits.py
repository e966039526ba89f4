"""Split photos into train, valid and test: 60/20/20 in each class, by seed and contents only."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from trainers.data.groups import joined
from trainers.data.sources import Split
from trainers.errors import DatasetError

_ANY = ""

Part = TypeVar("Part", bound=Hashable)
"""A split, or the number of a fold."""

_DRAWS = 20
"""Maximum number of draws of grouped splits: with few groups, a fold may lack a class."""


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


def assign_groups(
    labels: Sequence[str],
    hashes: Sequence[str],
    groups: Sequence[str],
    given: Sequence[Split | None],
    seed: int,
) -> list[Split]:
    """Do as `assign_splits`, and keep groups together; a group with a given split goes with it.

    Photos of no group ("") are alone; where none has one, that is `assign_splits`. Drawn by
    scikit-learn's StratifiedGroupKFold where no split is given at all. Raises DatasetError for a
    class with fewer than 3 groups to be split.
    """
    if not any(groups):
        return assign_splits(labels, hashes, given, seed)
    names = _units(hashes, groups)
    chosen: dict[str, Split] = {}
    for split in reversed(Split):
        chosen |= {unit: split for unit, other in zip(names, given, strict=True) if other is split}
    of_class: dict[str, set[str]] = defaultdict(set)
    for label, unit in zip(labels, names, strict=True):
        of_class[label].add(unit)
    _check_enough(labels, given, of_class, "groups of photos")
    if not chosen:
        chosen = _folded(labels, hashes, names, min(map(len, of_class.values())), seed)
    else:
        _fill_groups(labels, names, chosen, seed)
    return [split or chosen[unit] for unit, split in zip(names, given, strict=True)]


def assign_several(
    labels: Sequence[Sequence[str]],
    hashes: Sequence[str],
    groups: Sequence[str],
    given: Sequence[Split | None],
    seed: int,
) -> list[Split]:
    """Do as `assign_groups` for photos of any number of labels each; see `deal_by_label`.

    Raises DatasetError as `assign_groups` does.
    """
    units = _units(hashes, groups)
    chosen: dict[str, Split] = {}
    for split in reversed(Split):
        chosen |= {unit: split for unit, other in zip(units, given, strict=True) if other is split}
    of_label: dict[str, set[str]] = defaultdict(set)
    for names, unit in zip(labels, units, strict=True):
        for name in names:
            of_label[name].add(unit)
    flat = [(name, split) for names, split in zip(labels, given, strict=True) for name in names]
    what = "groups of photos" if any(groups) else "distinct photos"
    _check_enough([name for name, _ in flat], [split for _, split in flat], of_label, what)
    chosen = deal_by_label(labels, units, _shares, chosen, seed)
    return [split or chosen[unit] for unit, split in zip(units, given, strict=True)]


def deal_by_label(
    labels: Sequence[Sequence[str]],
    units: Sequence[str],
    shares: Callable[[int], Mapping[Part, float]],
    chosen: Mapping[str, Part],
    seed: int,
) -> dict[str, Part]:
    """Return the part of each unit of photos; `chosen` are those of some, `labels` the photos'.

    `shares` says how many of so many photos belong to each part. Iterative stratification
    (Sechidis, Tsoumakas and Vlahavas 2011): what has the rarest label is dealt first, to the part
    that lacks most of it.
    """
    photos: dict[str, Counter[str]] = defaultdict(Counter)  # _ANY: whatever labels they have
    for names, unit in zip(labels, units, strict=True):
        photos[unit].update([_ANY, *names])
    totals, found = sum(photos.values(), Counter[str]()), dict(chosen)
    room = {(n, part): left for n, of in totals.items() for part, left in shares(of).items()}
    parts = list(shares(len(labels)))
    for unit, part in found.items():
        for name, n in photos[unit].items():
            room[name, part] -= n
    rarest = {unit: min(own, key=lambda n: (totals[n], n)) for unit, own in photos.items()}
    free = sorted(
        photos.keys() - found.keys(),
        key=lambda unit: (totals[rarest[unit]], rarest[unit], _draw(seed, unit)),
    )
    for unit in free:
        own = photos[unit]
        found[unit] = max(
            parts,
            key=lambda part: (
                room[rarest[unit], part],
                sum(n * room[name, part] for name, n in own.items()),
            ),
        )
        for name, n in own.items():
            room[name, found[unit]] -= n
    return found


def _units(hashes: Sequence[str], groups: Sequence[str]) -> list[str]:
    """Return for each photo the key of the photos to keep together, independent of their order."""
    roots = joined(groups, hashes)
    names: dict[int, str] = {}
    for root, sha in zip(roots, hashes, strict=True):
        names[root] = min(sha, names.get(root, sha))
    return [names[root] for root in roots]


def _folded(
    labels: Sequence[str], hashes: Sequence[str], units: Sequence[str], fewest: int, seed: int
) -> dict[str, Split]:
    """Draw a fold each for test and validation, until both and train have photos of each class."""
    from sklearn.model_selection import StratifiedGroupKFold  # a second to import

    order = sorted(range(len(units)), key=lambda place: (hashes[place], labels[place]))
    own, of = [labels[place] for place in order], [units[place] for place in order]
    chosen: dict[str, Split] = {}
    for turn in range(_DRAWS):
        state = (seed + turn * 1_000_003) % 2**32
        folds = StratifiedGroupKFold(min(5, fewest), shuffle=True, random_state=state)
        chosen = dict.fromkeys(of, Split.TRAIN)
        for split, (_, inside) in zip(
            (Split.TEST, Split.VALID), folds.split(of, own, of), strict=False
        ):
            chosen |= {of[place]: split for place in inside}
        filled = {(label, chosen[unit]) for label, unit in zip(own, of, strict=True)}
        if len(filled) == len(set(own)) * len(Split):
            break
    return chosen


def _fill_groups(
    labels: Sequence[str], units: Sequence[str], chosen: dict[str, Split], seed: int
) -> None:
    """Choose splits for the groups that have none, nearest to the shares of all their classes."""
    room = {
        (label, split): left
        for label, n in Counter(labels).items()
        for split, left in _shares(n).items()
    }
    photos: dict[str, Counter[str]] = defaultdict(Counter)
    for label, unit in zip(labels, units, strict=True):
        photos[unit][label] += 1
        if unit in chosen:
            room[label, chosen[unit]] -= 1
    free = photos.keys() - chosen.keys()
    for unit in sorted(free, key=lambda unit: (-photos[unit].total(), _draw(seed, unit))):
        own = photos[unit]
        chosen[unit] = max(
            Split, key=lambda split: sum(n * room[label, split] for label, n in own.items())
        )
        for label, n in own.items():
            room[label, chosen[unit]] -= n


def _check_enough(
    labels: Sequence[str],
    given: Sequence[Split | None],
    distinct: dict[str, set[str]],
    what: str = "distinct photos",
) -> None:
    for label in sorted({label for label, split in zip(labels, given, strict=True) if not split}):
        if len(distinct[label]) < len(Split):
            raise DatasetError(
                f"class {label!r} must have at least {len(Split)} {what} to be split, "
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
