"""The tables. All begin with `encore_`: Optuna's own live in the same database.

A change here needs a revision in `migrations/versions`; a test compares the two.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

PREFIX = "encore_"
"""The prefix of our tables' names."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC; plain SQLite would drop the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(
        self,
        value: datetime | None,
        dialect: Dialect,  # noqa: ARG002 - the signature is SQLAlchemy's
    ) -> datetime | None:
        """Refuse a naive datetime, store the others in UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a datetime must have a time zone, got {value!r}")
        return value.astimezone(UTC)

    def process_result_value(
        self,
        value: datetime | None,
        dialect: Dialect,  # noqa: ARG002 - the signature is SQLAlchemy's
    ) -> datetime | None:
        """Restore the zone that SQLite dropped."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """What all tables share: how constraints are named and which types stand for Python's."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it as a plain class attribute
        datetime: UtcDateTime(),
        float: Double(),
        dict[str, Any]: JSON(),
        list[float]: JSON(),
    }


def is_ours(name: str | None, kind: str, _parents: object) -> bool:
    """Select the names for Alembic, so that it never touches Optuna's tables."""
    return kind != "table" or (name or "").startswith(PREFIX)


def _parent(column: str, *, ondelete: str = "CASCADE") -> ForeignKey:
    return ForeignKey(PREFIX + column, ondelete=ondelete)


class StudyRow(Base):
    """One study. Its manifest need not be stored: a synthetic search has none."""

    __tablename__ = "encore_studies"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
    metric: Mapped[str] = mapped_column(String(32))
    manifest_digest: Mapped[str] = mapped_column(String(64))
    config: Mapped[dict[str, Any]]
    space: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    used_at: Mapped[datetime]
    identity: Mapped[str | None] = mapped_column(String(32))
    folder: Mapped[str | None] = mapped_column(Text)


class ManifestRow(Base):
    """One manifest; `document` is zlib-compressed JSON."""

    __tablename__ = "encore_manifests"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    root: Mapped[str] = mapped_column(Text)
    document: Mapped[bytes] = mapped_column(LargeBinary)


class StageRunRow(Base):
    """One stage run; `key` says what was trained."""

    __tablename__ = "encore_stage_runs"
    __table_args__ = (UniqueConstraint("study_id", "key"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(_parent("studies.id"))
    key: Mapped[str] = mapped_column(String(64))
    position: Mapped[int]
    seed: Mapped[int] = mapped_column(BigInteger)
    image_size: Mapped[int]
    epochs: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    trial_number: Mapped[int]
    seconds: Mapped[float]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    taken_from: Mapped[str | None] = mapped_column(Text)
    first_score: Mapped[float | None]
    first_loss: Mapped[float | None]


class TrialRow(Base):
    """One trial; `schedule` is its canonical JSON, `schedule_digest` what repeats share."""

    __tablename__ = "encore_trials"
    __table_args__ = (
        UniqueConstraint("study_id", "number"),
        Index(None, "study_id", "schedule_digest"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(_parent("studies.id"))
    number: Mapped[int]
    schedule_digest: Mapped[str] = mapped_column(String(64))
    schedule: Mapped[str] = mapped_column(Text)
    seed: Mapped[int] = mapped_column(BigInteger)
    role: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    score: Mapped[float | None]
    loss: Mapped[float | None]
    best_stage_run: Mapped[int | None] = mapped_column(
        _parent("stage_runs.id", ondelete="SET NULL")
    )
    best_epoch: Mapped[int | None]
    failure: Mapped[str | None] = mapped_column(Text)
    seconds: Mapped[float]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class TrialStageRow(Base):
    """Which stage run a trial uses at a position."""

    __tablename__ = "encore_trial_stages"
    trial_id: Mapped[int] = mapped_column(_parent("trials.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    stage_run_id: Mapped[int] = mapped_column(_parent("stage_runs.id"), index=True)


class EpochRow(Base):
    """One epoch. A loss that is not a number is NULL, as SQLite knows no other."""

    __tablename__ = "encore_epochs"
    stage_run_id: Mapped[int] = mapped_column(_parent("stage_runs.id"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    cycle: Mapped[int]
    lrs: Mapped[list[float]]
    train_loss: Mapped[float | None]
    valid_loss: Mapped[float | None]
    accuracy: Mapped[float | None]
    balanced_accuracy: Mapped[float | None]
    f1: Mapped[float | None]
    seconds: Mapped[float]
    images_per_second: Mapped[float]
    data_wait: Mapped[float | None]
    micro_batch: Mapped[int | None]
    calibrated_loss: Mapped[float | None]
    own_score: Mapped[float | None]


class PredictionsRow(Base):
    """An epoch's predictions, packed by `storage.predictions`."""

    __tablename__ = "encore_predictions"
    __table_args__ = (
        ForeignKeyConstraint(
            ["stage_run_id", "epoch"],
            ["encore_epochs.stage_run_id", "encore_epochs.epoch"],
            ondelete="CASCADE",
        ),
    )
    stage_run_id: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    form: Mapped[str] = mapped_column(String(16))
    blob: Mapped[bytes] = mapped_column(LargeBinary)


class CheckpointRow(Base):
    """A weights file that a stage run left in the vault."""

    __tablename__ = "encore_checkpoints"
    stage_run_id: Mapped[int] = mapped_column(_parent("stage_runs.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    path: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    epoch: Mapped[int]
    score: Mapped[float | None]


class DeletionRow(Base):
    """A weights file that was deleted on purpose, with its checkpoint's columns."""

    __tablename__ = "encore_deletions"
    id: Mapped[int] = mapped_column(primary_key=True)
    stage_run_id: Mapped[int] = mapped_column(_parent("stage_runs.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    path: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    epoch: Mapped[int]
    score: Mapped[float | None]
    reason: Mapped[str] = mapped_column(Text)
    deleted_at: Mapped[datetime]


class NameRow(Base):
    """A name in a study's vault, used for one file or folder and never again.

    While `pending`, it may exist without another row: the next search cleans it up.
    """

    __tablename__ = "encore_names"
    study_id: Mapped[int] = mapped_column(_parent("studies.id"), primary_key=True)
    path: Mapped[str] = mapped_column(Text, primary_key=True)
    sha256: Mapped[str | None] = mapped_column(String(64))
    pending: Mapped[bool]


class LookRow(Base):
    """A look at the test photos: scores of weights chosen after it are less independent."""

    __tablename__ = "encore_looks"
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(_parent("studies.id"), index=True)
    trial: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    criterion: Mapped[str] = mapped_column(String(32))
    score: Mapped[float]
    errors: Mapped[int]
    photos: Mapped[int]
    looked_at: Mapped[datetime]


class CheckRow(Base):
    """What the data gate found in a data set, as JSON."""

    __tablename__ = "encore_checks"
    manifest_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    document: Mapped[str] = mapped_column(Text)
    made_at: Mapped[datetime]


class OwnerRow(Base):
    """The process that searches a study; no row where none does."""

    __tablename__ = "encore_owners"
    study_id: Mapped[int] = mapped_column(_parent("studies.id"), primary_key=True)
    host: Mapped[str] = mapped_column(Text)
    pid: Mapped[int]
    born: Mapped[str | None] = mapped_column(Text)
    token: Mapped[str] = mapped_column(String(64))
    command: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]
