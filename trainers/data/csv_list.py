"""Find photos in a CSV: path,label[,split] under a header, or AutoML's [SPLIT,]path,label."""

import csv
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

from trainers.data.photo import is_photo_name
from trainers.data.sources import (
    SPLIT_NAMES,
    DatasetError,
    Findings,
    Found,
    Split,
    check_class_name,
    is_inside,
)

_COLUMNS = ("path", "label", "split")
_SPLITS: dict[str, Split | None] = {**SPLIT_NAMES, "unassigned": None, "": None}
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)

_Row = tuple[str, str, str]
"""The cells of a row: path, label, split."""


def find_in_csv(source: Path, data_root: Path | None = None) -> Findings:
    """Find the photos that a CSV lists; paths are relative to `data_root` or the CSV's folder."""
    root = Path(os.path.realpath(data_root or source.parent))
    photos: dict[str, Found] = {}
    for number, (path, label, split) in _rows(source):
        where = f"row {number} of {source.name!r}"
        check_class_name(label, where)
        if split not in _SPLITS:
            raise DatasetError(
                f"{where} has the split {split!r}; it must be train, valid, test or unassigned"
            )
        found = Found(_locate(path, root, where), label, _SPLITS[split])
        earlier = photos.setdefault(found.path, found)
        if earlier != found:
            raise DatasetError(
                f"{where} lists {path!r} again with another label or split; keep one of the rows"
            )
    return Findings(
        root=root,
        classes=tuple(sorted({photo.label for photo in photos.values()})),
        photos=tuple(photos.values()),
    )


def listed_paths(source: Path) -> set[str]:
    """Give the paths that a CSV lists, as they are written there, be there files or not."""
    return {path for _, (path, _, _) in _rows(source)}


def _rows(source: Path) -> Iterator[tuple[int, _Row]]:
    """Give each row with its number, the header being row 1."""
    table = _table(source)
    if not table:
        raise DatasetError(f"{source.name!r} has no rows; give one row per photo: path,label")
    header = _header(table[0][1], source)
    for number, cells in table[1:] if header else table:
        where = f"row {number} of {source.name!r}"
        path, label, split = _by_header(cells, header, where) if header else _automl(cells, where)
        yield number, (path, label.strip(), split.strip().lower())


def _table(source: Path) -> list[tuple[int, list[str]]]:
    """Read the rows that are not blank, without blank cells at their ends, by number."""
    name = repr(source.name)
    try:
        text = source.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{name} must be UTF-8, but byte {error.start} is not; save it as CSV UTF-8"
        ) from error
    if "\0" in text:
        raise DatasetError(f"{name} must be text, but holds a NUL byte; save it as CSV UTF-8")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = [(number, _trimmed(cells)) for number, cells in enumerate(reader, 1)]
    except csv.Error as error:
        raise DatasetError(
            f"line {reader.line_num} of {name} is no valid CSV ({error}); check its quotes"
        ) from error
    return [(number, cells) for number, cells in rows if cells]


def _trimmed(cells: list[str]) -> list[str]:
    """Drop blank cells at the end, which spreadsheets like to add."""
    filled = [position for position, cell in enumerate(cells, 1) if cell.strip()]
    return cells[: filled[-1]] if filled else []


def _header(cells: list[str], source: Path) -> list[str]:
    """Give the names of the columns, or nothing if the first row is a photo already."""
    names = [cell.strip().lower() for cell in cells]
    if not {"path", "label"} & set(names) or any(is_photo_name(name) for name in names):
        return []
    if sorted(names) not in (["label", "path"], sorted(_COLUMNS)):
        raise DatasetError(
            f"the header of {source.name!r} must be path,label or path,label,split, got "
            f"{','.join(names)!r}; rename or remove the other columns"
        )
    return names


def _by_header(cells: list[str], header: list[str], where: str) -> _Row:
    if len(cells) > len(header):
        raise DatasetError(
            f"{where} has {len(cells)} cells under {len(header)} columns; "
            "keep one label per photo, and quote a path that has a comma"
        )
    named = dict(zip(header, cells, strict=False))
    return named.get("path", ""), named.get("label", ""), named.get("split", "")


def _automl(cells: list[str], where: str) -> _Row:
    has_split = cells[0].strip().lower() in _SPLITS
    split, rest = (cells[0], cells[1:]) if has_split else ("", cells)
    if len(rest) != 2:
        raise DatasetError(
            f"{where} must be path,label or SPLIT,path,label with exactly one label, "
            f"got {len(cells)} cells; correct it"
        )
    return rest[0], rest[1], split


def _locate(path: str, root: Path, where: str) -> str:
    """Turn a path of the CSV into the POSIX path from the root to a file that is there."""
    if _URL.match(path):
        raise DatasetError(
            f"{where} names the address {path!r}; download the photos and list their paths "
            "relative to the CSV"
        )
    full = os.path.normpath(root / path)
    # Without looking at links, `link/..` would be normalised to the wrong folder.
    if ".." in Path(path).parts or not is_inside(full, str(root)):
        full = os.path.realpath(root / path)
    if not is_inside(os.path.realpath(full), str(root)):
        raise DatasetError(
            f"{where} names {path!r}, which lies outside of {str(root)!r}; move the file inside "
            "or give the folder that holds all photos as the data root"
        )
    if not os.path.isfile(full):  # noqa: PTH113 - Path.is_file raises for too long a name
        raise DatasetError(
            f"{where} names {path!r}, which is no file in {str(root)!r}; correct the path or "
            "remove the row"
        )
    return Path(full).relative_to(root).as_posix()
