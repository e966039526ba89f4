"""Everything that a report shows, read once: rows only, no torch, no Optuna."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from storage.errors import RemoteUnusable
from storage.paths import open_vault
from storage.predictions import StoredPredictions
from storage.records import EpochRecord, StageRun, StudyRecord, Trial
from storage.store import Store, open_store
from study.config.schema import StudyConfig
from study.datasets.download import at_hand
from study.errors import NothingToSelect
from study.formatting import score_text
from study.history.tree import ShownTree, show_tree
from study.searching.statuses import Statuses
from study.selection.best import Selector
from study.selection.result import Asked, Selection
from study.selection.schedule_ranking import ScheduleLine
from study.statistics.folds import Labels
from study.statistics.groups import Groups
from study.studies import find_study, manifest_of
from trainers.data.manifest import Manifest, Photo, Split
from trainers.errors import DatasetError

RUNNERS_UP = 5


@dataclass(frozen=True, eq=False)
class Contents:
    """The contents of a report.

    `manifest` and `tree` are None where the data set is not kept (a synthetic search). `selection`
    is the result of `best`; None if nothing can be selected, for the reason `unselected`. `trials`
    are in number order, `statuses` are theirs and those of the stage runs; `runs` and `epochs` are
    by the stage run's id; `links` gives by trial number the ids of the stage runs it has entered,
    in training order. `winner` is the selected trial, or else the best that has ended, and
    `predictions` are those of its best epoch. `check` is the document of `check-data` on this data,
    None if it was not run.
    """

    study: StudyRecord
    manifest: Manifest | None = field(repr=False)
    selection: Selection | None = field(repr=False)
    unselected: str
    trials: tuple[Trial, ...] = field(repr=False)
    statuses: Statuses
    runs: Mapping[int, StageRun] = field(repr=False)
    epochs: Mapping[int, tuple[EpochRecord, ...]] = field(repr=False)
    links: Mapping[int, tuple[int, ...]] = field(repr=False)
    tree: ShownTree | None = field(repr=False)
    winner: Trial | None = field(repr=False)
    predictions: StoredPredictions | None = field(repr=False)
    check: Mapping[str, Any] | None = field(repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes as they are: they are escaped where they are shown."""
        return self.manifest.classes if self.manifest else ()

    @cached_property
    def photos(self) -> tuple[Photo, ...]:
        """The validation photos, in the order of labels and predictions."""
        return self.manifest.of_split(Split.VALID) if self.manifest else ()

    @cached_property
    def labels(self) -> Labels:
        """The validation photos' true answers, as `Manifest.labels`: their classes, (n,)."""
        return self.manifest.labels(Split.VALID) if self.manifest else np.zeros(0, np.int64)

    @property
    def questions(self) -> int:
        """How many answers there are for each photo: one, or one a label."""
        return self.manifest.n_questions if self.manifest else 1

    def texts(self, answers: Labels) -> list[str]:
        """Return what is answered of each photo, as its label would be written."""
        return self.manifest.kind.texts(answers, self.classes) if self.manifest else []

    @property
    def groups(self) -> Groups | None:
        """The validation photos' groups, shape (n,), if they have any."""
        return self.manifest.groups(Split.VALID) if self.manifest else None

    @property
    def schedules(self) -> tuple[ScheduleLine, ...]:
        """The candidate schedules, the best first; none if nothing can be selected."""
        return self.selection.schedules if self.selection else ()

    @cached_property
    def ranked(self) -> tuple[Trial, ...]:
        """The trials by score and loss, the best first; those without a score come last."""
        metric = self.study.metric
        return tuple(sorted(self.trials, key=lambda t: (*metric.rank(*_numbers(t)), t.number)))

    def text(self, score: float | None) -> str:
        """Return a score by the study's metric as text."""
        return score_text(self.study.metric, score, len(self.photos))

    def epochs_of(self, number: int) -> list[EpochRecord]:
        """Return the epochs of a trial, all its stages in training order."""
        runs = self.links.get(number, ())
        return [epoch for run in runs for epoch in self.epochs.get(run, ())]


def read_contents(study: str | None = None, storage: str = StudyConfig().storage) -> Contents:
    """Read a study (by default the one used last), however far its search has come.

    Raises `StudyNotFound`, `ConfigError` and the database's errors.
    """
    with open_store(storage, create=False) as store:
        record = find_study(store, study)
        manifest = _manifest(store, record, storage)
        # A search may be running: later reads may contain more than earlier ones.
        trials, statuses = tuple(store.trials(record.id)), Statuses.of(store, record)
        links = _links(store.links(record.id))
        selection, unselected = _select(store, record, storage, manifest)
        winner = _winner(store, record, selection)
        return Contents(
            study=record,
            manifest=manifest,
            selection=selection,
            unselected=unselected,
            trials=trials,
            statuses=statuses,
            runs={run.id: run for run in store.stage_runs(record.id)},
            epochs=_epochs(store.epochs_of_study(record.id)),
            links=links,
            tree=show_tree(record.name, storage=storage) if manifest else None,
            winner=winner,
            predictions=_predictions(store, winner, manifest),
            check=store.check(record.manifest_digest),
        )


def _manifest(store: Store, record: StudyRecord, storage: str) -> Manifest | None:
    try:
        manifest = manifest_of(store, record)
    except LookupError:
        return None
    with suppress(RemoteUnusable, DatasetError):  # a page without photos is still useful
        return at_hand(manifest, record, storage)
    return manifest


def _select(
    store: Store, record: StudyRecord, storage: str, manifest: Manifest | None
) -> tuple[Selection | None, str]:
    if manifest is None:
        return None, f"the data set of study {record.name!r} is not kept: it has no photos"
    vault = open_vault(storage, record)
    try:
        return Selector(store, vault, record, Asked()).select(RUNNERS_UP), ""
    except NothingToSelect as error:
        return None, str(error)


def _winner(store: Store, record: StudyRecord, selection: Selection | None) -> Trial | None:
    if selection is not None:
        return store.trial(record.id, selection.trial)
    ranking = store.ranking(record)
    return next((each.trial for each in ranking if each.trial.score is not None), None)


def _predictions(
    store: Store, winner: Trial | None, manifest: Manifest | None
) -> StoredPredictions | None:
    if winner is None or manifest is None:
        return None
    if winner.best_stage_run is None or winner.best_epoch is None:
        return None
    labels = manifest.labels(Split.VALID)
    return store.predictions(winner.best_stage_run, winner.best_epoch, labels)


def _links(links: Iterable[tuple[int, int, int]]) -> dict[int, tuple[int, ...]]:
    found: dict[int, list[int]] = defaultdict(list)
    for number, _, run in sorted(links):
        found[number].append(run)
    return {number: tuple(runs) for number, runs in found.items()}


def _epochs(epochs: Iterable[EpochRecord]) -> dict[int, tuple[EpochRecord, ...]]:
    found: dict[int, list[EpochRecord]] = defaultdict(list)
    for epoch in epochs:
        found[epoch.stage_run_id].append(epoch)
    return {run: tuple(same) for run, same in found.items()}


def _numbers(trial: Trial) -> tuple[float, float]:
    nan = float("nan")
    return (
        nan if trial.score is None else trial.score,
        nan if trial.loss is None else trial.loss,
    )
