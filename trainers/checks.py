"""Validation of a schedule's values: normalised, or refused in one sentence."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from enum import StrEnum
from typing import Any


def member_of(kind: type[StrEnum], name: str, value: str) -> StrEnum:
    """Return the member of an enumeration with this name, in any case."""
    try:
        return kind(value.lower())
    except (ValueError, AttributeError):
        raise ValueError(f"{name} must be one of {', '.join(kind)}, got {value!r}") from None


def number(name: str, value: Any) -> float:
    """Return a number as a float; TypeError for anything else."""
    try:
        # 0.0 is added because -0.0 equals 0.0, but its JSON and so its digest do not.
        return float(value + 0.0)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None


def numbers(name: str, value: Any) -> float | tuple[float, ...]:
    """Return a number, or a sequence of them as a tuple."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        return tuple(number(name, each) for each in value)
    return number(name, value)


def check_whole(name: str, value: object, low: int, high: int, unit: str) -> None:
    """Raise unless a value is a whole number from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number of {unit}, got {value!r}")
    if value < low:
        one = unit.removesuffix("s") if low == 1 else unit
        raise ValueError(f"{name} must be at least {low} {one}, got {value}")
    if value > high:
        raise ValueError(f"{name} must be at most {high} {unit}, got {value}")


def check_between(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless a number is from `low` to `high`."""
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name} must be from {low:g} to {high:g}, got {value:g}")


def check_known(what: str, plain: Mapping[str, Any], kind: type[Any]) -> None:
    """Raise ValueError, listing the fields, for a key that is not a field."""
    names = {field.name for field in fields(kind)}
    for key in plain:
        if key not in names:
            raise ValueError(f"a {what} has no field {key!r}; it has {', '.join(sorted(names))}")
