"""The revision of a database's tables, and upgrades to the newest.

Alembic is imported only for an upgrade: reading an up-to-date database must stay fast.
"""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from storage.tables import PREFIX

REVISIONS = tuple(f"{number:04}" for number in range(1, 12))
"""All revisions in order, as in `migrations/versions`; the last is what `tables` describes."""

VERSION_TABLE = "encore_version"
"""The table with our revision; `alembic_version` is Optuna's."""

OPTUNAS = frozenset(
    {
        "alembic_version",
        "studies",
        "study_directions",
        "study_system_attributes",
        "study_user_attributes",
        "trial_heartbeats",
        "trial_intermediate_values",
        "trial_params",
        "trial_system_attributes",
        "trial_user_attributes",
        "trial_values",
        "trials",
        "version_info",
    }
)
"""The names of Optuna's tables."""


def current(connection: Connection) -> str | None:
    """Return the database's revision, or None where it has no tables of ours."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    # The table's name is a constant of ours.
    query = text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608
    return connection.execute(query).scalar()


def strangers(connection: Connection) -> list[str]:
    """Return the tables that are neither ours nor Optuna's.

    Many programs have an `alembic_version`, and what two of them write there ruins both.
    """
    found = inspect(connection).get_table_names()
    theirs = OPTUNAS if "version_info" in found else frozenset()
    return sorted(n for n in found if n not in theirs and not n.startswith(PREFIX))


def upgrade(connection: Connection, target: str = REVISIONS[-1]) -> None:
    """Upgrade the tables to the revision `target`, within the open transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    folder = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, target)
