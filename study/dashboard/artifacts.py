"""The artifacts shown for each trial, found or drawn on request. Changes no row."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from storage.errors import RemoteUnusable
from storage.paths import CACHE, open_vault, runs_folder
from storage.records import Checkpoint, Kind, State, StudyRecord, Trial
from storage.store import Store
from study.dashboard.notes import Predicted, note_on, plain, winner_note
from study.dashboard.pictures import draw_confusion, draw_curves, draw_words
from study.errors import NothingToSelect
from study.searching.statuses import Status, Statuses
from study.selection.best import Selector
from study.selection.result import Asked
from study.studies import manifest_of
from trainers.data.manifest import Split
from trainers.schedule import Schedule

PHOTOS = 12
"""Number of photos on a sheet of heat maps."""

TIES = 20
"""Number of runners-up that are searched for one with the winner's score."""

_Kept = dict[tuple[int | None, int | None], Checkpoint]
"""The best weights that are kept, by stage run and epoch."""

_NAMESPACE = uuid.UUID("6f1b7b5e-6d0e-4a53-9d0e-0b7f6c1f2a3d")


class Exhibit(StrEnum):
    """The kinds of artifacts of a trial."""

    CURVES = "curves.png"
    CONFUSION = "confusion.png"
    HEAT = "grad-cam.png"
    WEIGHTS = "weights.safetensors"


class Key(NamedTuple):
    """A trial's exhibit, named by its study."""

    study: str
    number: int
    exhibit: Exhibit


@dataclass(frozen=True)
class _Data:
    """The photos that a study's predictions are about."""

    classes: tuple[str, ...]
    labels: NDArray[np.int64]


