"""Optuna's tables in our database, with the same retries while a server is unavailable."""

from collections.abc import Callable, Container, Sequence
from functools import partial
from typing import Any

from optuna import __version__
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from storage.database import adopt, making_tables, settings
from storage.errors import DatabaseTooNew
from storage.ownership import Claim, fence
from storage.redaction import redact
from storage.retry import Patience

_WHOLE = {name for name in vars(BaseStorage) if not name.startswith("_")} | {
    "_get_best_trial_id",
    "_get_trials",
    "_set_trial_param",
}
"""Methods of Optuna's storage that are one transaction each, public and some private ones."""

_CHANGES = {name for name in _WHOLE if name.lstrip("_").startswith("set_trial")}
"""Those that change a trial, which they name first."""

_LAST_ID = 2**31 - 1
"""The largest that a server's INTEGER holds."""


def optuna_storage(
    url: str, make: Callable[..., RDBStorage] = RDBStorage, claim: Claim | None = None
) -> RDBStorage:
    """Open Optuna's tables; `make` gets the URL and `engine_kwargs` of `RDBStorage`.

    With `claim`, writes raise `StudyInUse` once another process has the study.
    """
    plain, options = settings(url)
    plain = plain.replace("{", "{{").replace("}", "}}")  # Optuna takes it for a template
    with making_tables(url):
        try:
            storage = make(plain, engine_kwargs=options)
        except RuntimeError as error:  # Optuna's error for tables of another version
            raise DatabaseTooNew(
                f"{redact(url)} holds tables of another Optuna, which this one, {__version__}, "
                "does not read; install the Optuna that wrote it"
            ) from error
    adopt(storage.engine)
    if claim is not None:
        fence(storage.engine, claim)
    return storage


class PatientStorage(RDBStorage):
    """Optuna's storage, with queries and changes repeated while the server is unavailable.

    No other process may write to its study meanwhile. So reads can be cached, and trials are read
    again only if they have changed: Optuna reads all running ones for each suggestion.
    """

    def __init__(self, patience: Patience, url: str, engine_kwargs: dict[str, Any]) -> None:
        self._patience = patience
        self._trials: dict[int, int] = {}  # by study, how many there are
        self._changed: dict[int, set[int]] = {}  # by study, trials since all were read
        super().__init__(url, engine_kwargs=engine_kwargs)

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in _WHOLE:
            return found
        return partial(self._patience, partial(self._change, found) if name in _CHANGES else found)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """End a trial, or begin a waiting one; nothing if it has that state already."""
        change = partial(super().set_trial_state_values, trial_id, state, values)
        return self._patience.either(
            change, lambda: self.get_trial(trial_id).state is state or change()
        )

    def _create_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None = None
    ) -> FrozenTrial:
        # Optuna's own retry would create a second trial if only the response was lost.
        if study_id not in self._trials:
            self._trials[study_id] = self.get_n_trials(study_id)
        create = partial(super()._create_new_trial, study_id, template_trial)
        made = self._patience.either(create, lambda: self._created(study_id) or create())
        self._trials[study_id] = made.number + 1
        self._note(made._trial_id)
        return made

    def _change(self, change: Callable[..., Any], trial_id: int, *given: Any, **named: Any) -> Any:
        self._note(trial_id)
        return change(trial_id, *given, **named)

    def _note(self, trial_id: int) -> None:
        for changed in self._changed.values():
            changed.add(trial_id)

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        changed = self._changed.setdefault(study_id, set())
        if not included_trial_ids and trial_id_greater_than < 0:  # for the first time, or by us
            return super()._get_trials(study_id, states, set(), trial_id_greater_than)
        # A caller that asks again has kept the earlier ones.
        found = super()._get_trials(study_id, states, changed, _LAST_ID) if changed else []
        changed.clear()
        return found

    def _created(self, study_id: int) -> FrozenTrial | None:
        """Return the trial that was created last, if its number was never given."""
        number = self._trials[study_id]
        if self.get_n_trials(study_id) == number:
            return None
        return self.get_trial(self.get_trial_id_from_study_id_trial_number(study_id, number))
