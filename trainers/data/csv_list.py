"""Find photos in a CSV: path,label[,split][,group] under a header, or AutoML's columns.

Of several labels each: `labels` in the place of `label`, as "a;b", or a column of 0 and 1 for each.
Of grades: `grade`.
"""

import csv
import io
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from trainers.data.addresses import Copies, Steps, is_address, steps_of
from trainers.data.inside import Inside
from trainers.data.photo import is_photo_name
from trainers.data.sources import (
    SPLIT_NAMES,
    Findings,
    Found,
    Split,
    check_class_name,
    check_group_name,
)
from trainers.errors import DatasetError
from trainers.labels import KINDS, ONE_CLASS, SEPARATOR, SEVERAL, LabelKind

_OTHERS = {"path", "split", "group"}
_KINDS = {kind.column: kind for kind in KINDS.values()}
_SPLITS: dict[str, Split | None] = {
    **SPLIT_NAMES,
    "training": Split.TRAIN,  # as Vertex AI, AutoML's successor, has it
    "unassigned": None,
    "": None,
}
_TOLD_EVERY = 1000
"""Rows between two reports of progress, each of which takes longer than a row."""

_Row = tuple[int, str, str, Split | None, str]
"""A row: its number, the header being row 1; path or address, label, split, group."""

_Cells = tuple[str, str, str, str]
"""The cells of a row as they are written: path, label, split, group."""


def find_in_csv(
    source: Path,
    data_root: Path | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Findings:
    """Find the photos that a CSV lists; paths are relative to `data_root` or the CSV's folder.

    Of photos that are listed by address, copies must lie there. `progress` gets (rows, rows in
    all) now and then. Raises DatasetError.
    """
    rows, kind, listed = _read(source)
    addresses, folder = _addresses(rows, source), os.path.realpath(data_root or source.parent)
    alone = all(path in addresses for _, path, *_ in rows)
    copies = Copies(addresses, Path(folder), alone=alone)
    inside = Inside(str(copies.root))
    photos: dict[str, Found] = {}
    classes, known = set(listed), set[str]()
    groups: set[str] = set()
    name = repr(source.name)
    for done, (number, path, label, split, group) in enumerate(rows, 1):
        where = f"row {number} of {name}"
        if label not in known:
            known.add(label)
            for each in kind.named(label):
                check_class_name(each, where)
                classes.add(each)
        if group not in groups:
            check_group_name(group, where)
            groups.add(group)
        found = Found(inside.locate(copies.path_of(path), path, where), label, split, group)
        if photos.setdefault(found.path, found) != found:
            raise DatasetError(
                f"{where} lists {path!r} again with another label, split or group; "
                "keep one of the rows"
            )
        if done % _TOLD_EVERY == 0 or done == len(rows):
            progress(done, len(rows))
    found_photos = tuple(photos.values())
    return Findings(copies.root, kind.ordered(classes), found_photos, kind=kind)


def listed_paths(source: Path) -> set[str]:
    """Return the paths of a CSV as they are written, whether or not the files exist."""
    return {path for _, path, *_ in _read(source)[0]}


def listed_addresses(source: Path) -> dict[str, Steps]:
    """Return the addresses that a CSV lists, in parts; DatasetError if it lists paths as well."""
    if not os.path.isfile(source) or "://" not in _text(source):  # noqa: PTH113 - see Inside
        return {}  # most lists; saves looking at each row
    rows, *_ = _read(source)
    addresses = _addresses(rows, source)
    for number, path, *_ in rows:
        if addresses and path not in addresses:
            raise DatasetError(
                f"row {number} of {source.name!r} names the path {path!r} among addresses as "
                f"{next(iter(addresses))!r}; list one kind, or give a folder that holds all of the "
                "photos as the data root (--data-root)"
            )
    return addresses


def _addresses(rows: list[_Row], source: Path) -> dict[str, Steps]:
    return {
        path: steps_of(path, f"row {number} of {source.name!r}")
        for number, path, *_ in rows
        if is_address(path)
    }


def _read(source: Path) -> tuple[list[_Row], LabelKind, list[str]]:
    """Return the rows, what their labels are, and the classes that the header names."""
    table = _table(source)
    if not table:
        raise DatasetError(f"{source.name!r} has no rows; give one row per photo: path,label")
    header = _header(table[0][1], source)
    listed = [name for name in header if name not in {*_OTHERS, *_KINDS}]
    kinds = (_KINDS[name] for name in header if name in _KINDS)
    kind = SEVERAL if listed else next(kinds, ONE_CLASS)
    return list(_rows(table, header, listed, kind, source)), kind, listed


def _rows(
    table: list[tuple[int, list[str]]],
    header: list[str],
    listed: list[str],
    kind: LabelKind,
    source: Path,
) -> Iterator[_Row]:
    name = repr(source.name)
    for number, cells in islice(table, 1 if header else 0, None):
        where = f"row {number} of {name}"
        path, label, split, group = (
            _by_header(cells, header, listed, kind, where) if header else _automl(cells, where)
        )
        if (key := split.strip().lower()) not in _SPLITS:
            raise DatasetError(
                f"{where} has the split {key!r}; it must be train, valid, test or unassigned"
            )
        # A file name may begin with a blank, an address may not.
        address = path.strip()
        yield (
            number,
            address if is_address(address) else path,
            label.strip(),
            _SPLITS[key],
            group.strip(),
        )


def _table(source: Path) -> list[tuple[int, list[str]]]:
    """Read the rows that are not blank, without blank cells at their ends, by number."""
    reader = csv.reader(io.StringIO(_text(source), newline=""), strict=True)
    try:
        rows = [(number, _trimmed(cells)) for number, cells in enumerate(reader, 1)]
    except csv.Error as error:
        raise DatasetError(
            f"line {reader.line_num} of {source.name!r} is no valid CSV ({error}); check its quotes"
        ) from error
    return [(number, cells) for number, cells in rows if cells]


def _text(source: Path) -> str:
    name = repr(source.name)
    try:
        text = source.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{name} must be UTF-8, but byte {error.start} is not; save it as CSV UTF-8"
        ) from error
    except OSError as error:
        raise DatasetError(
            f"cannot read {str(source)!r} ({error.strerror}); make it readable or remove it"
        ) from error
    if "\0" in text:
        raise DatasetError(f"{name} must be text, but holds a NUL byte; save it as CSV UTF-8")
    return text


