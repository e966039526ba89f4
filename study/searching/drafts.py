"""A sampler's suggestion for a trial, before any of it is written.

A parameter whose choices are all numbers is ordered for Optuna, from the smallest to the largest,
and the suggestion is rounded to a choice, so that the sampler can use the order.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import optuna
from numpy.random import Generator
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from study.config.space import Space
from study.searching.suggest import Params, suggest_schedule
from trainers.schedule import Schedule

Distribution = CategoricalDistribution | IntDistribution | FloatDistribution

LOGARITHMIC_FROM = 4
"""A scale is logarithmic if the largest choice is at least this many times the smallest."""


@dataclass(frozen=True)
class Draft:
    """A suggested schedule and the parameters that lead to it.

    `notes` are attributes that the sampler stores with the trial, if it is begun.
    """

    schedule: Schedule
    params: Params
    notes: Mapping[str, Any]


def drafted(
    study: optuna.Study,
    space: Space,
    weights: str,
    rng: Generator,
) -> Draft:
    """Let a study's sampler suggest a schedule.

    Parameters that it does not model are drawn with `rng`, uniformly from the choices.
    """
    aside = _Aside(study._storage)
    seen = optuna.Study(study.study_name, cast("BaseStorage", aside), sampler=study.sampler)
    drawing = _Drawing(seen, rng)
    schedule = suggest_schedule(drawing, space, weights)
    return Draft(schedule, drawing.params, aside.notes)


def distribution_of(values: Sequence[Any]) -> Distribution:
    """Return a parameter's distribution in Optuna: ordered if all of its choices are numbers."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return CategoricalDistribution([_spelt(value) for value in values])
    least, greatest = min(values), max(values)
    whole = all(isinstance(value, int) for value in values)
    kind = IntDistribution if whole else FloatDistribution
    return kind(least, greatest, log=0 < LOGARITHMIC_FROM * least <= greatest)


def running(params: Params, notes: Mapping[str, Any]) -> FrozenTrial:
    """Return a running trial with these parameters, as Optuna stores it."""
    return create_trial(
        state=TrialState.RUNNING,
        params={name: _spelt(value) for name, (value, _) in params.items()},
        distributions={name: distribution_of(values) for name, (_, values) in params.items()},
        system_attrs=dict(notes),
    )


class _Drawing:
    """Chooses by the sampler, else at random; records the choices."""

    def __init__(self, study: optuna.Study, rng: Generator) -> None:
        self.params: Params = {}
        self._rng = rng
        trial, sampler = create_trial(state=TrialState.RUNNING), study.sampler
        self._modelled = sampler.infer_relative_search_space(study, trial)
        self._said = sampler.sample_relative(study, trial, self._modelled)

    def choose(self, name: str, values: Sequence[Any], allowed: Sequence[Any]) -> Any:
        """Return one of the allowed values."""
        distribution = distribution_of(values)
        if name in self._said and self._modelled[name] == distribution:
            value = _nearest(self._said[name], allowed, distribution)
        else:
            value = allowed[int(self._rng.integers(len(allowed)))]
        self.params[name] = value, values
        return value


class _Aside:
    """Wraps Optuna's storage: attributes of a trial that is not stored are kept in memory."""

    def __init__(self, storage: BaseStorage) -> None:
        self.notes: dict[str, Any] = {}
        self._storage = storage

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:  # noqa: ARG002
        """Keep a note."""
        self.notes[key] = value

    def __getattr__(self, name: str) -> Any:
        """Forward everything else."""
        return getattr(self._storage, name)


def _nearest(said: Any, allowed: Sequence[Any], distribution: Distribution) -> Any:
    """Return the allowed value, or the nearest one, on the distribution's scale."""
    if isinstance(distribution, CategoricalDistribution):
        return {_spelt(value): value for value in allowed}[said]
    place = math.log if distribution.log else float
    return min(allowed, key=lambda value: abs(place(value) - place(said)))


def _spelt(value: Any) -> Any:
    """Return a value as Optuna stores it, whose choices are scalars: a list as JSON."""
    return json.dumps(value) if isinstance(value, tuple) else value
