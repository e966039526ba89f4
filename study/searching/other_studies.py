"""Sharing stage runs with other studies of the database, so that they are not trained again."""

from collections.abc import Iterator

from storage.paths import open_vault
from storage.records import Kind, StageRun, StudyRecord, Trial
from storage.store import Store
from study.config.schema import StudyConfig
from study.errors import ConfigError
from study.searching.checkpoints import WeightsFiles
from study.stage_tree import Trained
from study.studies import stored_config

_TRAINED_BY = ("metric", "costs", "trainer", "precision", "compile", "deterministic")
"""The settings beside schedule, seed and data that a stage run's weights and numbers depend on."""


class OtherStudies:
    """The other studies with equal training settings, as known now.

    A custom trainer shares nothing: its code may have changed since.
    """

    def __init__(self, store: Store, study: StudyRecord, config: StudyConfig) -> None:
        self._store, self._storage = store, config.storage
        self._studies = {} if config.trainer else {s.id: s for s in self._alike(study, config)}

    def take(
        self,
        run: StageRun,
        trial: Trial,
        epochs_before: int,
        files: WeightsFiles,
        next_starts_from: Kind | None,
    ) -> tuple[str, Trained] | None:
        """End a stage run that was not begun with the result from another study.

        Return that study's name and the result; None if no other study has it with the weights that
        the next stage starts from.
        """
        for twin in self._store.twins(run, self._studies):
            other = self._studies[twin.study_id]
            vault = open_vault(self._storage, other)
            trained = files.take(
                run, trial, epochs_before, twin, other.name, vault, next_starts_from
            )
            if trained is not None:
                return other.name, trained
        return None

    def _alike(self, study: StudyRecord, config: StudyConfig) -> Iterator[StudyRecord]:
        for other in self._store.studies():
            same_data = other.manifest_digest == study.manifest_digest
            if other.id != study.id and same_data and self._trains_alike(other, config):
                yield other

    def _trains_alike(self, other: StudyRecord, config: StudyConfig) -> bool:
        try:
            theirs = stored_config(other, self._storage)
        except ConfigError:  # settings of an Encore that is newer, or was older
            return False
        return all(getattr(theirs, name) == getattr(config, name) for name in _TRAINED_BY)
