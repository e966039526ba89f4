"""Whose a folder is, and which names were given in it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add what a study's folder is known by, and the table of names."""
    op.add_column("encore_studies", sa.Column("identity", sa.String(32)))
    op.add_column("encore_studies", sa.Column("folder", sa.Text))
    op.create_table(
        "encore_names",
        sa.Column(
            "study_id",
            sa.Integer,
            sa.ForeignKey("encore_studies.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("sha256", sa.String(64)),
        sa.Column("pending", sa.Boolean, nullable=False),
    )
