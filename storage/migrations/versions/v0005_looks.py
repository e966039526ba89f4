"""Looks at the test photos."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "encore_looks",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(
            "study_id",
            sa.Integer,
            sa.ForeignKey("encore_studies.id", ondelete="CASCADE"),
            nullable=False,
            index=True,
        ),
        sa.Column("trial", sa.Integer, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("criterion", sa.String(32), nullable=False),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("errors", sa.Integer, nullable=False),
        sa.Column("photos", sa.Integer, nullable=False),
        sa.Column("looked_at", sa.DateTime(timezone=True), nullable=False),
    )
