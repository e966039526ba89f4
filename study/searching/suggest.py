"""From Optuna's parameters to a schedule. The parameters are s0_*, s1_*, ... and n_stages.

A parameter has the same choices throughout a study. If earlier parameters exclude some of them, as
sizes never shrink, the rest is `allowed`.
"""

import re
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any, Protocol

from study.config.space import Space, stage_of_choices
from trainers.schedule import LAYER_GROUPS, PROBE_FIELDS, BatchNorm, Schedule, Stage, Train

_ANY = Stage(image_size=8, batch_size=2)

Params = dict[str, tuple[Any, Sequence[Any]]]
"""For each of Optuna's parameters the chosen value and the choices."""


class Chooser(Protocol):
    """Chooses a parameter: by a sampler, at random, or from an existing schedule."""

    def choose(self, name: str, values: Sequence[Any], allowed: Sequence[Any]) -> Any:
        """Return one of the `allowed` among a parameter's values."""
        ...


def suggest_schedule(chooser: Chooser, space: Space, weights: str) -> Schedule:
    """Choose a schedule, stage by stage; sizes never shrink."""
    backbone = _choose(chooser, "backbone", space.backbone)
    hidden = _choose(chooser, "hidden", space.hidden)
    levels = _choose(chooser, "levels", space.levels or (0,))
    stages: list[Stage] = []
    for position in range(_choose(chooser, "n_stages", space.n_stages)):
        smallest = stages[-1].image_size if stages else 0
        stages.append(_suggest_stage(chooser, position, space.of_stage(position), smallest))
    return Schedule(
        backbone=backbone, hidden=hidden, levels=levels, stages=tuple(stages), weights=weights
    )


def stage_of(parameter: str) -> int | None:
    """Return the stage of a parameter; None if it belongs to the whole schedule."""
    found = re.match(r"s(\d+)_", parameter)
    return int(found[1]) if found else None


def views_of(space: Space) -> list[Stage]:
    """Return a stage for each combination of size, crop and zoom in this space."""
    views: list[Stage] = []
    sizes = {0}
    for position in range(max(space.n_stages)):
        choices = space.of_stage(position)
        sizes = {size for before in sizes for size in _at_least(before, choices["image_size"])}
        looks = ("train", "crop", "max_zoom")
        others = [choices.get(name, (getattr(_ANY, name),)) for name in looks]
        for size, *look in product(sorted(sizes), *others):
            views.append(Stage(image_size=size, **dict(zip(looks, look, strict=True))))
    return views


def moves_a_probe(schedule: Schedule) -> bool:
    """Return whether BatchNorm's updates shift the features that a probe's head was fitted on."""
    return any(
        before.train is Train.PROBE
        and after.train is Train.NETWORK
        and after.batch_norm is BatchNorm.TRAIN
        for before, after in pairwise(schedule.stages)
    )


def may_move_a_probe(space: Space) -> bool:
    """Return whether any schedule of a space does."""
    every = [space.of_stage(position) for position in range(max(space.n_stages))]
    return any(
        Train.PROBE in before.get("train", ())
        and Train.NETWORK in after.get("train", (Train.NETWORK,))
        and BatchNorm.TRAIN in after.get("batch_norm", (BatchNorm.TRAIN,))
        for before, after in pairwise(every)
    )


def params_of(schedule: Schedule, space: Space) -> Params | None:
    """Return a schedule's parameters in a space; None if it lies outside."""
    recalled = _Recalling(schedule)
    try:
        same = suggest_schedule(recalled, space, schedule.weights) == schedule
    except LookupError:
        return None
    return recalled.params if same else None


class _Recalling:
    """A chooser that takes a schedule's values; LookupError for one that is not a choice."""

    def __init__(self, schedule: Schedule) -> None:
        self.params: Params = {}
        self._schedule = schedule

    def choose(self, name: str, values: Sequence[Any], allowed: Sequence[Any]) -> Any:
        """Return the schedule's value."""
        for value in self._spellings(name, allowed):
            if value in allowed:
                self.params[name] = allowed[allowed.index(value)], values
                return value
        raise LookupError(f"{name} must be one of {list(allowed)}")

    def _spellings(self, name: str, allowed: Sequence[Any]) -> Sequence[Any]:
        position = stage_of(name)
        if position is None:
            whole = {**vars(self._schedule), "n_stages": len(self._schedule.stages)}
            return [whole[name]]
        if position >= len(self._schedule.stages):
            return []
        stage = self._schedule.stages[position]
        field = name.removeprefix(f"s{position}_")
        if field == "late_lr":
            return [stage.lrs[LAYER_GROUPS.index("body-late")]]
        if field == "views" and not stage.frozen:
            return allowed  # they have no effect
        value = getattr(stage, field)
        return [value, stage.lrs[-1]] if field == "lrs" else [value]


def _suggest_stage(
    chooser: Chooser, position: int, choices: dict[str, tuple[Any, ...]], smallest: int
) -> Stage:
    chosen: dict[str, Any] = {}
    for field in sorted(choices, key=lambda field: field != "train"):
        if chosen.get("train") == Train.PROBE.value and field not in PROBE_FIELDS:
            continue
        values = choices[field]
        allowed = _at_least(smallest, values) if field == "image_size" else values
        chosen[field] = _choose(chooser, f"s{position}_{field}", values, allowed)
    return stage_of_choices(chosen)


def _at_least(smallest: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sizes that do not shrink; a stage with none stays at the size before it."""
    return tuple(size for size in sizes if size >= smallest) or (smallest,)


def _choose(
    chooser: Chooser, name: str, values: tuple[Any, ...], allowed: tuple[Any, ...] = ()
) -> Any:
    """Choose a value; a single choice is not a parameter, nor is a size that is not listed."""
    values = tuple(dict.fromkeys(values))
    allowed = tuple(dict.fromkeys(allowed)) or values
    if len(values) == 1 or allowed[0] not in values:
        return allowed[0]
    return chooser.choose(name, values, allowed)