def _trimmed(cells: list[str]) -> list[str]:
    """Drop blank cells at the end, which spreadsheets often add."""
    while cells and not cells[-1].strip():
        cells.pop()
    return cells


def _header(cells: list[str], source: Path) -> list[str]:
    """Return the names of the columns, or nothing if the first row is a photo already."""
    plain = [cell.strip() for cell in cells]
    lowered = [cell.lower() for cell in plain]
    if not {"path", *_KINDS} & set(lowered) or any(map(_is_photo, lowered)):
        return []
    special = {*_OTHERS, *_KINDS}
    names = [low if low in special else name for low, name in zip(lowered, plain, strict=True)]
    labels = set(names) & set(_KINDS)
    others = set(names) - special
    if len(set(names)) < len(names) or "path" not in names or len(labels) + bool(others) != 1:
        raise DatasetError(
            f"the header of {source.name!r} must be path,label, maybe with split and group, or for "
            "several labels path,labels or path and a column of 0 and 1 for each label, or for "
            "grades path,grade, got "
            f"{','.join(lowered)!r}; rename or remove the other columns"
        )
    return names


def _is_photo(cell: str) -> bool:
    return is_photo_name(cell) or is_address(cell)


def _by_header(
    cells: list[str], header: list[str], listed: list[str], kind: LabelKind, where: str
) -> _Cells:
    if len(cells) > len(header):
        raise DatasetError(
            f"{where} has {len(cells)} cells under {len(header)} columns; "
            "keep one label per photo, and quote a path that has a comma"
        )
    named = dict(zip(header, cells, strict=False))
    if listed:
        label = SEPARATOR.join(_ticked(named, listed, where))
    else:
        label = SEPARATOR.join(kind.named(named.get(kind.column, "")))
    return (
        named.get("path", ""),
        label,
        named.get("split", ""),
        named.get("group", ""),
    )


def _ticked(named: dict[str, str], listed: list[str], where: str) -> Iterator[str]:
    """Yield the labels whose column has a 1."""
    for name in sorted(listed):
        cell = named.get(name, "").strip()
        if cell not in ("0", "1"):
            raise DatasetError(f"{where} must have 0 or 1 under {name!r}, got {cell[:50]!r}")
        if SEPARATOR in name:
            raise DatasetError(f"the label {name!r} must have no {SEPARATOR!r}; rename its column")
        if cell == "1":
            yield name


def _automl(cells: list[str], where: str) -> _Cells:
    has_split = cells[0].strip().lower() in _SPLITS
    split, rest = (cells[0], cells[1:]) if has_split else ("", cells)
    if len(rest) != 2:
        raise DatasetError(
            f"{where} must be path,label or SPLIT,path,label with exactly one label, "
            f"got {len(cells)} cells; correct it"
        )
    return rest[0], rest[1], split, ""
