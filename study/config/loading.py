"""Merge defaults, a study's TOML file and flags into the settings of a search."""

import copy
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ByteSize, ValidationError

from study.config.flags import settings_in
from study.config.schema import StudyConfig
from study.config.validation import one_sentence
from study.errors import ConfigError


def load_config(
    flags: Mapping[str, Any] | None = None,
    file: Path | None = None,
    *,
    stored: Mapping[str, Any] | None = None,
) -> StudyConfig:
    """Merge a config: flags (nested, None is "not given") over a TOML file over defaults.

    `stored` settings of a study replace the file. Raises `ConfigError`.
    """
    settings: dict[str, Any] = _with_units(copy.deepcopy(dict(stored or {})))
    if file is not None:
        settings = read_toml(file, "config")
    _overlay(settings, flags or {})
    try:
        return StudyConfig(**settings)
    except ValidationError as error:
        if _is_in(error.errors()[0]["loc"], flags or {}):
            raise ConfigError(one_sentence(error, StudyConfig, _option_at)) from None
        where = f"{file}: " if file else ""
        raise ConfigError(where + one_sentence(error, StudyConfig)) from None


def read_toml(file: Path, what: str) -> dict[str, Any]:
    """Read a TOML file; `what` names it in the `ConfigError` if it cannot be read."""
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise ConfigError(f"{str(file)!r} is not a regular file; give a TOML file")
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no {what} file {str(file)!r}; check the path") from None
    except RecursionError:
        raise ConfigError(f"{str(file)!r} nests too deeply; {what} files have few levels") from None
    except (ValueError, OSError) as error:  # invalid TOML or UTF-8, or a number too long for Python
        raise ConfigError(f"{str(file)!r} is not a readable TOML file: {error}") from None


_SETTINGS = {setting.name: setting for setting in settings_in(StudyConfig)}
"""The settings that have a flag, by its name."""


def settings_of(**flags: Any) -> dict[str, Any]:
    """Nest settings that are named as the command line's flags are, for `load_config`."""
    nested: dict[str, Any] = {}
    for name, value in flags.items():
        *sections, field = _SETTINGS[name].path if name in _SETTINGS else (name,)
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[field] = str(value) if isinstance(value, Path) else value
    return nested


def _with_units(stored: dict[str, Any]) -> dict[str, Any]:
    """Return stored settings with sizes as text; earlier versions stored numbers of bytes."""
    for section, name in (
        ("data", "cache_limit"),
        ("keep", "max_disk"),
        ("keep", "max_predictions"),
    ):
        place = stored.get(section)
        if isinstance(place, dict) and isinstance(place.get(name), int):
            place[name] = ByteSize(place[name])
    return stored


def _overlay(settings: dict[str, Any], flags: Mapping[str, Any]) -> None:
    for name, value in flags.items():
        if isinstance(value, Mapping):
            below = settings.setdefault(name, {})
            if isinstance(below, dict):  # else validation reports it
                _overlay(below, value)
        elif value is not None:
            settings[name] = value


def _option_at(path: Sequence[str]) -> str:
    """Return the flag that sets what lies at `path`."""
    options = (each.option for each in _SETTINGS.values() if each.path == tuple(path))
    return next(options, ".".join(path))


def _is_in(path: Sequence[int | str], flags: Mapping[str, Any]) -> bool:
    """Return whether a flag set the value at `path`, so that a message must not name the file."""
    if not path:  # an error about several settings together
        return any(value is not None for value in flags.values())
    place: Any = flags
    for part in path:
        place = place.get(part) if isinstance(place, Mapping) else None
    return place is not None
