"""The result of listing photos, and the rules shared by all sources."""

import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path

from trainers.errors import DatasetError as DatasetError  # raised by custom trainers
from trainers.labels import ONE_CLASS, LabelKind

MAX_CLASS_NAME = 200

_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Split(StrEnum):
    """What a photo is for: TRAIN to learn from, VALID to choose by, TEST for the last word."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"


SPLIT_NAMES = {
    "train": Split.TRAIN,
    "valid": Split.VALID,
    "val": Split.VALID,
    "validation": Split.VALID,
    "test": Split.TEST,
}
"""Common names of the splits, in lower case."""


FEWEST_FOLDS, MOST_FOLDS = 2, 10
"""The minimum and maximum number of folds."""


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is not used, by its path from the root, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Found:
    """A file that claims to be a photo, by its POSIX path from the root; not opened yet.

    Photos of one `group` belong together; "" is alone.
    """

    path: str
    label: str
    split: Split | None = None
    group: str = ""


@dataclass(frozen=True)
class Findings:
    """All that a source holds; `root` is free of links and `classes` are in order."""

    root: Path
    classes: tuple[str, ...]
    photos: tuple[Found, ...]
    left_out: tuple[LeftOut, ...] = ()
    kind: LabelKind = ONE_CLASS


def is_inside(path: str, root: str) -> bool:
    """Whether an absolute path is `root` or below; neither is looked up on the disk."""
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def sample(names: Iterable[str], limit: int = 3) -> str:
    """Quote the first few names: 'a', 'b', 'c', ..."""
    first = [repr(name) for name in islice(names, limit + 1)]
    return ", ".join([*first[:limit], *(["..."] if len(first) > limit else [])])


def check_class_name(name: str, where: str) -> None:
    """Raise DatasetError for a class name that is empty, too long or breaks a terminal."""
    if not name.strip():
        raise DatasetError(f"{where} gives an empty class name; give every class a name")
    _check_name(name, where, "class")


def check_group_name(name: str, where: str) -> None:
    """Raise DatasetError for a group's name that is too long or breaks a terminal."""
    _check_name(name, where, "group")


def _check_name(name: str, where: str, of: str) -> None:
    if len(name) > MAX_CLASS_NAME:
        raise DatasetError(
            f"{where} gives a {of} name of {len(name)} characters, {name[:30]!r} and so on; "
            f"shorten it to at most {MAX_CLASS_NAME}"
        )
    if any(c in _BIDI or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name):
        raise DatasetError(f"{where} gives the {of} name {name!r}; remove its control characters")
