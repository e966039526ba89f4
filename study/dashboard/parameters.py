"""Parameters of trials that no sampler suggested: their schedules, as Optuna's pages show them.

Probes and schedules tried first may lie outside of the space; Optuna then has no parameters of
them. Pages compare trials by parameters of one name and one distribution: so the overlay uses the
names of the space, and widens distributions to hold values that lie outside.
"""

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial

from study.config.space import StageChoices
from trainers.schedule import PROBE_FIELDS, Schedule, Stage, Train

_PLAIN = Stage(image_size=8, batch_size=2)
_ALWAYS = ("image_size", "batch_size", "train", "lrs")

Value = int | float | str | bool


def lay_over(trials: Sequence[FrozenTrial], schedules: Mapping[int, Schedule]) -> None:
    """Set the parameters of trials without any to those of their schedules, by trial number."""
    known = {name: span for trial in trials for name, span in trial.distributions.items()}
    for trial in trials:
        schedule = schedules.get(trial.number)
        if schedule is not None and not trial.params:
            found = parameters_of(schedule, known).items()
            trial.params = {k: v for k, v in found if k not in known or _fits(v, known[k])}
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    values = {n: [trial.params[n] for trial in trials if n in trial.params] for n in names}
    spans = {name: _span(values[name], known.get(name)) for name in names}
    for trial in trials:
        trial.distributions = {name: spans[name] for name in trial.params}


def parameters_of(schedule: Schedule, known: Mapping[str, Any] | None = None) -> dict[str, Value]:
    """Return a schedule's parameters by the names of a space: those `known` or not default."""
    found: dict[str, Value] = {
        "backbone": schedule.backbone,
        "hidden": _plain(schedule.hidden),
        "levels": schedule.levels,
        "n_stages": len(schedule.stages),
    }
    for position, stage in enumerate(schedule.stages):
        probe = stage.train is Train.PROBE
        for field in StageChoices.model_fields:
            name = f"s{position}_{field}"
            if probe and field not in PROBE_FIELDS:
                continue
            if field == "late_lr":
                if name in (known or {}):
                    found[name] = stage.lrs[1]
                continue
            value = getattr(stage, field)
            if field in _ALWAYS or name in (known or {}) or value != getattr(_PLAIN, field):
                found[name] = _plain(value[-1] if field == "lrs" else value)
    return found


def _plain(value: Any) -> Value:
    """Return a value as Optuna stores it: a list as JSON."""
    if isinstance(value, Enum):
        return str(value.value)
    return json.dumps(value) if isinstance(value, tuple) else value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fits(value: Value, span: BaseDistribution) -> bool:
    """Return whether a value has a distribution's type, so that it may be widened to hold it."""
    return isinstance(span, CategoricalDistribution) or _is_number(value)


def _span(values: Sequence[Value], known: BaseDistribution | None) -> BaseDistribution:
    """Return the distribution that is known, or one like it that holds all values."""
    if isinstance(known, CategoricalDistribution) or not all(map(_is_number, values)):
        choices = known.choices if isinstance(known, CategoricalDistribution) else ()
        return CategoricalDistribution(list(dict.fromkeys((*choices, *values))))
    ends = [float(value) for value in values]
    if isinstance(known, IntDistribution | FloatDistribution):
        ends += [known.low, known.high]
    low, high = min(ends), max(ends)
    log = bool(getattr(known, "log", False)) and low > 0
    whole = all(isinstance(value, int) for value in values)
    if whole and not isinstance(known, FloatDistribution):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(low, high, log=log)
