"""Optuna's side of a study that was written as rows."""

import optuna
from optuna.trial import TrialState

from study.searching.optuna_storage import optuna_storage


def optuna_rows(url: str, name: str, trials: int) -> None:
    """Make a study of that name in Optuna with as many trials, all of them ended."""
    study = optuna.create_study(storage=optuna_storage(url), study_name=name, direction="maximize")
    for number in range(trials):
        study.tell(study.ask(), values=number / trials, state=TrialState.COMPLETE)
