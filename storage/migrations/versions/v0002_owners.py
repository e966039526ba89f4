"""Owners: which process searches a study."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the owners' table."""
    op.create_table(
        "encore_owners",
        sa.Column(
            "study_id",
            sa.Integer,
            sa.ForeignKey("encore_studies.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("born", sa.Text),
        sa.Column("token", sa.String(64), nullable=False),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("heartbeat_at", TIME, nullable=False),
    )
