"""Where things lie beside the database."""

from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

CACHE = ".cache"
"""The folder of decoded photos among the runs; no study can have its name."""


def runs_folder(url: str) -> Path:
    """Give the folder that holds the studies' files: the SQLite file's own, else `runs`.

    A URL that is none is `open_database`'s to refuse, not this one's.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return Path("runs")
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        return Path(parsed.database).parent
    return Path("runs")
