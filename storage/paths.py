"""Where things lie: beside the database, or under a study's URL."""

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from storage.records import StudyRecord
from storage.remote import Remote
from storage.vault import NOBODY, Vault

CACHE = ".cache"
"""The folder of decoded photos among the runs; no study can have its name."""

READ_WITHIN = 10.0
"""Seconds that a person who asks for weights waits for a vault that does not answer."""


def runs_folder(url: str) -> Path:
    """Return the folder that holds the studies' files: the SQLite file's own, else `runs`.

    A URL that is none is `open_database`'s to refuse, not this one's.
    """
    file = sqlite_file(url)
    return file.parent if file is not None else Path("runs")


def sqlite_file(url: str) -> Path | None:
    """Return the file that a database's URL names, if it is one of SQLite's."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return None
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        return Path(parsed.database)
    return None


def study_folder(storage: str, study: StudyRecord) -> Path:
    """Return the folder that holds a study's files, or copies of them."""
    return runs_folder(storage) / study.place


def vault_url(study: StudyRecord) -> str | None:
    """Return the URL that a study's weights are kept under, if it is not this machine's folder.

    It tells when the study began: studies of one name, of several databases, may share a bucket.
    """
    url = study.config.get("vault")
    return url and f"{url}/{study.name}-{study.created_at:%Y%m%dT%H%M%S%f}"


def open_vault(
    storage: str,
    study: StudyRecord,
    *,
    owner: str = NOBODY,
    give_up_after: float = READ_WITHIN,
    say: Callable[[str], None] = lambda _: None,
) -> Vault:
    """Return the vault of a study; where it lies under a URL, its folder here holds copies.

    `owner` is the token of who writes there.
    """
    url = vault_url(study)
    remote = Remote(url, give_up_after=give_up_after, say=say) if url else None
    return Vault(study_folder(storage, study), remote, owner)
