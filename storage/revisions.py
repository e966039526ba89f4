"""Which revision of the tables a database has, and how it gets the newest.

Alembic is imported only for an upgrade: to read an up-to-date database must stay fast.
"""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

REVISIONS = ("0001", "0002", "0003", "0004", "0005")
"""All revisions in order, as in `migrations/versions`; the last is what `tables` describes."""

VERSION_TABLE = "encore_version"
"""Where our revision stands; `alembic_version` is Optuna's."""


def current(connection: Connection) -> str | None:
    """Give the database's revision, or None where it has no tables of ours."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    # The table's name is a constant of ours.
    query = text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608
    return connection.execute(query).scalar()


def upgrade(connection: Connection, target: str = REVISIONS[-1]) -> None:
    """Bring the tables to the revision `target`, within the transaction that is open."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    folder = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, target)
