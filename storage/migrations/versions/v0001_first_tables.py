"""Studies, manifests, trials, stage runs, epochs, predictions, checkpoints."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create all tables but the owners'."""
    _create_studies_and_manifests()
    _create_stage_runs()
    _create_trials()
    _create_epochs()
    op.create_table(
        "encore_checkpoints",
        _parent("stage_run_id", "encore_stage_runs.id", primary_key=True),
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("score", sa.Double),
    )


def _parent(name: str, target: str, *, primary_key: bool = False) -> sa.Column[int]:
    reference = sa.ForeignKey(target, ondelete="CASCADE")
    return sa.Column(name, sa.Integer, reference, primary_key=primary_key, nullable=False)


def _create_studies_and_manifests() -> None:
    op.create_table(
        "encore_studies",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("metric", sa.String(32), nullable=False),
        sa.Column("manifest_digest", sa.String(64), nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("space", sa.JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("used_at", TIME, nullable=False),
    )
    op.create_table(
        "encore_manifests",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("root", sa.Text, nullable=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
    )


def _create_stage_runs() -> None:
    op.create_table(
        "encore_stage_runs",
        sa.Column("id", sa.Integer, primary_key=True),
        _parent("study_id", "encore_studies.id"),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("image_size", sa.Integer, nullable=False),
        sa.Column("epochs", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("trial_number", sa.Integer, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("finished_at", TIME),
        sa.UniqueConstraint("study_id", "key"),
    )


def _create_trials() -> None:
    op.create_table(
        "encore_trials",
        sa.Column("id", sa.Integer, primary_key=True),
        _parent("study_id", "encore_studies.id"),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("schedule_digest", sa.String(64), nullable=False),
        sa.Column("schedule", sa.Text, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("score", sa.Double),
        sa.Column("loss", sa.Double),
        sa.Column(
            "best_stage_run",
            sa.Integer,
            sa.ForeignKey("encore_stage_runs.id", ondelete="SET NULL"),
        ),
        sa.Column("best_epoch", sa.Integer),
        sa.Column("failure", sa.Text),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("finished_at", TIME),
        sa.UniqueConstraint("study_id", "number"),
        sa.Index(None, "study_id", "schedule_digest"),
    )
    op.create_table(
        "encore_trial_stages",
        _parent("trial_id", "encore_trials.id", primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        _parent("stage_run_id", "encore_stage_runs.id"),
        sa.Index(None, "stage_run_id"),
    )


def _create_epochs() -> None:
    op.create_table(
        "encore_epochs",
        _parent("stage_run_id", "encore_stage_runs.id", primary_key=True),
        sa.Column("epoch", sa.Integer, primary_key=True),
        sa.Column("cycle", sa.Integer, nullable=False),
        sa.Column("lrs", sa.JSON, nullable=False),
        sa.Column("train_loss", sa.Double),
        sa.Column("valid_loss", sa.Double),
        sa.Column("accuracy", sa.Double),
        sa.Column("balanced_accuracy", sa.Double),
        sa.Column("f1", sa.Double),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("images_per_second", sa.Double, nullable=False),
    )
    op.create_table(
        "encore_predictions",
        sa.Column("stage_run_id", sa.Integer, primary_key=True),
        sa.Column("epoch", sa.Integer, primary_key=True),
        sa.Column("form", sa.String(16), nullable=False),
        sa.Column("blob", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(
            ["stage_run_id", "epoch"],
            ["encore_epochs.stage_run_id", "encore_epochs.epoch"],
            ondelete="CASCADE",
        ),
    )
