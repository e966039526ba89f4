"""Locations of files: beside the database, or under a study's URL."""

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
"""Timeout of a remote vault when a user asks for weights, in seconds."""


def runs_folder(url: str) -> Path:
    """Return the folder that holds the studies' files: the SQLite file's own, else `runs`.

    An invalid URL is refused by `open_database`, not here.
    """
    file = sqlite_file(url)
    return file.parent if file is not None else Path("runs")


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite database's URL, None for others."""
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
    """Return the URL of a study's remote weights, None for a local folder.

    It includes the study's start: studies of one name, from several databases, may share a bucket.
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
    """Return the vault of a study; if it is remote, its local folder holds copies.

    `owner` is the token of the writing search.
    """
    url = vault_url(study)
    remote = Remote(url, give_up_after=give_up_after, say=say) if url else None
    return Vault(study_folder(storage, study), remote, owner)
