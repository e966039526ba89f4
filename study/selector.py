"""Use case `best`: which weights, of all that any run left, and what is known of them.

Reads rows alone, so it answers at once: no torch, no Optuna.
"""

import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from storage.database import open_database
from storage.errors import StudyNotFound
from storage.places import runs_folder
from storage.records import RankedTrial, State, StudyRecord
from storage.store import Store
from storage.vault import Vault
from study.config import StudyConfig
from trainers.data.manifest import Manifest, Photo, Split
from trainers.metrics import ClassNumbers, Metric, confusion_matrix, per_class


class NothingToSelect(Exception):
    """No trial has left weights to choose from."""


@dataclass(frozen=True)
class Mistake:
    """A validation photo that the chosen weights get wrong."""

    path: str
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class RunnerUp:
    """Another trial's weights, with its schedule's mean over seeds."""

    trial: int
    seed: int
    score: float
    schedule_mean: float
    file: str


@dataclass(frozen=True)
class Selection:
    """The answer of `best`. `confusion` counts validation photos: row true, column predicted.

    `schedule_mean` and `schedule_spread` (sample standard deviation; None for one seed) are over
    the complete trials of the winner's schedule, whose scores `seed_scores` gives by seed.
    `damaged` names better files that were passed over, since they are missing or changed.
    """

    study: str
    trial: int
    seed: int
    file: str
    sha256: str
    metric: Metric
    score: float
    loss: float
    errors: int
    n_valid: int
    classes: tuple[str, ...]
    per_class: tuple[ClassNumbers, ...]
    confusion: list[list[int]]
    mistakes: tuple[Mistake, ...]
    schedule: dict[str, Any]
    schedule_digest: str
    stage: int
    epoch: int
    schedule_mean: float
    schedule_spread: float | None
    seed_scores: dict[int, float]
    trials: int
    runners_up: tuple[RunnerUp, ...]
    damaged: tuple[str, ...]


def best(
    study: str | None = None, *, storage: str = StudyConfig().storage, runners_up: int = 5
) -> Selection:
    """Choose the best weights of a study (by default the one used last).

    Raises `NothingToSelect`, `StudyNotFound` and the database's errors.
    """
    store = Store(open_database(storage, create=False))
    try:
        record = find_study(store, study)
        vault = Vault(runs_folder(storage) / record.name)
        return _select(store, vault, record, runners_up)
    finally:
        store.close()


def find_study(store: Store, name: str | None) -> StudyRecord:
    """Give a study by name, or the one used last."""
    if name is not None:
        return store.study(name)
    studies = store.studies()
    if not studies:
        raise StudyNotFound("the database holds no study yet; run `search` first")
    return studies[0]


