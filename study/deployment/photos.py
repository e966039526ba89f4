"""Find the photos that a user's inputs stand for: files, folders, patterns, a list."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from trainers.data.photo import is_photo_name
from trainers.data.sources import is_inside

LISTED = "-"
"""The input that stands for the paths on standard input, one per line."""


def find_photos(inputs: Iterable[str]) -> list[Path]:
    """Return the files that inputs stand for, each once; FileNotFoundError if there are none."""
    paths = list(dict.fromkeys(path for text in inputs for path in _photos_of(text)))
    if not paths:
        raise FileNotFoundError("standard input names no photo")
    return paths


def _photos_of(text: str) -> list[Path]:
    if text == LISTED:
        # A list may be long: a missing file is reported when its turn comes.
        lines = (os.fsdecode(line).rstrip("\r\n") for line in sys.stdin.buffer)
        return [path for line in lines if line for path in _at(Path(line))]
    # A file may be called "rose[1].jpg": a path that exists is not a pattern.
    if os.path.lexists(text):
        found = _at(Path(text))
    elif glob.has_magic(text):
        # As in the shell, without hidden files; files that are not photos are ignored.
        matches = map(Path, sorted(glob.glob(text, recursive=True)))  # noqa: PTH207
        meant = (each for each in matches if each.is_dir() or is_photo_name(each.name))
        found = [path for each in meant for path in _at(each)]
    else:
        raise FileNotFoundError(f"there is no file or folder {text!r}")
    if not found:
        raise FileNotFoundError(f"{text!r} holds no photos, or matches none")
    return found


def _at(path: Path) -> list[Path]:
    return list(_photos_below(path)) if path.is_dir() else [path]


def _photos_below(folder: Path) -> Iterator[Path]:
    """Return the visible photos of a folder at any depth, in order.

    Links are followed as in training: not out of the folder.
    """
    seen, root = set(), os.path.realpath(folder)
    for here, folders, files in os.walk(folder, onerror=_fail, followlinks=True):
        found = os.stat(here)  # noqa: PTH116 - a Path per folder is slow
        if (found.st_dev, found.st_ino) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add((found.st_dev, found.st_ino))
        folders[:] = sorted(
            each
            for each in folders
            if _is_visible(each) and is_inside(os.path.realpath(f"{here}/{each}"), root)
        )
        for name in sorted(files):
            if _is_visible(name) and is_photo_name(name):
                yield Path(here, name)


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _fail(error: OSError) -> None:
    raise error  # a folder that cannot be listed is not skipped silently
