"""Use case `reproduce`: how weights were made, what has changed since, and making them again."""

import time
from dataclasses import dataclass

from storage.paths import CACHE, runs_folder
from storage.records import EpochRecord
from storage.redaction import redact
from storage.store import Store, open_store
from study.config.schema import StudyConfig
from study.datasets.freeze import freeze_data
from study.engines.setup import Setup
from study.errors import ConfigError
from study.events import Listener, noticing, telling
from study.provenance.drift import Drift, circumstances_now, drift_between
from study.provenance.lookup import FileState, FoundWeights, Origin, find
from study.provenance.record import Provenance, commands, finite, of_card, of_rows
from study.provenance.retrain import (
    compare_files,
    config_as_made,
    engine_as_made,
    settings_as_made,
    setup_as_made,
    train_again,
    workplace,
)
from trainers.data.manifest import DatasetError, Manifest, Split
from trainers.metrics import EpochNumbers

_DEFAULT = StudyConfig().storage
_COMPARED = ("device", "processor", "commit")
"""The parts of `made_by` that can drift: threads are set as they were, the rest are settings."""


@dataclass(frozen=True)
class Reproduction:
    """The result of training weights again, beside what was recorded of them.

    `identical` and `largest_difference` compare the tensors, None if no file is left.
    `other_predictions` counts validation photos whose predictions differ; `as_recorded` means that
    none does and the loss is bit-identical. All are None if training failed, which `failure`
    explains.
    """

    provenance: Provenance
    identical: bool | None
    largest_difference: float | None
    other_predictions: int | None
    as_recorded: bool | None
    photos: int
    score: float | None
    loss: float | None
    recorded_score: float | None
    recorded_loss: float | None
    seconds: float
    failure: str | None = None

    @property
    def reproduced(self) -> bool:
        """Whether the weights are the same, or the predictions if something has changed since.

        In an unchanged environment, different weights are a failure whatever they predict.
        """
        if self.identical or (self.identical is None and self.as_recorded):
            return True
        return self.other_predictions == 0 and self.may_differ

    @property
    def may_differ(self) -> bool:
        """Whether different bits can be explained.

        By drift, an unknown environment, or a GPU in non-deterministic mode.
        """
        made = self.provenance.made_by
        return (
            bool(self.provenance.drift)
            or not made
            or made.get("deterministic") == "no"
            or self.provenance.state is FileState.CHANGED
        )


def what_made(
    target: str,
    study: str | None = None,
    *,
    storage: str = _DEFAULT,
    device: str = "auto",
    listener: Listener = lambda _: None,
) -> Provenance:
    """Return how the best weights of a trial, or a weights file, were made.

    `target` is the trial's number or the file's path. Raises LookupError for anything else,
    `NotOurWeights` for a file that Encore did not write, `StudyNotFound` and the database's errors.
    """
    with open_store(storage, create=False) as store:
        return _trace(store, target, study, storage, device, listener).provenance


def reproduce(
    target: str,
    study: str | None = None,
    *,
    storage: str = _DEFAULT,
    device: str = "auto",
    listener: Listener = lambda _: None,
) -> Reproduction:
    """Train the same weights again, in a temporary folder beside the vault, and compare.

    Raises what `what_made` does, `DatasetError` where the data have changed, and LookupError for
    weights that the database does not know.
    """
    with open_store(storage, create=False) as store:
        traced = _trace(store, target, study, storage, device, listener)
        if isinstance(traced.data, DatasetError):
            raise traced.data
        if traced.found.origin is None or traced.data is None:
            raise LookupError(
                f"{redact(storage)} knows no trial that made {target!r}, so it cannot be made "
                "again; give the --storage of the search that did"
            )
        return _compared(store, traced, traced.found.origin, traced.data, listener)


@dataclass(frozen=True)
class _Traced:
    """Weights that were found, and the settings that make them again.

    `data` are those of their study, or the error in finding them.
    """

    found: FoundWeights
    provenance: Provenance
    config: StudyConfig
    setup: Setup
    data: Manifest | DatasetError | None = None


def _trace(
    store: Store, target: str, study: str | None, storage: str, device: str, listener: Listener
) -> _Traced:
    found = find(target, study, store, storage)
    origin, made_by = found.origin, found.made_by
    if origin is None:
        config = settings_as_made(StudyConfig(), made_by, device)
        setup = setup_as_made(config)
        card = of_card(found, _drift(found, setup), commands(found, storage))
        return _Traced(found, card, config, setup)
    config = config_as_made(store, origin.study, storage, made_by, device)
    setup = setup_as_made(config)
    drift, data = _drift(found, setup), _data(config, store, listener)
    if isinstance(data, DatasetError):
        drift = (Drift("data", "", str(data)), *drift)
    epoch = _epoch(store, origin)
    told = of_rows(found, origin, epoch, drift, commands(found, storage))
    return _Traced(found, told, config, setup, data)


def _data(config: StudyConfig, store: Store, listener: Listener) -> Manifest | DatasetError:
    try:
        return freeze_data(config, store, listener).manifest
    except DatasetError as error:
        return error


def _drift(found: FoundWeights, setup: Setup) -> tuple[Drift, ...]:
    """Return what differs from the card."""
    if found.card is None:
        return ()
    made_by = found.made_by
    then = found.card.packages | {k: v for k, v in made_by.items() if k in _COMPARED}
    device = setup.slots[0].device
    try:
        return drift_between(then, circumstances_now(device, made_by))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _epoch(store: Store, origin: Origin) -> EpochRecord:
    return next(e for e in store.epochs(origin.run.id) if e.epoch == origin.epoch)


def _compared(
    store: Store, traced: _Traced, origin: Origin, data: Manifest, listener: Listener
) -> Reproduction:
    """Train the weights again in a temporary folder, and compare."""
    runs, began = runs_folder(traced.config.storage), time.perf_counter()
    training = traced.setup.training(traced.config, data, runs / CACHE)
    told = telling(listener, "decoding photos")
    training.recipe.prepare(origin.prefix.stages, told, noticing(listener))
    made_by = traced.found.made_by
    with workplace(runs) as folder, engine_as_made(training, made_by) as engine:
        trained = train_again(origin, engine, folder, listener)
        old = traced.found.file if traced.found.sha256 else None
        same = compare_files(old, trained.file) if old and trained.epoch else None
    recorded, labels = _epoch(store, origin), data.labels(Split.VALID)
    metric, again = origin.study.metric, trained.epoch
    other = None
    if again is not None:
        before = store.predictions(origin.run.id, origin.epoch, labels)
        differ = before.predicted != again.evaluation.predicted
        other = int(differ.reshape(-1, data.n_questions).any(axis=1).sum())
    return Reproduction(
        provenance=traced.provenance,
        identical=same.identical if same else None,
        largest_difference=same.largest_difference if same else None,
        other_predictions=other,
        as_recorded=None if again is None else other == 0 and _same(again, recorded),
        photos=len(data.of_split(Split.VALID)),
        score=finite(again.score(metric)) if again else None,
        loss=finite(again.valid_loss) if again else None,
        recorded_score=finite(recorded.score(metric)),
        recorded_loss=finite(recorded.valid_loss),
        seconds=time.perf_counter() - began,
        failure=trained.failure,
    )


def _same(again: EpochNumbers, recorded: EpochNumbers) -> bool:
    return again.valid_loss == recorded.valid_loss
