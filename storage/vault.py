"""The weights files of one study: written whole or not at all, known by their SHA-256.

Under `root` lie the sealed files, each under its final name, and `stages/<key[:16]>/`, one
workspace per stage run, where a trainer keeps its files until they are sealed. A crash at any
moment leaves at worst a file that nothing points to; `sweep` removes those.
"""

import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

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
    """The files under `root`, which is made when first needed."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()

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
        """Tell whether a sealed file is there and has exactly that content."""
        try:
            with self.path(relative).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except (FileNotFoundError, IsADirectoryError):
            return False

    def delete(self, relative: str) -> None:
        """Remove a sealed file, if it is there."""
        self.path(relative).unlink(missing_ok=True)

    def size(self) -> int:
        """Count the bytes of all files, those of the workspaces too."""
        return sum(_size(path) for path in self.root.rglob("*"))

    def orphans(self, known: set[str], running: set[str]) -> list[Path]:
        """List what nothing points to: neither a path in `known` nor a key in `running`.

        Only what a vault writes is ever listed: sealed files, their temporary beginnings, and
        workspaces. Other files are their owner's business.
        """
        busy = {key[:16] for key in running}
        return [
            *(path for path in _entries(self.root) if _is_stray_file(path, known)),
            *(path for path in _entries(self.root / _STAGES) if _is_stray_workspace(path, busy)),
        ]

    def sweep(self, known: set[str], running: set[str]) -> list[Path]:
        """Remove the orphans and give what was removed. Not while anything is being sealed."""
        removed = self.orphans(known, running)
        for path in removed:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        return removed

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
    if path.is_symlink() or not path.is_file():
        return False
    if path.name.startswith("."):
        return _TEMPORARY.fullmatch(path.name) is not None
    return path.name.endswith(SUFFIX) and path.name not in known


def _is_stray_workspace(path: Path, busy: set[str]) -> bool:
    if path.is_symlink() or not path.is_dir():
        return False
    return _WORKSPACE.fullmatch(path.name) is not None and path.name not in busy


def _size(path: Path) -> int:
    try:
        return 0 if path.is_symlink() or path.is_dir() else path.stat().st_size
    except FileNotFoundError:  # a trainer replaced it just now
        return 0
