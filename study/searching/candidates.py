"""Candidate schedules: neighbours of good ones, and random ones of the space. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from study.config.space import Space
from study.searching.suggest import params_of, suggest_schedule
from trainers.schedule import Schedule


def anywhere(space: Space, weights: str, rng: np.random.Generator) -> Iterator[Schedule]:
    """Yield random schedules of the space."""
    while True:
        yield suggest_schedule(_Chooser(rng, {}), space, weights)


def neighbours(schedule: Schedule, space: Space, rng: np.random.Generator) -> Iterator[Schedule]:
    """Yield schedules that differ in a choice or two: by a step where choices have an order.

    A schedule from outside of the space has none.
    """
    params = params_of(schedule, space)
    names = [name for name, (_, choices) in (params or {}).items() if len(choices) > 1]
    while params and names:
        changed = rng.choice(names, size=min(len(names), int(rng.integers(1, 3))), replace=False)
        kept = {name: value for name, (value, _) in params.items()}
        moved = {name: _step(*params[name], rng) for name in changed.tolist()}
        yield suggest_schedule(_Chooser(rng, kept | moved), space, schedule.weights)


class _Chooser:
    """Chooses `fixed` values where they are allowed, and all others at random."""

    def __init__(self, rng: np.random.Generator, fixed: Mapping[str, Any]) -> None:
        self._rng, self._fixed = rng, fixed

    def choose(self, name: str, values: Sequence[Any], allowed: Sequence[Any]) -> Any:  # noqa: ARG002
        if name in self._fixed and self._fixed[name] in allowed:
            return self._fixed[name]
        return allowed[int(self._rng.integers(len(allowed)))]


def _step(value: Any, choices: Sequence[Any], rng: np.random.Generator) -> Any:
    """Return another choice; of numbers the next one up or down."""
    others = [choice for choice in choices if choice != value]
    if all(isinstance(choice, int | float) for choice in choices):
        below = [choice for choice in others if choice < value]
        above = [choice for choice in others if choice > value]
        others = [*([max(below)] if below else []), *([min(above)] if above else [])]
    return others[int(rng.integers(len(others)))]