class Exhibits:
    """The exhibits of all studies behind a database URL."""

    def __init__(self, storage: str) -> None:
        from storage.database import open_database

        self._storage = storage
        self._store = Store(open_database(storage, create=False))
        self._data: dict[str, _Data] = {}
        self._notes: dict[tuple[str, int], str] = {}
        self._keys: dict[str, Key] = {}
        self._winners: dict[str, tuple[object, str]] = {}
        self._heating, self._choosing = Lock(), Lock()

    def known(self, study: str) -> StudyRecord | None:
        """Return a study from our tables; None if only Optuna has it."""
        return next((each for each in self._store.studies() if each.name == study), None)

    def of(self, study: StudyRecord) -> dict[int, dict[str, Exhibit]]:
        """Return the exhibits of each trial that has ended, by their names."""
        kept = self._kept(study)
        found = {}
        for trial in self._store.trials(study.id):
            if trial.state is not State.RUNNING:
                found[trial.number] = {
                    self._register(Key(study.name, trial.number, exhibit)): exhibit
                    for exhibit in _exhibits(trial, kept)
                }
        return found

    def notes(self, study: StudyRecord, address: "Addresses") -> dict[int, str]:
        """Return a note on each trial that has ended, written once, unless weights are deleted."""
        kept = self._kept(study)
        ended = [t for t in self._store.trials(study.id) if t.state is not State.RUNNING]
        for trial in ended:
            weights = address(trial.number, self.name(study.name, trial.number, Exhibit.WEIGHTS))
            file = weights if _epoch(trial) in kept else None
            known = self._notes.get((study.name, trial.number), "")
            if not known or (weights in known) != (file is not None):
                self._notes[study.name, trial.number] = note_on(
                    trial, study.metric, study.name, self._predicted(study, trial), file
                )
        return {trial.number: self._notes[study.name, trial.number] for trial in ended}

    def winners(self) -> dict[str, str]:
        """Return by study a note on its winner; at most one is recomputed, which takes seconds."""
        with self._choosing:
            for study in self._store.studies():
                running = tuple(trial.number for trial in self._store.running_trials(study.id))
                state = self._store.count_trials(study.id), running
                if self._winners.get(study.name, (None, ""))[0] != state:
                    self._winners[study.name] = state, self._winner(study)
                    break
            return {name: note for name, (_, note) in self._winners.items()}

    def schedules(self, study: StudyRecord) -> dict[int, Schedule]:
        """Return the schedule of each trial by its number."""
        return {trial.number: trial.schedule for trial in self._store.trials(study.id)}

    def waiting(self, study: StudyRecord) -> frozenset[int]:
        """Return the numbers of the trials that have not ended, and are not trained now."""
        statuses, open_ones = Statuses.of(self._store, study), self._store.running_trials(study.id)
        waits = (trial for trial in open_ones if statuses.of_trial(trial) is Status.WAITING)
        return frozenset(trial.number for trial in waits)

    def _winner(self, study: StudyRecord) -> str:
        try:
            selector = Selector(self._store, open_vault(self._storage, study), study, Asked())
            return winner_note(selector.select(TIES))
        except (NothingToSelect, LookupError, RemoteUnusable, OSError) as error:
            return f"Nothing can be selected yet: {plain(str(error))}"

    def name(self, study: str, number: int, exhibit: Exhibit) -> str:
        """Return an exhibit's id, which is always the same."""
        return self._register(Key(study, number, exhibit))

    def show(self, name: str) -> bytes | Path | None:
        """Return an exhibit's content, or the file that has it; None if there is none."""
        key = self._keys.get(name)
        study = key and self.known(key.study)
        if key is None or study is None:
            return None
        trial = self._store.trial(study.id, key.number)
        title = f"{study.name}, trial {trial.number}, seed {trial.seed}"
        match key.exhibit:
            case Exhibit.CURVES:
                return draw_curves(self._store.epochs_of_trial(trial.id), study.metric, title)
            case Exhibit.CONFUSION:
                predicted = self._predicted(study, trial)
                if predicted is None:
                    return draw_words("no confusion matrix: the list of the photos is not kept")
                return draw_confusion(predicted, title)
            case Exhibit.HEAT:
                return self._heat(study, trial)
            case Exhibit.WEIGHTS:
                return self._weights(study, trial)

    def close(self) -> None:
        """Let go of the database."""
        self._store.close()

    def _register(self, key: Key) -> str:
        name = str(uuid.uuid5(_NAMESPACE, "\n".join(map(str, key))))
        self._keys[name] = key
        return name

    def _kept(self, study: StudyRecord) -> _Kept:
        return {
            (file.stage_run_id, file.epoch): file
            for file in self._store.checkpoints(study.id)
            if file.kind is Kind.BEST
        }

    def _predicted(self, study: StudyRecord, trial: Trial) -> Predicted | None:
        if trial.best_stage_run is None or trial.best_epoch is None:
            return None
        data = self._data_of(study)
        if data is None:
            return None
        found = self._store.predictions(trial.best_stage_run, trial.best_epoch, data.labels)
        return Predicted(data.classes, data.labels, found.predicted)

    def _data_of(self, study: StudyRecord) -> _Data | None:
        if study.name not in self._data:
            try:
                manifest = manifest_of(self._store, study)
            except LookupError:  # a search without photos
                return None
            self._data[study.name] = _Data(
                tuple(manifest.kind.names(manifest.classes)), manifest.labels(Split.VALID)
            )
        return self._data[study.name]

    def _weights(self, study: StudyRecord, trial: Trial) -> Path | None:
        kept, vault = self._kept(study).get(_epoch(trial)), open_vault(self._storage, study)
        whole = kept and vault.verify(kept.path, kept.sha256, kept.size)
        return vault.path(kept.path) if kept and whole else None

    def _heat(self, study: StudyRecord, trial: Trial) -> bytes | Path:
        """Draw a trial's heat maps, once; one trial at a time, and at the lowest priority."""
        weights = self._weights(study, trial)
        if weights is None:
            return draw_words("no heat maps: the weights are not kept")
        folder = runs_folder(self._storage) / CACHE / "explained" / weights.stem
        sheet = folder / "sheet.png"
        with self._heating:
            said = ""
            if not sheet.is_file():
                words = ["explain", "--weights", str(weights), "--to", str(folder)]
                words += ["--top", str(PHOTOS), "--device", "cpu", "--storage", self._storage]
                said = _run_aside(words)
        return sheet if sheet.is_file() else draw_words(f"no heat maps: {said}")


class Addresses:
    """Returns the URL of an exhibit of a trial, given its number."""

    def __init__(self, study_id: int, trial_ids: Mapping[int, int]) -> None:
        self._study_id = study_id
        self._ids = trial_ids

    def __call__(self, number: int, name: str) -> str:
        """Return it."""
        return f"/artifacts/{self._study_id}/{self._ids.get(number, 0)}/{name}"


def _exhibits(trial: Trial, kept: _Kept) -> tuple[Exhibit, ...]:
    if trial.best_stage_run is None:
        return ()
    drawn = (Exhibit.CURVES, Exhibit.CONFUSION)
    return (*drawn, Exhibit.HEAT, Exhibit.WEIGHTS) if _epoch(trial) in kept else drawn


def _epoch(trial: Trial) -> tuple[int | None, int | None]:
    return trial.best_stage_run, trial.best_epoch


def _run_aside(words: list[str]) -> str:
    """Run a command of ours in a process of the lowest priority; return its last line.

    It reads the arguments from its input, since all users of the machine can list command lines.
    """
    cli = __name__.removesuffix("study.dashboard.artifacts") + "cli"  # installed, below `encore`
    program = (
        "import json, os, sys; getattr(os, 'nice', lambda _: 0)(19); "
        f"from {cli} import run; sys.exit(run(json.load(sys.stdin)))"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(  # noqa: S603 - our own program, and no shell
        [sys.executable, "-P", "-c", program],
        input=json.dumps(words),
        env=environment,
        capture_output=True,
        check=False,
        text=True,
        errors="replace",
    )
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
