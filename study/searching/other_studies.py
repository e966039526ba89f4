"""Sharing stage runs with other studies of the database, so that they are not trained again."""

from collections.abc import Iterator, Sequence

from storage.paths import open_vault
from storage.records import Kind, StageRun, StudyRecord, Trial
from storage.store import Store
from study.config.schema import StudyConfig
from study.errors import ConfigError
from study.searching.checkpoints import Copied, WeightsFiles
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

    def twins(self, run: StageRun) -> list[StageRun]:
        """Return the same stage run of other studies, where they have trained it."""
        return self._store.twins(run, self._studies)

    def copy(
        self,
        twins: Sequence[StageRun],
        run: StageRun,
        trial: Trial,
        epochs_before: int,
        files: WeightsFiles,
        next_starts_from: Kind | None,
    ) -> Copied | None:
        """Copy the files of the first twin that has those which the next stage starts from.

        None if no other study has them. Any thread may call this; `WeightsFiles.take` has to
        follow.
        """
        for twin in twins:
            other = self._studies[twin.study_id]
            vault = open_vault(self._storage, other)
            copied = files.copy(
                run, trial, epochs_before, twin, other.name, vault, next_starts_from
            )
            if copied is not None:
                return copied
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
