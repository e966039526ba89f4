"""The cleaned CSV: a list of photos without the removed ones, for `search --data`."""

import csv
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from trainers.data.csv_list import find_in_csv
from trainers.data.groups import joined
from trainers.data.inspect.findings import Flaw, Inspection
from trainers.data.manifest import Manifest, Photo, without
from trainers.data.sources import Split
from trainers.errors import DatasetError
from trainers.files import replacing


class Remove(StrEnum):
    """What may be removed."""

    DUPLICATES = "duplicates"
    CONFLICTS = "conflicts"
    LABEL_ERRORS = "label-errors"
    BLANK = "blank"
    BLURRED = "blurred"
    TINY = "tiny"
    ODD_ASPECT = "odd-aspect"
    GREY = "grey"
    NOTHING = "nothing"


_REMOVING = {
    Flaw.BLANK: Remove.BLANK,
    Flaw.BLURRED: Remove.BLURRED,
    Flaw.TINY: Remove.TINY,
    Flaw.ODD_ASPECT: Remove.ODD_ASPECT,
    Flaw.GREY: Remove.GREY,
}

_JUDGES = (Split.TEST, Split.VALID, Split.TRAIN)
"""Of copies, the test or validation photo stays, so that scores remain comparable."""


@dataclass(frozen=True)
class Removed:
    """A removed photo, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Amended:
    """A cleaned CSV: its number of photos, the removed ones, and the command to search on it."""

    file: str
    photos: int
    removed: tuple[Removed, ...]
    command: str


def amend(
    manifest: Manifest, found: Inspection, kinds: Collection[Remove]
) -> tuple[Manifest, tuple[Removed, ...]]:
    """Remove photos, and put the rest of each group, and of duplicates, into one split.

    Raises DatasetError if too little is left.
    """
    gone = dict(reversed([*_reasons(found, kinds)]))  # the first reason is reported
    rest = without(manifest, gone.keys())
    copies = {photo.path: group[0].path for group in found.groups for photo in group}
    linked = joined(
        [copies.get(photo.path, "") for photo in rest.photos],
        [photo.group for photo in rest.photos],
    )
    place: dict[int, Split] = {}
    for first, photo in zip(linked, rest.photos, strict=True):
        place[first] = min(photo.split, place.get(first, photo.split), key=_order)
    photos = tuple(
        replace(photo, split=place[first]) for first, photo in zip(linked, rest.photos, strict=True)
    )
    together = without(replace(rest, photos=photos), set())
    return together, tuple(Removed(path, gone[path]) for path in sorted(gone))


def write_list(manifest: Manifest, file: Path) -> None:
    """Write photos as path,label,split[,group], whole or not at all, and read them back.

    Raises DatasetError for a name that a CSV cannot hold.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(file, ".csv") as temporary:
            with temporary.open("w", encoding="utf-8", newline="") as stream:
                rows = csv.writer(stream)
                columns = 4 if manifest.grouped else 3
                rows.writerow(("path", manifest.kind.column, "split", "group")[:columns])
                rows.writerows(
                    (p.path, manifest.label_text(p), p.split.value, p.group)[:columns]
                    for p in manifest.photos
                )
            _check_round_trip(manifest, temporary)
    except UnicodeEncodeError as error:
        raise DatasetError(
            f"a name among the photos is not UTF-8 ({error.object[:80]!r}), and a CSV cannot list "
            "it; rename that file"
        ) from None


def _reasons(found: Inspection, kinds: Collection[Remove]) -> Iterator[tuple[str, str]]:
    """Yield the path of each photo to remove, with the reason; maybe more than once."""
    if Remove.CONFLICTS in kinds:
        yield from _conflicts(found)
    if Remove.DUPLICATES in kinds:
        yield from _copies(found)
    for flaw in found.flaws:
        if _REMOVING[flaw.flaw] in kinds:
            yield flaw.photo.path, f"{flaw.flaw}: {flaw.detail}"
    if Remove.LABEL_ERRORS in kinds:
        for doubt in found.doubts or ():
            yield doubt.photo.path, f"looks more like {found.classes[doubt.suggested]}"


def _conflicts(found: Inspection) -> Iterator[tuple[str, str]]:
    """Yield all photos with a duplicate of another label: which one is right is not known."""
    for pair in found.conflicts:
        for photo, other in ((pair.first, pair.second), (pair.second, pair.first)):
            yield photo.path, f"has another label than its duplicate {other.path}"


def _copies(found: Inspection) -> Iterator[tuple[str, str]]:
    """Yield all but one photo of each group, those with conflicting labels apart."""
    clashing = {photo.path for pair in found.conflicts for photo in (pair.first, pair.second)}
    for group in found.groups:
        copies = [photo for photo in group if photo.path not in clashing]
        stays = min(copies, key=_worth, default=None)
        for photo in copies:
            if stays is not None and photo is not stays:
                yield photo.path, f"duplicate of {stays.path}"


def _worth(photo: Photo) -> tuple[int, int, str]:
    return _JUDGES.index(photo.split), -photo.size, photo.path


def _order(split: Split) -> int:
    return list(Split).index(split)


def _check_round_trip(manifest: Manifest, file: Path) -> None:
    """Check that the CSV reads back as written: names of files and classes may hold anything."""
    wanted = {(p.path, manifest.label_text(p), p.split, p.group) for p in manifest.photos}
    read = {(p.path, p.label, p.split, p.group) for p in find_in_csv(file, manifest.root).photos}
    if wanted != read:
        path = min(path for path, *_ in wanted - read)
        raise DatasetError(f"a CSV cannot list {path!r} under its class; rename that file or class")
