"""From Optuna's parameters to a schedule. The parameters are s0_*, s1_*, ... and n_stages.

A categorical's choices can never change within an Optuna study. So a choice that depends on an
earlier one has that one in its name: `s1_image_size_from_64` can only be 64 or more.
"""

import json
import re
from collections.abc import Sequence
from itertools import product
from typing import Any, Protocol

from study.choices import SPACE_VERSION, Space
from trainers.schedule import Schedule, Stage

_ANY = Stage(image_size=8, batch_size=2)


class Chooser(Protocol):
    """What of an Optuna trial is used here."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Give one of the choices."""
        ...


def suggest_schedule(trial: Chooser, space: Space, weights: str) -> Schedule:
    """Ask a trial for a schedule, stage by stage; sizes never shrink."""
    backbone = _choose(trial, "backbone", space.backbone)
    hidden = _choose(trial, "hidden", space.hidden)
    stages: list[Stage] = []
    for position in range(_choose(trial, "n_stages", space.n_stages)):
        smallest = stages[-1].image_size if stages else 0
        stages.append(_suggest_stage(trial, position, space.of_stage(position), smallest))
    return Schedule(backbone=backbone, hidden=hidden, stages=tuple(stages), weights=weights)


def stage_of(parameter: str) -> int | None:
    """Give the stage that a parameter is about; None if it is about the whole schedule."""
    found = re.match(r"s(\d+)_", parameter)
    return int(found[1]) if found else None


def views_of(space: Space) -> list[Stage]:
    """Give a stage for each way in which this space may look at photos: size, crop and zoom."""
    views: list[Stage] = []
    sizes = {0}
    for position in range(max(space.n_stages)):
        choices = space.of_stage(position)
        batch_size = choices["batch_size"][0]
        sizes = {size for before in sizes for size in _at_least(before, choices["image_size"])}
        others = [choices.get(name, (getattr(_ANY, name),)) for name in ("crop", "max_zoom")]
        for size, crop, zoom in product(sorted(sizes), *others):
            views.append(Stage(image_size=size, batch_size=batch_size, crop=crop, max_zoom=zoom))
    return views


def describe_space(space: Space) -> dict[str, Any]:
    """Give what identifies a space, as plain JSON values, to be stored with the study."""
    return {"version": SPACE_VERSION, **json.loads(space.model_dump_json(exclude_none=True))}


def space_changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Say in a phrase how two descriptions of spaces differ; "" if they do not."""
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return "; ".join(f"{name}: {old.get(name)} became {new.get(name)}" for name in names)


def _suggest_stage(
    trial: Chooser, position: int, choices: dict[str, tuple[Any, ...]], smallest: int
) -> Stage:
    chosen: dict[str, Any] = {}
    for field, values in choices.items():
        name = f"s{position}_{field}"
        if field == "image_size" and smallest > min(values):
            values = _at_least(smallest, values)
            name = f"{name}_from_{smallest}"
        chosen[field] = _choose(trial, name, values)
    return Stage(**chosen)


def _at_least(smallest: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Give the sizes that do not shrink; a stage with none stays at the size before it."""
    return tuple(size for size in sizes if size >= smallest) or (smallest,)


def _choose(trial: Chooser, name: str, values: tuple[Any, ...]) -> Any:
    if len(values) == 1:
        return values[0]
    # Optuna's choices are scalars: a list of rates travels as its JSON.
    plain = [json.dumps(value) if isinstance(value, tuple) else value for value in values]
    return values[plain.index(trial.suggest_categorical(name, plain))]
