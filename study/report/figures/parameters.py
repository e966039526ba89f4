"""The parameters of schedules as a table, with a column for each one that varies."""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from study.stage_text import LABELS
from trainers.schedule import PROBE_FIELDS, Schedule, Stage, Train

Value = float | str | None
"""A parameter's value; None where the schedule has no such stage."""

Table = dict[str, list[Value]]
"""By parameter its value for each schedule."""


def table_of(schedules: Sequence[Schedule]) -> Table:
    """Flatten schedules into the parameters that differ between them, in training order."""
    flat = [flattened(schedule) for schedule in schedules]
    # The longest schedule gives the order of parameters; shorter ones have no others.
    names = dict.fromkeys(name for each in sorted(flat, key=len, reverse=True) for name in each)
    table = {name: [each.get(name) for each in flat] for name in names}
    # A stage that some lack and that is equal in all others adds nothing to the number of stages.
    return {name: values for name, values in table.items() if len({*values} - {None}) > 1}


def flattened(schedule: Schedule) -> dict[str, Value]:
    """Return a schedule's parameters by name; stages count from 1."""
    plain: dict[str, Value] = {
        "backbone": schedule.backbone,
        "weights": schedule.weights[:20],
        "head": _listed(schedule.hidden) or "plain",
        "levels": schedule.levels,
        "stages": len(schedule.stages),
    }
    for place, stage in enumerate(schedule.stages, start=1):
        plain |= {f"s{place} {name}": value for name, value in _of_stage(stage).items()}
    return plain


def _of_stage(stage: Stage) -> dict[str, Value]:
    """Return a stage's parameters; of a probe, only the relevant ones."""
    early, late, head = stage.lrs
    course: dict[str, Value] = {
        "batch size": stage.batch_size,
        "epochs": stage.epochs,
        "lr": head,
        # Nearly always in one ratio: columns only if rates were listed one by one.
        "lr early/head": float(f"{early / head:.3g}") if head else 0.0,
        "lr late/head": float(f"{late / head:.3g}") if head else 0.0,
        "dropout": stage.dropout if isinstance(stage.dropout, float) else _listed(stage.dropout),
    }
    probed = stage.train is Train.PROBE
    return {
        "trains": stage.train.value,
        "image size": stage.image_size,
        "crop": stage.crop.value,
        **({} if probed else course),
        **{
            label: _plain(getattr(stage, name))
            for name, label in LABELS.items()
            if name in PROBE_FIELDS or not probed
        },
    }


def _plain(value: float | str) -> Value:
    if isinstance(value, bool):
        return "on" if value else "off"
    return value.value if isinstance(value, StrEnum) else value


def is_numeric(values: Sequence[Value]) -> bool:
    """Return whether a column holds only numbers, gaps aside."""
    return all(value is None or isinstance(value, int | float) for value in values)


def levels_of(values: Sequence[Value]) -> list[Value]:
    """Return a column's different values in order: gaps, then numbers, then text."""

    def key(value: Value) -> tuple[Any, ...]:
        return (value is not None, isinstance(value, str), value if value is not None else 0)

    return sorted(set(values), key=key)


def parameter_text(value: Value) -> str:
    """Return a value as text."""
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, int | float) else value


def is_logarithmic(values: Sequence[float]) -> bool:
    """Return whether numbers span so much that a logarithmic axis fits."""
    low, high = min(values), max(values)
    return low > 0 and high / low > 20 and math.isfinite(high)


def _listed(values: Sequence[float]) -> str:
    return "/".join(f"{value:g}" for value in values)
