"""Optuna's trials as a search keeps them: never other than in the database, and seldom read."""

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from storage.retry import Patience
from study.searching.optuna_storage import PatientStorage, optuna_storage
from tests.studies import open_at_once

NAME = "of-many"


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[PatientStorage]:
    """Open a storage that is patient."""
    patient = partial(PatientStorage, Patience(print, threading.Event(), lambda: None))
    storage = optuna_storage(f"sqlite:///{tmp_path / 'encore.db'}", patient)
    assert isinstance(storage, PatientStorage)
    yield storage
    storage.engine.dispose()


def test_all_who_open_a_new_file_at_once_succeed(tmp_path: Path) -> None:
    """Searches that are the first ones of a database begin together; no lock is left."""
    open_at_once(f"sqlite:///{tmp_path / 'encore.db'}")
    assert [path.name for path in tmp_path.iterdir()] == ["encore.db"]


@pytest.mark.long
@pytest.mark.parametrize("steps", [50, 120])
def test_what_is_kept_is_what_the_database_holds(
    storage: PatientStorage, tmp_path: Path, steps: int
) -> None:
    """Whatever is asked, reported, told, queued and added in whatever order, by any sampler."""
    study = optuna.create_study(storage=storage, study_name=NAME, direction="maximize")
    fresh = RDBStorage(f"sqlite:///{tmp_path / 'encore.db'}")
    rng, running = np.random.default_rng(0), list[optuna.Trial]()
    for _ in range(steps):
        match rng.choice(["ask", "ask", "report", "note", "tell", "queue", "add"]):
            case "ask":
                running.append(study.ask())
                running[-1].suggest_float("x", 0, 1)
            case "queue":
                study.enqueue_trial({"x": rng.random()})
            case "add":
                template = optuna.create_trial(state=TrialState.RUNNING)
                storage.create_new_trial(study._study_id, template_trial=template)
            case what if running:
                trial = running[rng.integers(len(running))]
                if what == "report":
                    trial.report(
                        rng.random(),
                        len(trial.storage.get_trial(trial._trial_id).intermediate_values),
                    )
                elif what == "note":
                    trial.set_user_attr("seed", int(rng.integers(9)))
                else:
                    running.remove(trial)
                    study.tell(trial, rng.random())
        assert study.get_trials() == fresh.get_all_trials(study._study_id)
    fresh.engine.dispose()


def test_a_suggestion_costs_no_more_where_many_run(
    storage: PatientStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of forty trials that run, only what has changed is read for the next one."""
    study = optuna.create_study(storage=storage, study_name=NAME, direction="maximize")
    read: list[int] = []
    whole = RDBStorage._get_trials

    def counting(*given: object) -> list[optuna.trial.FrozenTrial]:
        found = whole(*given)
        read.append(len(found))
        return found

    monkeypatch.setattr(RDBStorage, "_get_trials", counting)
    for _ in range(40):
        study.ask().suggest_float("x", 0, 1)
    assert max(read) <= 2
