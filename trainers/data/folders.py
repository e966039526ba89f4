"""Find photos in a folder per class, or in such folders inside train and valid (and test)."""

import os
from collections.abc import Iterator
from pathlib import Path

from trainers.data.photo import is_photo_name
from trainers.data.sources import (
    SPLIT_NAMES,
    Findings,
    Found,
    LeftOut,
    Split,
    check_class_name,
    is_inside,
)
from trainers.errors import DatasetError

_Tops = list[tuple[Split | None, str]]
"""Class folders by their path from the root, each with the split that it belongs to."""

_Inode = tuple[int, int]
"""A folder's identity: device and inode."""


def find_in_folders(source: Path) -> Findings:
    """Find the photos of SOURCE/CLASS/**, or of SOURCE/{train,valid[,test]}/CLASS/**."""
    walk = _Walk(os.path.realpath(source))
    folders = walk.folders("")
    splits = _split_folders(walk, folders)
    if splits:
        tops = _tops_of_splits(walk, splits)
        # fast.ai leaves `models` and `tmp` beside train and valid: reported, but not an error.
        for name in set(folders) - set(splits.values()):
            walk.left_out[name] = "a folder beside train and valid"
    else:
        tops = [(None, name) for name in folders]
    if not tops:
        raise DatasetError(
            f"{walk.root!r} must hold a folder of photos per class, or train and valid folders of "
            "such, but it holds no folders; put each photo into a folder named like its class"
        )
    return _collect(walk, tops)


def _collect(walk: "_Walk", tops: _Tops) -> Findings:
    photos: list[Found] = []
    classes: set[str] = set()
    for split, top in tops:
        label = top.rpartition("/")[2]
        check_class_name(label, f"the folder {top!r}")
        classes.add(label)
        photos += [Found(path, label, split) for path in walk.photos(top)]
    return Findings(
        root=Path(walk.root),
        classes=tuple(sorted(classes)),
        photos=tuple(photos),
        left_out=tuple(LeftOut(path, reason) for path, reason in walk.left_out.items()),
    )


def _split_folders(walk: "_Walk", folders: list[str]) -> dict[Split, str]:
    """Return which folder holds which split; none if the folders are classes."""
    named = [(SPLIT_NAMES[name.lower()], name) for name in folders if name.lower() in SPLIT_NAMES]
    splits = dict(named)
    needed = {Split.TRAIN, Split.VALID}
    if needed <= splits.keys():
        if len(splits) < len(named):
            names = ", ".join(repr(name) for _, name in named)
            raise DatasetError(
                f"{walk.root!r} must hold one folder per split, got {names}; "
                "merge those that mean the same"
            )
        return splits
    for split in needed & splits.keys():
        # A class may be called "train" (and another "bus"), but then it holds no folders.
        if walk.folders(splits[split]):
            missing = (needed - splits.keys()).pop()
            raise DatasetError(
                f"{walk.root!r} has a folder {splits[split]!r} of class folders, but no folder "
                f"{missing.value!r} beside it; add it, or give the inner folder to have it split"
            )
    return {}


def _tops_of_splits(walk: "_Walk", splits: dict[Split, str]) -> _Tops:
    tops: _Tops = []
    for split, folder in splits.items():
        names = walk.folders(folder)
        if not names:
            raise DatasetError(
                f"the folder {folder!r} in {walk.root!r} must hold a folder per class, "
                "but it holds no folders; sort its photos into classes or move it away"
            )
        tops += [(split, f"{folder}/{name}") for name in names]
    return tops


class _Walk:
    """A walk over the folders below a root that never leaves it and opens no file.

    `left_out` collects skipped paths that should be reported, with their reasons.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.left_out: dict[str, str] = {}

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder."""
        return [entry.name for entry in self._entries(folder) if entry.is_dir()]

    def photos(self, top: str) -> Iterator[str]:
        """Yield all photos of a folder at any depth, also through links."""
        # Each folder is visited once directly and once through links, so that links cannot
        # multiply.
        seen: set[tuple[_Inode, bool]] = set()
        above = frozenset(self._inode(folder) for folder in ("", top.rpartition("/")[0]))
        todo = [(top, False, above)]
        while todo:
            folder, linked, above = todo.pop()
            inode = self._inode(folder)
            if inode in above or (inode, linked) in seen:
                self.left_out[folder] = "a link to a folder that is there already"
                continue
            seen.add((inode, linked))
            for entry in self._entries(folder):
                path = f"{folder}/{entry.name}"
                if entry.is_dir():
                    todo.append((path, linked or entry.is_symlink(), above | {inode}))
                elif is_photo_name(entry.name):
                    yield path

    def _inode(self, folder: str) -> _Inode:
        found = os.stat(self._full(folder))  # noqa: PTH116 - see _full
        return found.st_dev, found.st_ino

    def _full(self, folder: str) -> str:
        return os.path.join(self.root, folder)  # noqa: PTH118 - no Path: a walk makes millions

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        """List by name what is visible in a folder and safe to follow."""
        with os.scandir(self._full(folder)) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        return [entry for entry in entries if self._accepts(folder, entry)]

    def _accepts(self, folder: str, entry: os.DirEntry[str]) -> bool:
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            return False
        if not (entry.is_symlink() or entry.is_dir() or is_photo_name(entry.name)):
            return False
        reason = self._objection(entry)
        if reason:
            path = os.fsencode(f"{folder}/{entry.name}" if folder else entry.name)
            self.left_out[path.decode("utf-8", "backslashreplace")] = reason
        return not reason

    def _objection(self, entry: os.DirEntry[str]) -> str:
        if any("\ud800" <= c <= "\udfff" for c in entry.name):
            return "its name is not valid UTF-8"
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            if not os.path.exists(target):  # noqa: PTH110 - Path.exists raises for a circle
                return "a link to nothing"
            if not is_inside(target, self.root):
                return "a link that leaves the data folder"
        return "" if entry.is_dir() or entry.is_file() else "not a regular file"
