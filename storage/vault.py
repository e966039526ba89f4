"""The weights files of one study: written whole or not at all, known by their SHA-256.

Under `root` lie the sealed files, each under its final name, and `stages/<key[:16]>/`, one
workspace per stage run, where a trainer keeps its files until they are sealed. A crash at any
moment leaves at worst a file that nothing points to; `sweep` removes those.

Where a `Remote` is given, the sealed files are kept there, and `root` holds copies of them: a file
is sealed once it has arrived there, and one that is missing here, or damaged, is fetched.
"""

import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from storage.records import Checkpoint
from storage.remote import Remote

SUFFIX = ".safetensors"
"""What every sealed file's name ends with."""

_STAGES = "stages"
_KEY = re.compile(r"[0-9a-f]{16,64}")
_WORKSPACE = re.compile(r"[0-9a-f]{16}")
_TEMPORARY = re.compile(r"\.sealing-[0-9a-f]{32}")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class StoredFile:
    """A sealed file: `path` is POSIX, relative to the vault's root; `size` in bytes."""

    path: str
    sha256: str
    size: int


class Vault:
    """The files under `root`, which is made when first needed, and in `remote`, if there is one.

    With `remote`, all that needs a file which is not here may raise `RemoteUnusable`.
    """

    def __init__(self, root: Path, remote: Remote | None = None) -> None:
        self.root = Path(root).absolute()
        self.remote = remote

    def workspace(self, key: str) -> Path:
        """Give the folder where the stage run of that key keeps its files; make it if missing."""
        folder = self._workspace(key)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def discard(self, key: str) -> None:
        """Remove a stage run's workspace, if there is one."""
        folder = self._workspace(key)
        if folder.exists():
            shutil.rmtree(folder)

    def seal(self, source: Path, name: str) -> StoredFile:
        """Copy a file to its final name, where it appears whole; one of that name is replaced.

        The source stays. Where this fails, on a full disk say, nothing is left behind.
        """
        _check_name(name)
        self.root.mkdir(parents=True, exist_ok=True)
        temporary = self.root / f".sealing-{uuid.uuid4().hex}"
        try:
            # A copy, not a link: who still writes to the source cannot harm what is sealed.
            sha256, size = _copy(source, temporary)
            temporary.replace(self.root / name)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(self.root)
        if self.remote is not None:
            self.remote.send(self.root / name, name)
        return StoredFile(name, sha256, size)

    def path(self, relative: str) -> Path:
        """Give where a sealed file lies; ValueError for a path that leads out of the vault."""
        steps = PurePosixPath(relative)
        path = self.root / steps
        inside = path.resolve().is_relative_to(self.root.resolve())
        if not steps.parts or steps.is_absolute() or ".." in steps.parts or not inside:
            raise ValueError(f"path must lead to a file in the vault, got {relative!r}")
        return path

    def verify(self, relative: str, sha256: str) -> bool:
        """Tell whether a sealed file has exactly that content; afterwards it lies at its `path`."""
        return _has(self.path(relative), sha256) or self._fetch(relative, sha256)

    def broken(self, files: Iterable[StoredFile | Checkpoint]) -> list[str]:
        """List those that are missing or changed; a remote file is judged by its size alone."""
        if self.remote is None:
            return [file.path for file in files if not self.verify(file.path, file.sha256)]
        there = self.remote.entries()
        return [f.path for f in files if f.path not in there or there[f.path].size != f.size]

    def delete(self, relative: str) -> None:
        """Remove a sealed file, if it is there."""
        self.path(relative).unlink(missing_ok=True)
        if self.remote is not None:
            self.remote.delete(relative)

    def size(self) -> int:
        """Count the bytes of all files under `root`, those of the workspaces too."""
        return folder_size(self.root)

    def orphans(self, known: set[str], running: set[str]) -> list[Path]:
        """List what nothing points to: neither a path in `known` nor a key in `running`.

        Only what a vault writes is ever listed: sealed files, their temporary beginnings, and
        workspaces. Other files are their owner's business.
        """
        busy = {key[:16] for key in running}
        here = [path for path in _entries(self.root) if _is_stray_file(path, known)]
        return [
            *here,
            *(self.root / name for name in self._strays(known) if self.root / name not in here),
            *(path for path in _entries(self.root / _STAGES) if _is_stray_workspace(path, busy)),
        ]

    def sweep(self, known: set[str], running: set[str]) -> list[Path]:
        """Remove the orphans and give what was removed. Not while anything is being sealed."""
        removed = self.orphans(known, running)
        for path in removed:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                self.delete(path.name)
        return removed

    def _fetch(self, relative: str, sha256: str) -> bool:
        """Have a file's remote content take its place here, if it is what it should be."""
        if self.remote is None:
            return False
        self.root.mkdir(parents=True, exist_ok=True)
        temporary = self.root / f".sealing-{uuid.uuid4().hex}"
        try:
            # Twice: what was changed on its way is not what was lost.
            for _ in range(2):
                if not self.remote.fetch(relative, temporary):
                    return False
                if _has(temporary, sha256):
                    temporary.replace(self.path(relative))
                    return True
            return False
        finally:
            temporary.unlink(missing_ok=True)

    def _strays(self, known: set[str]) -> list[str]:
        """List by name what `remote` keeps and nothing points to."""
        names = sorted(self.remote.entries()) if self.remote is not None else []
        return [name for name in names if "/" not in name and _is_stray(name, known)]

    def _workspace(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"key must be 16 to 64 hexadecimal digits, got {key!r}")
        return self.root / _STAGES / key[:16]


def _check_name(name: str) -> None:
    """Refuse what is no plain file name: it is made of class names, which anybody may choose."""
    if name.startswith(".") or any(mark in name for mark in "/\\") or not name.isprintable():
        raise ValueError(
            "name must be a plain file name, without separators, leading dots or control "
            f"characters, got {name!r}"
        )
    if not name.endswith(SUFFIX):
        raise ValueError(f"name must end with {SUFFIX}, got {name!r}")
    if len(name.encode()) > 255:
        raise ValueError(f"name must have at most 255 bytes, got {len(name.encode())}")


def _copy(source: Path, target: Path) -> tuple[str, int]:
    """Copy to a new file that is safely on the disk; give the SHA-256 and size of what it got."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("xb") as writer:
        while block := reader.read(_BLOCK):
            writer.write(block)
            digest.update(block)
            size += len(block)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest(), size


def _has(path: Path, sha256: str) -> bool:
    try:
        if not path.is_file():  # a FIFO would be waited for, a device read for ever
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except (FileNotFoundError, IsADirectoryError):
        return False


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(descriptor)


def _entries(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.iterdir())) if folder.is_dir() else iter(())


def _is_stray_file(path: Path, known: set[str]) -> bool:
    return not path.is_symlink() and path.is_file() and _is_stray(path.name, known)


def _is_stray(name: str, known: set[str]) -> bool:
    if name.startswith("."):
        return _TEMPORARY.fullmatch(name) is not None
    return name.endswith(SUFFIX) and name not in known


def _is_stray_workspace(path: Path, busy: set[str]) -> bool:
    if path.is_symlink() or not path.is_dir():
        return False
    return _WORKSPACE.fullmatch(path.name) is not None and path.name not in busy


def folder_size(folder: Path) -> int:
    """Count the bytes of all files in a folder and below it, in which others may be at work."""
    return sum(_size(path) for path in folder.rglob("*"))


def _size(path: Path) -> int:
    try:
        return 0 if path.is_symlink() or path.is_dir() else path.stat().st_size
    except FileNotFoundError:  # a trainer replaced it just now
        return 0
