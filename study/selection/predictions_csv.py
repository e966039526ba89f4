"""Another classifier's predictions from a CSV: path, and labels or a probability per class."""

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from study.errors import ConfigError
from trainers.labels import ONE_CLASS, SEVERAL, LabelKind

PATHS = ("path", "file", "filename", "image", "photo")
ANSWERS = ("predicted", "prediction", "label", "labels", "class")
LARGEST = 500_000_000

HALF = 0.5


def read_answers(
    source: Path, photos: Sequence[str], classes: Sequence[str], kind: LabelKind = ONE_CLASS
) -> NDArray[np.int64]:
    """Return the answers of a CSV to the questions of each of `photos`, (n,): see `LabelKind`.

    Its header has a column `path` (or file, filename, image, photo) and either `predicted` (or
    prediction, label, labels, class) or a column of numbers for each class, of which the largest
    counts. Of several labels, `predicted` is "a;b", and comes before such columns: in these, labels
    are there from a half on. Photos are found by path, or by file name where that is unique; other
    rows are ignored. Raises `ConfigError` that names what is wrong.
    """
    rows = _rows(source)
    header = [cell.strip() for cell in rows[0]]
    lowered = [cell.lower() for cell in header]
    where = next((lowered.index(name) for name in PATHS if name in lowered), None)
    if where is None:
        raise ConfigError(f"{source} must have a header with a column path, got {_shown(header)}")
    answer = _answering(source, header, lowered, classes, kind)
    named: dict[str, int] = {}
    for number, cells in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise ConfigError(
                f"row {number} of {source} must have {len(header)} cells as its header has, "
                f"got {len(cells)}"
            )
        path = str(PurePosixPath(cells[where].strip().replace("\\", "/")))
        label = answer(number, cells)
        if named.setdefault(path, label) != label:
            raise ConfigError(
                f"row {number} of {source} lists {path[:200]!r} again with another prediction"
            )
    return kind.answers(_of_photos(source, named, photos), len(classes))


def _answering(
    source: Path, header: list[str], lowered: list[str], classes: Sequence[str], kind: LabelKind
) -> Callable[[int, list[str]], int]:
    """Return a function that reads the prediction of a row: its number and its cells."""
    columns = [header.index(name) if name in header else -1 for name in classes]
    whole = min(columns) >= 0
    places = [lowered.index(name) for name in ANSWERS if name in lowered]
    column = next((place for place in places if not (whole and place in columns)), None)
    if whole and (kind is not SEVERAL or column is None):
        return _by_numbers(source, columns, kind)
    if column is None:
        raise ConfigError(
            f"{source} must have a column predicted, or one for each of the {kind.plural} "
            f"{', '.join(classes)}; got {_shown(header)}"
        )

    def named(number: int, cells: list[str]) -> int:
        text = cells[column].strip()
        for name in kind.named(text):
            if name not in classes:
                raise ConfigError(
                    f"row {number} of {source} names {name[:100]!r}, which is none of the "
                    f"{kind.plural} {', '.join(classes)}"
                )
        return kind.number(text, classes)

    return named


def _by_numbers(
    source: Path, columns: Sequence[int], kind: LabelKind
) -> Callable[[int, list[str]], int]:
    def most_probable(number: int, cells: list[str]) -> int:
        values = [_number(cells[column]) for column in columns]
        if any(math.isnan(value) for value in values):
            raise ConfigError(f"row {number} of {source} must have a number for each class")
        return int(np.argmax(values))

    def probable(number: int, cells: list[str]) -> int:
        values = [_number(cells[column]) for column in columns]
        if not all(0 <= value <= 1 for value in values):
            raise ConfigError(
                f"row {number} of {source} must have a probability from 0 to 1 for each label"
            )
        return sum(1 << place for place, value in enumerate(values) if value >= HALF)

    return probable if kind is SEVERAL else most_probable


def _of_photos(source: Path, named: dict[str, int], photos: Sequence[str]) -> list[int]:
    counts = Counter(PurePosixPath(path).name for path in named)
    mine = Counter(PurePosixPath(path).name for path in photos)
    by_name = {PurePosixPath(path).name: label for path, label in named.items()}
    found, missing = [], []
    for path in photos:
        name = PurePosixPath(path).name
        if path in named:
            found.append(named[path])
        elif counts[name] == mine[name] == 1:
            found.append(by_name[name])
        else:
            missing.append(path)
    if missing:
        raise ConfigError(
            f"{source} must have a prediction for each of the {len(photos)} validation photos; "
            f"{len(missing)} have none, such as {missing[0]!r}"
        )
    return found


def _rows(source: Path) -> list[list[str]]:
    try:
        if source.exists() and not (source.is_file() or source.is_dir()):
            raise ConfigError(f"{str(source)!r} is not a regular file; give a CSV")
        if source.stat().st_size > LARGEST:
            raise ConfigError(f"{source} must have at most {LARGEST / 1e6:.0f} MB")
        text = source.read_text(encoding="utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{source} is not a readable CSV in UTF-8: {error}") from None
    if len(rows) < 2:
        raise ConfigError(f"{source} must have a header and a row for each photo")
    return rows


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _shown(header: Sequence[str]) -> str:
    return ", ".join(repr(cell[:40]) for cell in header[:10])
