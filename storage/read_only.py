"""Read-only SQLite files: on a read-only disk, or another user's."""

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote


def is_read_only(file: Path) -> bool:
    """Return whether a database cannot be written; its folder must be writable for the log, too."""
    return not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK))


@dataclass(frozen=True)
class Source:
    """How to read a file; `folder` holds a copy of it, and is removed with this object."""

    uri: str
    folder: "TemporaryDirectory[str] | None" = None

    def connect(self) -> sqlite3.Connection:
        """Connect, with no transaction of the driver's own, and for any thread."""
        return sqlite3.connect(self.uri, uri=True, isolation_level=None, check_same_thread=False)


def source_of(file: Path) -> Source:
    """Find how a read-only file can be read; sqlite3.Error if it is not an SQLite file.

    During a search, SQLite reads its log. Without a log, SQLite must be told not to create one. A
    log that another machine's crash has left is read in a copy.
    """
    plain = Source(_uri(file, "mode=ro"))
    try:
        with closing(plain.connect()) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        log = Path(f"{file}-wal")
        if not log.exists() or log.stat().st_size == 0:
            return Source(_uri(file, "mode=ro&immutable=1"))
    else:
        return plain
    folder = _folder()
    for each in (file, log):
        shutil.copyfile(each, Path(folder.name, each.name))
    return Source(_uri(Path(folder.name, file.name), "mode=rw"), folder)


def copy_of(source: Source) -> tuple[Path, "TemporaryDirectory[str]"]:
    """Copy a database to a file that can be upgraded."""
    folder = _folder()
    file = Path(folder.name, "encore.db")
    with closing(source.connect()) as old, closing(sqlite3.connect(file)) as new:
        old.backup(new)
    return file, folder


def copied(file: Path, folder: "TemporaryDirectory[str]") -> Source:
    """Return how such a copy is read; writes to it would be lost."""
    return Source(_uri(file, "mode=ro"), folder)


_folder = partial(TemporaryDirectory, prefix="encore-", ignore_cleanup_errors=True)


def _uri(file: Path, how: str) -> str:
    return f"file:{quote(str(file.absolute()))}?{how}"
