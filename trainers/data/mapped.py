"""A file that processes map into memory: parts one after the other, then a header.

Each part has a hash, to detect damage. Free of torch.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

SAMPLED = 32
"""Number of parts whose hashes are checked when a file is opened."""


class BrokenMap(Exception):
    """A damaged or incomplete map; the text is a short reason."""


class MapWriter:
    """Writes a file: parts one by one, then `finish`. It appears once it is complete.

    The header comes after the parts, so that memory use is constant. `magic` ends the file, and
    identifies its kind.
    """

    def __init__(self, path: Path, magic: bytes) -> None:
        self._path, self._magic = path, magic
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._stream: IO[bytes] = self._temporary.open("wb")
        self._hashes: list[str] = []

    def add(self, content: bytes) -> None:
        """Append a part."""
        self._stream.write(content)
        self._hashes.append(_hash(content))

    def finish(self, about: Mapping[str, Any]) -> None:
        """Make the file appear under its name, safely on the disk."""
        whole = {**about, "hashes": self._hashes}
        text = json.dumps(whole, separators=(",", ":")).encode()
        self._stream.write(text + len(text).to_bytes(8, "little") + self._magic)
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._temporary.replace(self._path)

    def abandon(self) -> None:
        """Remove the unfinished file."""
        self._temporary.unlink(missing_ok=True)
        with suppress(OSError):  # on a full disk, closing fails to write the rest
            self._stream.close()


def read_about(path: Path, magic: bytes) -> dict[str, Any]:
    """Read a file's header, and the `bytes` of its parts."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            tail = len(magic) + 8
            stream.seek(max(0, size - tail))
            end = stream.read()
            length = int.from_bytes(end[:8], "little")
            if len(end) < tail or end[8:] != magic or length > size - tail:
                raise BrokenMap("it is not whole")
            stream.seek(size - tail - length)
            about = json.loads(stream.read(length))
            return {**about, "bytes": size - tail - length}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise BrokenMap(f"it cannot be read ({error})") from error


def check_hashes(
    hashes: Sequence[str], part: Callable[[int], bytes], what: str, sampled: int | None = None
) -> None:
    """Check some or all parts; raises `BrokenMap` for one that has changed."""
    for index in _spread(len(hashes), len(hashes) if sampled is None else sampled):
        if _hash(part(index)) != hashes[index]:
            raise BrokenMap(f"{what} {index} is damaged")


def _spread(n: int, count: int) -> Iterator[int]:
    """Choose the first, the last and others at random, so that in time each is checked."""
    if count >= n:
        return iter(range(n))
    chosen = np.random.default_rng().choice(n, count, replace=False)
    return iter({0, n - 1, *(int(index) for index in chosen)})


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
