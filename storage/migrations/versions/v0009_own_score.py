"""Epochs: the value of a search's metric, where that has no column of its own."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add a column, empty for earlier epochs."""
    op.add_column("encore_epochs", sa.Column("own_score", sa.Double))
