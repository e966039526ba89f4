"""The weights files of one study: written atomically, identified by their SHA-256.

`root` holds the sealed files, each under its final name, and `stages/<owner>/<key[:16]>/`, one
workspace per stage run, for a trainer's files until they are sealed. Each search has its own
`owner`: it takes over the workspaces of an earlier one by renaming, so that a process that still
writes or seals there no longer finds them. Nothing is ever overwritten: users may keep files here,
too. With a `Remote`, the sealed files are kept there, and `root` holds copies: a file is sealed
once it has arrived there, and a missing or damaged copy is fetched.
"""

import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from storage.errors import RemoteUnusable, RowDamaged
from storage.records import Checkpoint
from storage.remote import Remote
from trainers.files import sha256_of

SUFFIX = ".safetensors"
"""The suffix of sealed files."""

NOBODY = "0" * 32
"""The owner of workspaces if there is only one."""

_STAGES = "stages"
_KEY = re.compile(r"[0-9a-f]{16,64}")
_OWNER = re.compile(r"[0-9a-f]{32}")
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

    With `remote`, methods that need a file which is not here may raise `RemoteUnusable`. `owner` is
    the search that writes, 32 hexadecimal digits.
    """

    def __init__(self, root: Path, remote: Remote | None = None, owner: str = NOBODY) -> None:
        self.root = Path(root).absolute()
        self.remote = remote
        self.desk = f"{_STAGES}/{owner}"
        """Where the owner's workspaces are, relative to `root`."""

    def workspace(self, key: str) -> Path:
        """Return the folder where the stage run of that key keeps its files; make it if missing."""
        folder = self._workspace(key)
        before = self.root / _STAGES / folder.name  # an earlier Encore's
        if before.is_dir() and not folder.exists():
            self._take(before)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def discard(self, key: str) -> None:
        """Remove a stage run's workspace, if there is one."""
        folder = self._workspace(key)
        if folder.exists():
            shutil.rmtree(folder)
        with suppress(OSError):  # other processes are writing
            folder.parent.rmdir()

    def take_over(self, desk: str) -> None:
        """Make the workspaces of an earlier owner this one's."""
        if desk == self.desk or not _is_desk(desk):
            return
        for path in _entries(self.root / desk):
            if _WORKSPACE.fullmatch(path.name) and not self._workspace(path.name).exists():
                self._take(path)
        shutil.rmtree(self.root / desk, ignore_errors=True)

    def clear(self, keys: set[str]) -> None:
        """Remove this owner's workspaces except those of these keys.

        Not while anything is being sealed.
        """
        busy = {key[:16] for key in keys}
        for path in _entries(self.root / self.desk):
            if path.name not in busy:
                _remove(path)

    def seal(
        self, source: Path, name: str, note: Callable[[StoredFile], bool] = lambda _: True
    ) -> StoredFile:
        """Copy a file to a final name, atomically; the source stays.

        If there is a file of that name, the new one gets another, with a number. `note` is called
        with the name first, and returns False for a name that must not be used. If this fails, e.g.
        on a full disk, nothing is left behind.
        """
        _check_name(name)
        (self.root / self.desk).mkdir(parents=True, exist_ok=True)
        temporary = self.root / self.desk / f".sealing-{uuid.uuid4().hex}"
        try:
            # A copy, not a link: a process that still writes to the source cannot change the sealed
            # file.
            sha256, size = _copy(source, temporary)
            offers = (StoredFile(each, sha256, size) for each in _names(name))
            file = next(offer for offer in offers if self._put(temporary, offer, note))
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(self.root)
        if self.remote is not None:
            self.remote.send(self.root / file.path, file.path)
        return file

    def path(self, relative: str) -> Path:
        """Return where a sealed file lies; ValueError for a path that leads out of the vault."""
        steps = PurePosixPath(relative)
        path = self.root / steps
        inside = path.resolve().is_relative_to(self.root.resolve())
        if not steps.parts or steps.is_absolute() or ".." in steps.parts or not inside:
            raise RowDamaged(f"path must lead to a file in the vault, got {relative!r}")
        return path

    def has(self, relative: str, sha256: str, size: int | None = None) -> bool:
        """Return whether a sealed file is here, with exactly that content.

        A file of another `size` is not read. A path that leads out of the vault counts as missing
        in `has`, `verify`, `delete` and `sweep`.
        """
        return self._leads_in(relative) and _has(self.path(relative), sha256, size)

    def verify(self, relative: str, sha256: str, size: int | None = None) -> bool:
        """Return the same, after fetching the file if needed; it is then at its `path`."""
        there = self.has(relative, sha256, size)
        return there or (self._leads_in(relative) and self._fetch(relative, sha256))

    def broken(self, files: Iterable[StoredFile | Checkpoint]) -> list[str]:
        """List the missing or changed files; a remote file is judged by its size only."""
        if self.remote is None:
            return [
                file.path for file in files if not self.verify(file.path, file.sha256, file.size)
            ]
        there = self.remote.entries()
        return [f.path for f in files if f.path not in there or there[f.path].size != f.size]

    def delete(self, relative: str, sha256: str) -> None:
        """Remove a sealed file, if it is there with that content; other content is not ours."""
        if self.has(relative, sha256):
            self.path(relative).unlink(missing_ok=True)
        if self.remote is not None and self._leads_in(relative):
            self.remote.delete(relative)

    def sweep(self, relative: str, sha256: str) -> None:
        """Remove a file that a killed search had begun to seal, and which has no row."""
        if self.has(relative, sha256):
            self.path(relative).unlink(missing_ok=True)
        if self.remote is None or not (self._leads_in(relative) and self.remote.has(relative)):
            return
        with TemporaryDirectory() as folder:
            copy = Path(folder, "copy")
            if self.remote.fetch(relative, copy) and _has(copy, sha256):
                self.remote.delete(relative)

    def remove(self, relative: str) -> None:
        """Remove a stray file or folder, whatever its content."""
        _remove(self.path(relative))
        if self.remote is not None:
            self.remote.delete(relative)

    def size(self) -> int:
        """Count the bytes of all files under `root`, those of the workspaces too."""
        return folder_size(self.root)

    def strays(self, known: set[str]) -> dict[str, int]:
        """List files that look like a vault's, but are not `known`.

        Each path with its size in bytes. These are sealed files, temporary files of sealing, and
        workspaces; they may be another study's or a user's own. Other kinds of files are not
        listed.
        """
        here = [path for path in _entries(self.root) if _is_stray_file(path, known)]
        desks = [path for path in _entries(self.root / _STAGES) if self._is_stray_desk(path, known)]
        there = self.remote.entries() if self.remote is not None else {}
        return {
            **{path.name: path.stat().st_size for path in here},
            **{name: file.size for name, file in there.items() if _is_stray(name, known)},
            **{f"{_STAGES}/{path.name}": folder_size(path) for path in desks},
        }

    def _leads_in(self, relative: str) -> bool:
        try:
            self.path(relative)
        except RowDamaged:
            return False
        return True

    def _fetch(self, relative: str, sha256: str) -> bool:
        """Fetch a file's remote content to its place here, if its hash is right."""
        if self.remote is None:
            return False
        temporary = self.root / f".sealing-{uuid.uuid4().hex}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            # Twice: data damaged in transit is not a damaged file.
            for _ in range(2):
                if not self.remote.fetch(relative, temporary):
                    return False
                if _has(temporary, sha256):
                    temporary.replace(self.path(relative))
                    return True
            return False
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            raise RemoteUnusable(
                f"{relative} lies under {self.remote.url} and cannot be fetched: {self.root} "
                "cannot be written; copy the database to a folder of yours and read it there"
            ) from None
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _put(self, temporary: Path, file: StoredFile, note: Callable[[StoredFile], bool]) -> bool:
        """Give a file its name, unless the name is or was used."""
        path = self.root / file.path
        if os.path.lexists(path) or (self.remote is not None and self.remote.has(file.path)):
            return False
        return note(file) and appear(temporary, path)

    def _take(self, workspace: Path) -> None:
        """Rename an earlier owner's workspace; a write in progress there stays unfinished."""
        mine = self._workspace(workspace.name)
        mine.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another process was faster
            workspace.rename(mine)
        for unfinished in mine.glob(".*.tmp"):
            unfinished.unlink(missing_ok=True)

    def _is_stray_desk(self, path: Path, known: set[str]) -> bool:
        relative = f"{_STAGES}/{path.name}"
        if path.is_symlink() or not path.is_dir() or relative in known | {self.desk}:
            return False
        return _is_desk(relative) or _WORKSPACE.fullmatch(path.name) is not None

    def _workspace(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"key must be 16 to 64 hexadecimal digits, got {key!r}")
        return self.root / self.desk / key[:16]


