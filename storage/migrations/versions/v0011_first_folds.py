"""Stage runs: what one came to on its first folds that was stopped after them."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add two columns, empty for all that was not stopped so."""
    op.add_column("encore_stage_runs", sa.Column("first_score", sa.Double))
    op.add_column("encore_stage_runs", sa.Column("first_loss", sa.Double))
