"""Resolve a list's paths to files, only inside of a folder."""

import os
import stat
from pathlib import Path

from trainers.data.sources import is_inside
from trainers.errors import DatasetError


class Inside:
    """The files below a root without links. Each folder is resolved once."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._start = root.rstrip(os.sep) + os.sep
        self._folders: dict[str, bool] = {}

    def locate(self, path: str, shown: str, where: str) -> str:
        """Return the POSIX path from the root to a path's file; messages show it as `shown`.

        Raises DatasetError if it is not there, or outside of the root.
        """
        full = os.path.normpath(os.path.join(self.root, path))  # noqa: PTH118 - a million rows
        if ".." in path or not self._holds(full):
            full = self._resolved(path, full, shown, where)
        return full[len(self._start) :].replace(os.sep, "/")

    def _holds(self, full: str) -> bool:
        """Return whether a path surely leads to a file inside, by a cheap check."""
        folder = os.path.dirname(full)  # noqa: PTH120 - see locate
        if folder not in self._folders:
            inside = is_inside(folder, self.root) and is_inside(os.path.realpath(folder), self.root)
            self._folders[folder] = inside
        try:
            return self._folders[folder] and stat.S_ISREG(os.lstat(full).st_mode)
        except (OSError, ValueError):
            return False

    def _resolved(self, path: str, full: str, shown: str, where: str) -> str:
        # Without resolving links, `link/..` would be normalised to the wrong folder.
        if ".." in Path(path).parts or not is_inside(full, self.root):
            full = os.path.realpath(Path(self.root, path))
        if not is_inside(os.path.realpath(full), self.root):
            raise DatasetError(
                f"{where} names {shown!r}, which lies outside of {self.root!r}; move the file "
                "inside or give the folder that holds all photos as the data root (--data-root)"
            )
        if not os.path.isfile(full):  # noqa: PTH113 - Path.is_file raises for too long a name
            what = "which is no file" if shown == path else f"but there is no copy {path!r} of it"
            raise DatasetError(
                f"{where} names {shown!r}, {what} in {self.root!r}; correct the path or remove the "
                "row"
            )
        return full
