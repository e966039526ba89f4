"""A copy of remote files: fetched once, and again if they change.

Remote names are untrusted: one that would lead out of the copy is skipped.
"""

import json
import uuid
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

from storage.errors import RemoteUnusable
from storage.remote import UNKNOWN, Entry, Remote

JOURNAL = ".fetched"
"""The index of fetched files: a line of JSON for each, of which the last one counts."""

_AT_ONCE = 16
"""Photos are small: a fetch mostly waits for the response."""


def mirror(
    remote: Remote,
    folder: Path,
    wanted: Callable[[str], bool],
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[str]:
    """Copy the wanted files under a URL to `folder`; return the names that were skipped.

    `progress` gets (files present, files in all). After a kill, the next call continues. Raises
    `RemoteUnusable`.
    """
    entries = remote.entries()
    safe, listed = _safe(entries), [name for name in entries if wanted(name)]
    there = {name: entries[name] for name in listed if name in safe}
    if not there:
        raise RemoteUnusable(f"{remote.url} holds no such files as are needed; check the address")
    known = _known(folder)
    for name in known.keys() - safe:
        (folder / name).unlink(missing_ok=True)
    _bring(remote, folder, there, progress)
    return sorted(set(listed) - safe)


def mirror_named(
    remote: Remote,
    folder: Path,
    names: Collection[str],
    looking: Callable[[int, int], None] = lambda *_: None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[str]:
    """Copy some files under a URL to `folder`, or return those that do not exist.

    If any is missing, nothing is fetched. `looking` gets (requests done, requests in all) before,
    `progress` (files present, files in all). Raises `RemoteUnusable`.
    """
    there = remote.look_up(_safe(names), looking)
    missing = sorted(set(names) - there.keys())
    if not missing:
        _bring(remote, folder, there, progress)
    return missing


def _bring(
    remote: Remote, folder: Path, there: dict[str, Entry], progress: Callable[[int, int], None]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    known = _known(folder)
    missing = [name for name, entry in there.items() if not _holds(folder, name, entry, known)]
    progress(len(there) - len(missing), len(there))
    with (
        (folder / JOURNAL).open("a", encoding="utf-8") as journal,
        ThreadPoolExecutor(_AT_ONCE) as threads,
    ):
        asked = {threads.submit(_fetch, remote, folder, n, there[n]): n for n in missing}
        try:
            for count, done in enumerate(as_completed(asked), 1):
                done.result()
                name = asked[done]
                # The line break comes first, to end a line that a crash may have cut.
                journal.write("\n" + json.dumps([name, there[name].size, there[name].version]))
                journal.flush()
                progress(len(there) - len(missing) + count, len(there))
        finally:
            threads.shutdown(cancel_futures=True)


def _safe(names: Iterable[str]) -> set[str]:
    """Return the names that are valid paths below a folder, none of them a folder of another."""
    plain = {name for name in names if _is_plain(name)}
    folders = {name[:end] for name in plain for end, mark in enumerate(name) if mark == "/"}
    return plain - folders


def _is_plain(name: str) -> bool:
    steps = name.split("/")
    fits = all(step not in ("", ".", "..") and len(step.encode()) <= 255 for step in steps)
    return fits and not any(mark in name for mark in "\\\0") and steps[0] != JOURNAL


def _known(folder: Path) -> dict[str, Entry]:
    known = {}
    with suppress(FileNotFoundError):
        for line in (folder / JOURNAL).read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # an empty line, or one that a crash cut off
                name, size, version = json.loads(line)
                known[name] = Entry(size, version)
    return known


def _holds(folder: Path, name: str, entry: Entry, known: dict[str, Entry]) -> bool:
    return known.get(name) == entry and _has_size(folder / name, entry)


def _has_size(file: Path, entry: Entry) -> bool:
    try:
        return file.stat().st_size == entry.size or (entry.size == UNKNOWN and file.is_file())
    except OSError:
        return False


def _fetch(remote: Remote, folder: Path, name: str, entry: Entry) -> None:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".fetching-{uuid.uuid4().hex}"
    try:
        if not remote.fetch(name, temporary) or not _has_size(temporary, entry):
            raise RemoteUnusable(f"{remote.url} changed while it was read ({name!r}); try again")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
