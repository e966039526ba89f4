"""Epochs: how long they waited for data, and whether memory was short."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add two columns; earlier epochs were not measured, and never split."""
    op.add_column("encore_epochs", sa.Column("data_wait", sa.Double))
    op.add_column("encore_epochs", sa.Column("micro_batch", sa.Integer))
