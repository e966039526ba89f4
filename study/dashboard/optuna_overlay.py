"""Optuna's storage and artifact store as the dashboard sees them: with our notes and pictures.

They are added when Optuna's data are read and never written, so that a running search never waits
for them. What users write themselves is stored as usual.
"""

import json
from collections.abc import Container, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import RDBStorage
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from storage.errors import RemoteUnusable
from study.dashboard.artifacts import Addresses, Exhibit, Exhibits
from study.dashboard.parameters import lay_over

_ARTIFACT = "artifacts:"  # the prefix under which optuna.artifacts stores a trial's artifacts

_NOTE = "dashboard:note_"
_VERSION = f"{_NOTE}ver"

Attributes = dict[str, Any]


class DecoratedStorage(RDBStorage):
    """Gives each trial that has ended its exhibits as artifacts, and a note."""

    def __init__(self, exhibits: Exhibits, url: str, engine_kwargs: Attributes) -> None:
        self._exhibits = exhibits
        super().__init__(url, engine_kwargs=engine_kwargs)

    def get_all_studies(self) -> list[FrozenStudy]:
        """Return the studies, with the notes on their winners and trials."""
        studies = super().get_all_studies()
        winners = self._exhibits.winners()
        for study in studies:
            study.system_attrs.update(self._notes(study._study_id, study.system_attrs, winners))
        return studies

    def get_study_system_attrs(self, study_id: int) -> Attributes:
        """Return Optuna's attributes of a study, and the notes on its winner and trials."""
        own = super().get_study_system_attrs(study_id)
        return own | self._notes(study_id, own, self._exhibits.winners())

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Return the trials, with their exhibits, and their schedules as parameters."""
        trials = super().get_all_trials(study_id, deepcopy, states)
        study = self._exhibits.known(self.get_study_name_from_id(study_id))
        found = self._exhibits.of(study) if study else {}
        if study:
            lay_over(trials, self._exhibits.schedules(study))
        waiting = self._exhibits.waiting(study) if study else frozenset()
        for trial in trials:
            if trial.number in waiting and trial.state is TrialState.RUNNING:
                trial.state = TrialState.WAITING
            trial.system_attrs.update(_artifacts(found.get(trial.number, {})))
        return trials

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """Return the trial with the best value, as `get_all_trials` shows it."""
        best = super().get_best_trial(study_id)
        shown = self.get_all_trials(study_id, deepcopy=False)
        return next((each for each in shown if each.number == best.number), best)

    def get_trial_system_attrs(self, trial_id: int) -> Attributes:
        """Return Optuna's attributes of a trial, and its exhibits."""
        own = super().get_trial_system_attrs(trial_id)
        number = self.get_trial_number_from_id(trial_id)
        study = self._exhibits.known(self.get_study_name_from_id(self._study_of(trial_id)))
        return own | _artifacts(self._exhibits.of(study).get(number, {}) if study else {})

    def _notes(self, study_id: int, own: Attributes, winners: Mapping[str, str]) -> Attributes:
        """Return notes on a study and its trials, except where a user has written a note."""
        study = self._exhibits.known(self.get_study_name_from_id(study_id))
        if study is None:
            return {}
        trials = super().get_all_trials(study_id, deepcopy=False)
        ids = {trial.number: trial._trial_id for trial in trials}
        notes: Attributes = {}
        if study.name in winners and _VERSION not in own:
            notes |= _note(winners[study.name])
        for number, text in self._exhibits.notes(study, Addresses(study_id, ids)).items():
            place = f"dashboard:{ids.get(number)}:note_"
            if number in ids and f"{place}ver" not in own:
                notes |= _note(text, place)
        return notes

    def _study_of(self, trial_id: int) -> int:
        return next(
            study._study_id
            for study in self.get_all_studies()
            if any(
                trial._trial_id == trial_id
                for trial in super(DecoratedStorage, self).get_all_trials(study._study_id, False)
            )
        )


class DecoratedArtifacts(FileSystemArtifactStore):
    """Stores uploads in a folder, and draws our exhibits on request."""

    def __init__(self, folder: Path, exhibits: Exhibits) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder)
        self._exhibits = exhibits

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open an exhibit, or what was uploaded."""
        try:
            shown = self._exhibits.show(artifact_id)
        except RemoteUnusable as error:
            raise ArtifactNotFound(str(error)) from None
        if isinstance(shown, bytes):
            return BytesIO(shown)
        if isinstance(shown, Path):
            return shown.open("rb")
        try:
            return super().open_reader(artifact_id)
        except OSError:
            raise ArtifactNotFound(f"there is no artifact {artifact_id}") from None


def _note(text: str, place: str = _NOTE) -> Attributes:
    return {f"{place}ver": 1, f"{place}str:0": text}


def _artifacts(exhibits: dict[str, Exhibit]) -> Attributes:
    return {
        f"{_ARTIFACT}{name}": json.dumps(
            {
                "artifact_id": name,
                "filename": exhibit.value,
                "mimetype": _mime(exhibit),
                "encoding": None,
            }
        )
        for name, exhibit in exhibits.items()
    }


def _mime(exhibit: Exhibit) -> str:
    return "application/octet-stream" if exhibit is Exhibit.WEIGHTS else "image/png"
