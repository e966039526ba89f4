"""What we rely on of Optuna beyond its documented face: its private methods that are overridden."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from optuna.storages import BaseStorage, RDBStorage
from optuna.study._frozen import FrozenStudy

from study.dashboard.optuna_overlay import DecoratedStorage
from study.searching.optuna_storage import PatientStorage

SIGNATURES: dict[Callable[..., Any], str] = {
    RDBStorage._create_new_trial: "self, study_id, template_trial",
    RDBStorage._get_trials: "self, study_id, states, included_trial_ids, trial_id_greater_than",
    RDBStorage.set_trial_state_values: "self, trial_id, state, values",
    RDBStorage.get_all_trials: "self, study_id, deepcopy, states",
    FrozenStudy: "study_name, direction, user_attrs, system_attrs, study_id, directions",
}
"""What takes our calls, or calls what we have put in its place: the parameters' names."""

KNOWN_PRIVATE = {"_get_best_trial_id", "_get_trials", "_set_trial_param", "_create_new_trial"}
"""The private verbs of Optuna's storage that ours repeats while a server is away."""

CHANGED = (
    "Optuna has changed {}: look at study/searching/optuna_storage.py and "
    "study/dashboard/optuna_overlay.py, which stand in its place, before you raise the version in "
    "pyproject.toml"
)


@pytest.mark.parametrize("ours", SIGNATURES, ids=lambda found: found.__qualname__)
def test_what_is_overridden_takes_what_it_took(ours: Callable[..., Any]) -> None:
    """Were a parameter renamed, added or moved, our own method would get what it does not know."""
    found = ", ".join(inspect.signature(ours).parameters)
    assert found == SIGNATURES[ours], CHANGED.format(ours.__qualname__)


@pytest.mark.parametrize("kind", [PatientStorage, DecoratedStorage])
def test_what_we_override_is_there(kind: type[RDBStorage]) -> None:
    """Of a method that Optuna has no more, ours would never be called."""
    own = {name for name, each in vars(kind).items() if inspect.isfunction(each)}
    for name in own & {*vars(PatientStorage), *vars(DecoratedStorage)}:
        overrides = not name.startswith("_") or name in KNOWN_PRIVATE
        if overrides:
            assert hasattr(RDBStorage, name), CHANGED.format(name)


def test_no_private_verb_is_new() -> None:
    """One that asks the database without our patience would end a search when a server restarts."""
    private = {
        name
        for name, each in vars(RDBStorage).items()
        if name.startswith("_") and not name.startswith("__") and inspect.isfunction(each)
    }
    called = {name for name in private if name in vars(BaseStorage)} | (private & KNOWN_PRIVATE)
    assert called <= KNOWN_PRIVATE, CHANGED.format(", ".join(sorted(called - KNOWN_PRIVATE)))
    assert private >= KNOWN_PRIVATE, CHANGED.format(", ".join(sorted(KNOWN_PRIVATE - private)))
