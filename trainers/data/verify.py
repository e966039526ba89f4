"""Read every photo once, on all usable CPUs: its hash, and whether it can be decoded."""

import hashlib
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from trainers.allowance import usable_cpus
from trainers.data.photo import check_file, read_photo
from trainers.errors import UnreadablePhoto

_REDUCTION = 8  # reads a JPEG to its end, but saves most of the arithmetic


@dataclass(frozen=True)
class Reading:
    """A file's contents: SHA-256 in hexadecimal, size in bytes; `trouble` if it is unreadable."""

    sha256: str
    size: int
    trouble: str = ""


def read_all(
    paths: Sequence[Path],
    readable: Container[str],
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Reading]:
    """Read files in their order; a hash in `readable` is known to decode and is not tried again."""
    pool = ThreadPoolExecutor(usable_cpus(), "photo")
    try:
        for done, reading in enumerate(pool.map(lambda path: _read(path, readable), paths), 1):
            if progress:
                progress(done, len(paths))
            yield reading
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, do not first read all the others


def _read(path: Path, readable: Container[str]) -> Reading:
    sha256, size = "", 0
    try:
        check_file(path)
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.tell()
        if sha256 not in readable:
            read_photo(path, _REDUCTION)
    except UnreadablePhoto as error:
        return Reading(sha256, size, str(error))
    except OSError as error:
        return Reading("", 0, error.strerror or "cannot be opened")
    return Reading(sha256, size)
