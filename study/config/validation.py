"""Report invalid settings as one sentence for the user."""

import difflib
from collections.abc import Callable, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

_SIZE = "must be a size with a unit, such as 20GB"
_NUMBER, _WHOLE = "must be a number", "must be a whole number"
_WORDS = {
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be above {gt:g}",
    "less_than_equal": "must be at most {le:g}",
    "less_than": "must be below {lt}",
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_type": _WHOLE,
    "int_from_float": _WHOLE,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "byte_size": _SIZE,
    "byte_size_unit": _SIZE,
    "enum": "must be {expected}",
    "string_type": "must be a text",
    "string_pattern_mismatch": (
        "must be at most 100 letters, digits, . _ or -, a letter or digit first"
    ),
    "tuple_type": "must be a list",
    "too_short": "must hold at least {min_length}",
    "dict_type": "must be a table of settings",
    "model_type": "must be a table of settings",
}
"""Messages by pydantic's types of errors; the names in braces are fields of its context."""


def one_sentence(
    error: ValidationError,
    model: type[BaseModel],
    named: Callable[[Sequence[str]], str] = ".".join,
) -> str:
    """Return a sentence on the first error: what the setting must be, and what it is.

    `named` turns a path to a field into the name that the user knows.
    """
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if not _is_kind(part)]
    if first["type"] == "extra_forbidden":
        known = _fields_at(path[:-1], model)
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return f"there is no setting {'.'.join(path)!r}; {hint}"
    context = first.get("ctx", {})
    if first["type"] == "value_error":
        text = str(context["error"])
        return f"{named(path)} {text[5:]}" if text.startswith("this ") else text
    words = _WORDS.get(first["type"])
    message = first["msg"].replace("Input should be", "must be").replace("Input should", "must")
    said = message[0].lower() + message[1:] if words is None else words.format(**context)
    return f"{named(path)} {said}, got {first['input']!r}"


def _is_kind(part: int | str) -> bool:
    """Return whether a part of a path is the name of a type, one of several of a field."""
    return isinstance(part, str) and (part in ("int", "float", "str") or "[" in part)


def _fields_at(path: list[str], model: type[BaseModel]) -> list[str]:
    for part in path:
        if part in model.model_fields:  # else the index of a table in a list
            model = section_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def section_in(annotation: Any) -> type[BaseModel] | None:
    """Find the section that a field holds: itself, or as `| None`, or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := section_in(each))), None)
