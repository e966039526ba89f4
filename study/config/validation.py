"""What is wrong with settings, as one sentence for the user."""

import difflib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def one_sentence(error: ValidationError, model: type[BaseModel]) -> str:
    """Say the first thing that is wrong, naming the field, what it must be and what it is."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    name = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = _fields_at(path[:-1], model)
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return f"there is no setting {name!r}; {hint}"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{name}: {message}, got {first['input']!r}"


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
