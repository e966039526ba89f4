"""The owner of a folder: a marker file names the study whose weights it holds, here or remotely."""

import uuid
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryDirectory

from storage.errors import RemoteUnusable
from storage.paths import runs_folder, vault_url
from storage.records import StudyRecord
from storage.remote import GIVE_UP_AFTER, Remote
from storage.store import Store
from storage.vault import Vault, appear

MARKER = ".encore-study"
"""The file's name; its first line is the study's mark, the rest is for humans."""


def settle(
    store: Store, storage: str, study: StudyRecord, say: Callable[[str], None]
) -> StudyRecord:
    """Return a study before its search, with a folder of its own; `say` reports a changed name.

    Raises `RemoteUnusable` if its remote folder is another study's.
    """
    if url := vault_url(study):
        _mark_remote(Remote(url, give_up_after=GIVE_UP_AFTER, say=say), study)
    runs = runs_folder(storage)
    others = {other.place for other in store.studies() if other.id != study.id}
    names = chain([study.place], (f"{study.name}-{number}" for number in count(2)))
    name = next(n for n in names if n not in others and _is_mine(store, runs / n, study))
    if name != study.place:
        say(
            f"{runs / study.place} holds the weights of another study; those of this one are kept "
            f"in {runs / name}"
        )
    if name != study.folder:
        store.move_study(study.id, name)
    return replace(study, folder=name)


def owner_of(folder: Path) -> str | None:
    """Return the mark of a folder's study, if there is one."""
    try:
        with (folder / MARKER).open(encoding="utf-8", errors="replace") as file:
            return file.readline(100).strip()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_mine(store: Store, folder: Path, study: StudyRecord) -> bool:
    """Whether a folder is the study's; one without an owner becomes the study's.

    Two studies that an earlier version put into one folder both stay there.
    """
    if owner_of(folder) is None and (study.identity is None or not Vault(folder).strays(set())):
        _mark(folder, study)
    if owner_of(folder) == study.mark:
        return True
    vault = Vault(folder)
    kept = store.checkpoints(study.id)
    if not any(vault.has(file.path, file.sha256) for file in kept):
        return False
    _mark(folder, study)
    return True


def _mark(folder: Path, study: StudyRecord) -> None:
    """Claim a folder for a study unless it has an owner, atomically, as others may look."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{MARKER}-{uuid.uuid4().hex}"
    try:
        temporary.write_text(_text(study), encoding="utf-8")
        appear(temporary, folder / MARKER)
    finally:
        temporary.unlink(missing_ok=True)


def _mark_remote(remote: Remote, study: StudyRecord) -> None:
    with TemporaryDirectory() as folder:
        marker = Path(folder, MARKER)
        if not remote.has(MARKER):
            marker.write_text(_text(study), encoding="utf-8")
            remote.send(marker, MARKER)
        remote.fetch(MARKER, marker)
        if owner_of(Path(folder)) != study.mark:
            raise RemoteUnusable(
                f"{remote.url} holds the weights of another study; give this one another --vault"
            )


def _text(study: StudyRecord) -> str:
    began = f"{study.created_at:%Y-%m-%d %H:%M:%S} UTC"
    return (
        f"{study.mark}\nThis folder holds the weights of study {study.name!r}, begun {began}.\n"
        "Other studies leave it alone because of this file.\n"
    )
