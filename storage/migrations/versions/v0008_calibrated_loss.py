"""Epochs: the loss that a search forecasts by; trials: a search explores in one way only."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add a column, empty for earlier epochs; branches and free suggestions were explorations."""
    op.add_column("encore_epochs", sa.Column("calibrated_loss", sa.Double))
    trials = sa.table("encore_trials", sa.column("role"))
    explored = trials.c.role.in_(["branch", "free"])
    op.execute(sa.update(trials).where(explored).values(role="explore"))
