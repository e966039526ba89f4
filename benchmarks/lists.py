"""A space as users of Optuna write it: each parameter is a list, in no order."""

import json
from collections.abc import Sequence
from typing import Any

from optuna.trial import BaseTrial


class Lists:
    """A chooser by an Optuna trial."""

    def __init__(self, trial: BaseTrial) -> None:
        self._trial = trial

    def choose(self, name: str, values: Sequence[Any], allowed: Sequence[Any]) -> Any:
        """Return what the trial says, or the first that is allowed."""
        plain = [json.dumps(value) if isinstance(value, tuple) else value for value in values]
        value = values[plain.index(self._trial.suggest_categorical(name, plain))]
        return value if value in allowed else allowed[0]