def copy_weights(selection: Selection, folder: Path) -> Path:
    """Copy the chosen weights into a folder, whole or not at all; give where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(selection.file)
    target, temporary = folder / source.name, folder / f".{source.name}.{os.getpid()}.tmp"
    try:
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _select(store: Store, vault: Vault, study: StudyRecord, runners_up: int) -> Selection:
    # A score or loss that is no number is None: nothing to choose by.
    every = store.ranking(study)
    deleted = {(gone.stage_run_id, gone.epoch) for gone in store.deletions(study.id)}
    ranking = [
        r
        for r in every
        if None not in (r.trial.score, r.trial.loss)
        and (r.checkpoint or (r.trial.best_stage_run, r.trial.best_epoch) not in deleted)
    ]
    damaged: list[str] = []
    for place, ranked in enumerate(ranking):
        kept = ranked.checkpoint
        if kept is not None and vault.verify(kept.path, kept.sha256):
            others = _distinct(ranking[place + 1 :], kept.path)[:runners_up]
            return _selection(store, vault, study, ranked, others, damaged, _scores(every))
        name = kept.path if kept else f"trial {ranked.trial.number}"
        if name not in damaged:  # trials may share a file
            damaged.append(name)
    if damaged:
        raise NothingToSelect(
            f"study {study.name!r} has no whole weights file left: {len(damaged)} are missing or "
            "changed; restore them, or search anew under another --study"
        )
    raise NothingToSelect(f"no trial of study {study.name!r} has finished yet; let `search` run on")


def _distinct(ranking: Sequence[RankedTrial], winner: str) -> list[tuple[RankedTrial, str]]:
    """Give trials with the paths of their files, each file once: trials may share a stage run."""
    seen, found = {winner}, []
    for ranked in ranking:
        if ranked.checkpoint is not None and ranked.checkpoint.path not in seen:
            seen.add(ranked.checkpoint.path)
            found.append((ranked, ranked.checkpoint.path))
    return found


def _selection(
    store: Store,
    vault: Vault,
    study: StudyRecord,
    winner: RankedTrial,
    others: Sequence[tuple[RankedTrial, str]],
    damaged: Sequence[str],
    by_schedule: dict[str, dict[int, float]],
) -> Selection:
    trial, kept = winner.trial, winner.checkpoint
    if kept is None or trial.best_epoch is None or trial.score is None or trial.loss is None:
        raise ValueError(f"winner must have weights and a score, got trial {trial.number}")
    record = store.manifest(study.manifest_digest)
    manifest = Manifest.from_json(record.document, Path(record.root))
    labels = manifest.labels(Split.VALID)
    predictions = store.predictions(kept.stage_run_id, trial.best_epoch, labels)
    confusion = confusion_matrix(labels, predictions.predicted, len(manifest.classes))
    wrong = np.flatnonzero(predictions.predicted != labels)
    photos = manifest.of_split(Split.VALID)
    scores = by_schedule[trial.schedule_digest]
    run = store.stage_runs_of(trial.id)
    return Selection(
        study=study.name,
        trial=trial.number,
        seed=trial.seed,
        file=str(_shown(vault.path(kept.path))),
        sha256=kept.sha256,
        metric=study.metric,
        score=trial.score,
        loss=trial.loss,
        errors=len(wrong),
        n_valid=len(labels),
        classes=manifest.classes,
        per_class=tuple(per_class(confusion)),
        confusion=confusion.tolist(),
        mistakes=tuple(
            _mistake(photos[i], manifest, int(predictions.predicted[i]), predictions.confidence[i])
            for i in wrong
        ),
        schedule=trial.schedule.to_dict(),
        schedule_digest=trial.schedule_digest,
        stage=next(r.position for r in run if r.id == kept.stage_run_id),
        epoch=trial.best_epoch,
        schedule_mean=fmean(scores.values()),
        schedule_spread=stdev(scores.values()) if len(scores) > 1 else None,
        seed_scores=dict(sorted(scores.items())),
        trials=len(store.trials(study.id)),
        runners_up=tuple(
            RunnerUp(
                trial=ranked.trial.number,
                seed=ranked.trial.seed,
                score=ranked.trial.score or 0.0,
                schedule_mean=fmean(by_schedule[ranked.trial.schedule_digest].values()),
                file=str(_shown(vault.path(path))),
            )
            for ranked, path in others
        ),
        damaged=tuple(damaged),
    )


def _scores(ranking: Sequence[RankedTrial]) -> dict[str, dict[int, float]]:
    """Give each schedule's scores by seed: those of complete trials, if it has any."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    trials = [ranked.trial for ranked in ranking]
    complete = {trial.schedule_digest for trial in trials if trial.state is State.COMPLETE}
    for trial in trials:
        counts = trial.state is State.COMPLETE or trial.schedule_digest not in complete
        if counts and trial.score is not None:
            found[trial.schedule_digest][trial.seed] = trial.score
    return found


def _mistake(photo: Photo, manifest: Manifest, predicted: int, probability: float) -> Mistake:
    label = manifest.classes[photo.label]
    return Mistake(photo.path, label, manifest.classes[predicted], float(probability))


def _shown(path: Path) -> Path:
    """Give a path as a person in the current folder would write it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