def _names(name: str) -> Iterator[str]:
    """Yield a name, and then numbered variants of it."""
    stem = name.removesuffix(SUFFIX)
    return chain([name], (f"{stem}_{number}{SUFFIX}" for number in count(2)))


def appear(temporary: Path, path: Path) -> bool:
    """Give a complete file its name; False if the name is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if os.path.lexists(path):
            return False
        temporary.rename(path)
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_desk(relative: str) -> bool:
    stages, _, owner = relative.partition("/")
    return stages == _STAGES and _OWNER.fullmatch(owner) is not None


def _check_name(name: str) -> None:
    """Refuse anything but a plain file name, as it contains untrusted text."""
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
    """Copy to a new file and sync it to disk; return its SHA-256 and size."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("xb") as writer:
        while block := reader.read(_BLOCK):
            writer.write(block)
            digest.update(block)
            size += len(block)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest(), size


def _has(path: Path, sha256: str, size: int | None = None) -> bool:
    try:
        if not path.is_file():  # a FIFO would block, a device never end
            return False
        if size is not None and path.stat().st_size != size:  # it may be a sparse terabyte
            return False
        return sha256_of(path) == sha256
    except (FileNotFoundError, IsADirectoryError):
        return False


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can."""
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
    if "/" in name:
        return False
    if name.startswith("."):
        return _TEMPORARY.fullmatch(name) is not None
    return name.endswith(SUFFIX) and name not in known


def folder_size(folder: Path) -> int:
    """Count the bytes of all files in and below a folder, which may change meanwhile."""
    return sum(_size(path) for path in folder.rglob("*"))


def _size(path: Path) -> int:
    try:
        return 0 if path.is_symlink() or path.is_dir() else path.stat().st_size
    except FileNotFoundError:  # a trainer has just replaced it
        return 0
