"""Optuna's study behind a small interface: it stores suggestions, and data for its dashboard.

Beside `drafts`, `optuna_storage` and `board` the only module that knows Optuna.
"""

import logging
import warnings
import zlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from storage.ownership import Claim
from storage.records import State
from storage.retry import Patience
from study.config.schema import Sampler, StudyConfig
from study.config.space import Space
from study.searching.drafts import Draft, drafted, running
from study.searching.optuna_storage import PatientStorage, optuna_storage
from study.searching.suggest import Params
from trainers.metrics import Metric


class Suggestions:
    """The Optuna study of a search. Trials have the same numbers as in our tables.

    With `patience`, it waits for an unavailable database server; with `claim`, it writes only while
    this process owns the study.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        metric: Metric,
        sampler: Sampler,
        seed: int,
        patience: Patience | None = None,
        claim: Claim | None = None,
    ) -> None:
        _quiet()
        self._storage = optuna_storage(
            url, partial(PatientStorage, patience) if patience else RDBStorage, claim
        )
        self._study = optuna.create_study(
            storage=self._storage,
            study_name=name,
            direction="maximize" if metric.higher_is_better else "minimize",
            load_if_exists=True,
        )
        self._name, self._seed = sampler, seed
        self._study.sampler = _sampler(sampler, seed, 0)
        self._study.set_metric_names([metric.value])
        self._study_id = self._storage.get_study_id_from_name(name)
        self._open: dict[int, optuna.Trial] = {}
        self._reported: dict[int, set[int]] = {}  # by trial, the steps

    @classmethod
    def of(
        cls, config: StudyConfig, patience: Patience | None = None, claim: Claim | None = None
    ) -> "Suggestions":
        """Open the Optuna study that a search's settings name."""
        return cls(
            config.storage,
            config.study_name,
            metric=config.metric,
            sampler=config.sampler,
            seed=config.seeds.first,
            patience=patience,
            claim=claim,
        )

    def draft(self, space: Space, weights: str, turn: int) -> Draft:
        """Let the sampler suggest a schedule. Nothing is written: many may be drafted.

        The result depends only on the seed, `turn` and the trials so far, so that a search that was
        killed gets the same suggestion when it continues.
        """
        self._study.sampler = _sampler(self._name, self._seed, turn)
        rng = np.random.default_rng(_stream(self._seed, turn))
        return drafted(self._study, space, weights, rng)

    def add(self, params: Params | None, notes: Mapping[str, Any] | None = None) -> int:
        """Begin a trial with these parameters, a draft's with its notes; return its number."""
        template = running(params or {}, notes or {})
        identity = self._storage.create_new_trial(self._study_id, template_trial=template)
        trial = optuna.Trial(self._study, identity)
        self._open[trial.number] = trial
        return trial.number

    def annotate(self, number: int, attributes: Mapping[str, Any]) -> None:
        """Attach attributes that Optuna's dashboard shows beside the parameters."""
        trial = self._trial(number)
        for key, value in attributes.items():
            trial.set_user_attr(key, value)

    def report(self, number: int, step: int, score: float) -> None:
        """Report an epoch, for Optuna's dashboard; steps count through all stages."""
        trial = self._trial(number)
        known = self._reported.setdefault(number, set())
        if step not in known:
            trial.report(score, step)
            known.add(step)

    def tell(self, number: int, state: State, score: float | None) -> None:
        """End a trial. A pruned one keeps its latest report as its value.

        A complete one whose score is not a number is a failed one in Optuna, which accepts no
        other. So is one outside the space, for samplers that use only parameters common to all
        trials.
        """
        trial = self._open.pop(number, number)
        if state is not State.FAILED and self._is_in_the_way(number):
            self._storage.set_trial_user_attr(self._identity(number), "score", score)
            self._study.tell(trial, state=TrialState.FAIL)
        elif state is State.COMPLETE and score is not None:
            self._study.tell(trial, score, state=TrialState.COMPLETE)
        else:
            told = TrialState.PRUNED if state is State.PRUNED else TrialState.FAIL
            self._study.tell(trial, state=told)
        self._reported.pop(number, None)

    def reconcile(self, ours: Mapping[int, tuple[State, float | None]]) -> None:
        """End trials that a dead coordinator left running in Optuna but not in our tables.

        `ours` are our tables' trials, by number. Optuna's sampler would avoid a RUNNING trial for
        ever.
        """
        # Enqueued but never begun: the next trial would get it.
        while self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._study.tell(self._study.ask(), state=TrialState.FAIL)
        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            state, score = ours.get(frozen.number, (State.FAILED, None))
            if frozen.number not in ours:
                self._study.tell(frozen.number, state=TrialState.FAIL)
            elif state is not State.RUNNING:
                self.tell(frozen.number, state, score)

    def _is_in_the_way(self, number: int) -> bool:
        """Return whether a trial would keep the sampler from learning from the others."""
        of_all = (optuna.samplers.TPESampler, optuna.samplers.RandomSampler)
        return not isinstance(self._study.sampler, of_all) and not self._frozen(number).params

    def _trial(self, number: int) -> optuna.Trial:
        """Return a trial that has not ended. Trials are cached, since opening one costs queries."""
        if number not in self._open:
            self._open[number] = optuna.Trial(self._study, self._identity(number))
            self._reported[number] = set(self._frozen(number).intermediate_values)
        return self._open[number]

    def _frozen(self, number: int) -> FrozenTrial:
        return self._storage.get_trial(self._identity(number))

    def _identity(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)


def _sampler(name: Sampler, seed: int, turn: int) -> optuna.samplers.BaseSampler:
    stream = _stream(seed, turn)
    match name:
        case Sampler.TPE:
            # The number of stages varies: `group` models the parameters of each number separately.
            return optuna.samplers.TPESampler(group=True, seed=stream)
        case Sampler.RANDOM:
            return optuna.samplers.RandomSampler(seed=stream)
        case Sampler.GP:
            return optuna.samplers.GPSampler(seed=stream, warn_independent_sampling=False)
        case Sampler.CMAES:
            return optuna.samplers.CmaEsSampler(seed=stream, warn_independent_sampling=False)
        case Sampler.QMC:
            # One sequence over all processes: Optuna counts it, if the seed stays.
            return optuna.samplers.QMCSampler(seed=seed, warn_independent_sampling=False)


def _stream(seed: int, turn: int) -> int:
    return zlib.crc32(f"{seed} {turn}".encode())


def _quiet() -> None:
    # Optuna's log lines would break the live view; our own events report what matters.
    optuna.logging.set_verbosity(logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
