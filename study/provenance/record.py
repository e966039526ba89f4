"""The record of how weights were made, from the database's rows and the file's own card."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.records import Deletion, EpochRecord
from study.config.schema import StudyConfig
from study.invocation import FROM_PYTHON, hint
from study.provenance.drift import Drift
from study.provenance.lookup import FileState, FoundWeights, Origin
from study.stage_text import schedule_text
from trainers.metrics import Metric
from trainers.schedule import Schedule

_NUMBERS = ("train_loss", "valid_loss", "accuracy", "balanced_accuracy", "f1")


@dataclass(frozen=True)
class Provenance:
    """How weights were made, according to the database and the file's own card.

    `study`, `trial`, `metric` and `score` are None if the database does not know them; the
    `metrics` are then the card's. `stage` counts from 0, `epoch` from 1. `made_by` and `packages`
    are empty without a card. `drift` is what differs now, `how` are the commands that make the
    weights again.
    """

    study: str | None
    trial: int | None
    file: str | None
    state: FileState
    sha256: str | None
    recorded_sha256: str | None
    deleted_because: str | None
    seed: int
    stage: int
    epoch: int
    metric: Metric | None
    score: float | None
    metrics: dict[str, float]
    schedule: dict[str, Any]
    schedule_text: str
    schedule_digest: str
    manifest_digest: str
    made_by: dict[str, str]
    packages: dict[str, str]
    drift: tuple[Drift, ...]
    how: tuple[str, ...]


def of_rows(
    found: FoundWeights,
    origin: Origin,
    epoch: EpochRecord,
    drift: tuple[Drift, ...],
    how: tuple[str, ...],
) -> Provenance:
    """Make a record from the database, and the card beside it."""
    row, schedule, metric = origin.row, origin.prefix, origin.study.metric
    return Provenance(
        study=origin.study.name,
        trial=origin.trial.number,
        file=str(found.file) if found.file else None,
        state=found.state,
        sha256=found.sha256,
        recorded_sha256=row.sha256 if row else None,
        deleted_because=row.reason if isinstance(row, Deletion) else None,
        seed=origin.trial.seed,
        stage=origin.run.position,
        epoch=origin.epoch,
        metric=metric,
        score=finite(epoch.score(metric)),
        metrics=_numbers({name: getattr(epoch, name) for name in _NUMBERS}),
        schedule=schedule.to_dict(),
        schedule_text=schedule_text(schedule),
        schedule_digest=schedule.digest,
        manifest_digest=origin.study.manifest_digest,
        made_by=found.made_by,
        packages=dict(found.card.packages) if found.card else {},
        drift=drift,
        how=how,
    )


def of_card(found: FoundWeights, drift: tuple[Drift, ...], how: tuple[str, ...]) -> Provenance:
    """Make a record from a file's card, if the database does not know it."""
    card = found.card
    if card is None:
        raise ValueError(f"weights must have a card or a row, got {found.file}")
    schedule = Schedule.from_dict(card.schedule)
    return Provenance(
        study=None,
        trial=None,
        file=str(found.file),
        state=found.state,
        sha256=found.sha256,
        recorded_sha256=None,
        deleted_because=None,
        seed=card.seed,
        stage=card.stage,
        epoch=card.epoch,
        metric=None,
        score=None,
        metrics=_numbers(card.metrics),
        schedule=schedule.to_dict(),
        schedule_text=schedule_text(schedule),
        schedule_digest=schedule.digest,
        manifest_digest=card.manifest_digest,
        made_by=found.made_by,
        packages=dict(card.packages),
        drift=drift,
        how=how,
    )


def commands(found: FoundWeights, storage: str) -> tuple[str, ...]:
    """Return the commands that make the weights again: the search's, if it is known, and ours."""
    typed, origin = found.made_by.get("command", ""), found.origin
    known = (typed,) if typed not in ("", FROM_PYTHON) else ()
    if origin is None:
        return known
    words = ["reproduce", "--run"]
    if origin.is_the_trial_s_best:
        words += [str(origin.trial.number), "--study", origin.study.name]
    else:
        words.append(str(found.file))
    if storage != StudyConfig().storage:
        words += ["--storage", storage]
    return (*known, hint(*words))


def finite(number: float) -> float | None:
    """Return a number for JSON; NaN and infinity become None."""
    return number if math.isfinite(number) else None


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return only the values that are numbers: a file may claim anything."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if type(value) in (int, float) and math.isfinite(value)
    }
