"""Stage runs: the study whose training they are, where that is another one of the database."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add a column, empty for what a study has trained itself."""
    op.add_column("encore_stage_runs", sa.Column("taken_from", sa.Text))
