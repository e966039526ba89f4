"""Guess whether photos form unnamed groups, by their names or times."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainers.data.groups import BY_TIME, GroupBy, by_time, find_groups, times_of
from trainers.data.manifest import Photo
from trainers.errors import DatasetError

NAMES = (
    r"([^/]*[0-9][^/]*)[-_ ][^-_ /]*$",  # p12_left_3.jpg: p12_left
    r"([^/]*?[0-9][^-_ /]*)[-_ ][^/]*$",  # p12_left_3.jpg: p12
    r"([^/]*[0-9][^/]*)/[^/]+$",  # patient 7/front.jpg: patient 7
)
"""Possible names of groups: a part of the path with a number, before the photo's own number."""

BURST = 60
"""Photos taken within this many seconds probably show the same object."""

LEAST_SHARE = 0.3
"""The minimum share of photos in groups for a guess to be reported."""

MOST_OF_ALL = 0.2
"""A group with a larger share of the photos is rather a class, a camera or a day."""


@dataclass(frozen=True)
class GroupGuess:
    """What `--group-by` would find: the number of `groups`, and of `photos` in them.

    `example` is the largest; `parted` are in several splits.
    """

    group_by: str
    groups: int
    photos: int
    parted: int
    example: str


def guess_groups(root: Path, photos: Sequence[Photo]) -> GroupGuess | None:
    """Return the most probable groups, the finest by name first, then bursts; None if none."""
    for group_by, groups in _candidates(root, [photo.path for photo in photos]):
        sizes = Counter(group for group in groups if group)
        shared = {group: size for group, size in sizes.items() if size > 1}
        together = sum(shared.values())
        if together < LEAST_SHARE * len(photos):
            continue
        if max(shared.values()) > MOST_OF_ALL * len(photos):
            continue
        places = {(g, photo.split) for g, photo in zip(groups, photos, strict=True) if g in shared}
        times = Counter(group for group, _ in places)
        return GroupGuess(
            group_by=group_by,
            groups=len(shared),
            photos=together,
            parted=sum(count > 1 for count in times.values()),
            example=max(shared, key=lambda group: (shared[group], group)),
        )
    return None


def _candidates(root: Path, paths: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield values of `--group-by`, and each photo's group by it."""
    for pattern in NAMES:
        try:
            yield pattern, find_groups(GroupBy(re.compile(pattern)), root, paths)
        except DatasetError:  # no two photos share one, or a name is invalid
            continue
    times = times_of([root / path for path in paths])
    yield f"{BY_TIME}:{BURST}s", by_time(times, BURST)
