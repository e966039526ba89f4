"""Photos that belong together, as those of one patient or one minute of video."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from trainers.allowance import usable_cpus
from trainers.data.sources import check_group_name
from trainers.errors import DatasetError

BY_TIME = "exif-time"
_UNITS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class GroupBy:
    """How groups are found: by the capture of `pattern` in a path, or else by time, in seconds."""

    pattern: re.Pattern[str] | None = None
    seconds: float = 0.0


def parse_group_by(text: str) -> GroupBy:
    """Read a regular expression with one capture group, or exif-time:60s; ValueError otherwise."""
    if text.startswith(f"{BY_TIME}:"):
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.partition(":")[2].strip().lower())
        if found is None or not float(found[1]):
            raise ValueError(f"must be a span of time as {BY_TIME}:60s")
        return GroupBy(seconds=float(found[1]) * _UNITS[found[2]])
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ValueError(f"must be a regular expression ({error})") from None
    if pattern.groups != 1:
        raise ValueError(
            f"must have one capture group, as '/(patient[0-9]+)_' has, not {pattern.groups}"
        )
    return GroupBy(pattern)


def find_groups(by: GroupBy, root: Path, paths: Sequence[str]) -> list[str]:
    """Return each photo's group, "" for one that is alone; `paths` are POSIX, below `root`.

    Photos form a group if their paths give the same name, or if they were taken in a row without a
    longer pause. DatasetError where no two photos are together.
    """
    if by.pattern is None:
        groups = by_time(times_of([root / path for path in paths]), by.seconds)
    else:
        found = (by.pattern.search(path) for path in paths)
        groups = [(match[1] or "").strip() if match else "" for match in found]
    named = [group for group in groups if group]
    for group in set(named):
        check_group_name(group, "--group-by")
    if len(set(named)) == len(named):
        what = "times of exposure" if by.pattern is None else "paths"
        raise DatasetError(
            f"--group-by finds no two photos of one group by their {what} ({len(named):,} of "
            f"{len(paths):,} photos have one); correct it or omit it"
        )
    return groups


def times_of(paths: Sequence[Path]) -> list[datetime | None]:
    """Return when photos were taken, from their EXIF data; None if unknown."""
    from trainers.data.photo import taken_at  # imports Pillow, which settings do not need

    with ThreadPoolExecutor(usable_cpus()) as pool:
        return list(pool.map(taken_at, paths))


def by_time(times: Sequence[datetime | None], seconds: float) -> list[str]:
    """Name each photo's group after its first time; a pause of more than `seconds` ends a group."""
    known = sorted({time for time in times if time is not None})
    start: dict[datetime, datetime] = {known[0]: known[0]} if known else {}
    for before, time in pairwise(known):
        near = (time - before).total_seconds() <= seconds
        start[time] = start[before] if near else time
    return ["" if time is None else f"{start[time]:%Y-%m-%d %H:%M:%S}" for time in times]


def joined(*keys: Sequence[str]) -> list[int]:
    """Return for each photo the first one that it is connected to, directly or through others.

    Photos that share a key are linked; an empty key links nothing.
    """
    parent = list(range(len(keys[0])))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for of_kind in keys:
        first: dict[str, int] = {}
        for place, key in enumerate(of_kind):
            if key:
                one, other = sorted((root(first.setdefault(key, place)), root(place)))
                parent[other] = one
    return [root(place) for place in range(len(parent))]
