"""What a search is told: defaults, under `study.toml`, under flags. Free of torch and Optuna."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ByteSize, Field, ValidationError, model_validator

from study.choices import DIGITS_SPACE, PHOTO_SPACE, Section, Space, StageChoices
from trainers.base import Precision
from trainers.metrics import Metric


class ConfigError(ValueError):
    """A setting that cannot be; the message is one sentence for the user."""


class Preset(StrEnum):
    """A schedule that runs as the first trial."""

    ARTICLE = "article"
    QUICK = "quick"


class Sampler(StrEnum):
    """Who suggests the next schedule (Optuna's samplers).

    CMAES models numbers only; Encore's lists of choices it draws from at random.
    """

    TPE = "tpe"
    RANDOM = "random"
    GP = "gp"
    CMAES = "cmaes"
    QMC = "qmc"


class Pruner(StrEnum):
    """Who stops a trial early (Optuna's pruners)."""

    NONE = "none"
    MEDIAN = "median"
    ASHA = "asha"
    HYPERBAND = "hyperband"


class Data(Section):
    """Where the photos are: a folder or a CSV; None is the digits that scikit-learn ships.

    `cache_limit` bounds the decoded photos on disk; None is half of what is free.
    """

    source: str | None = None
    root: str | None = None
    cache_limit: ByteSize | None = None


class Budget(Section):
    """How much to train. `trials` is a total over all runs of the same command."""

    trials: Annotated[int, Field(ge=1)] = 50
    max_failures: Annotated[int, Field(ge=1)] = 5


class Seeds(Section):
    """One common seed explores; the `finalists` best schedules are repeated under fresh ones."""

    first: Annotated[int, Field(ge=0, lt=2**31)] = 0
    repeats: Annotated[int, Field(ge=0, le=1000)] = 0
    finalists: Annotated[int, Field(ge=1)] = 5


class StudyConfig(Section):
    """Everything a search is told, resolved."""

    study: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")] | None = None
    storage: str = "sqlite:///runs/encore.db"
    metric: Metric = Metric.ACCURACY
    backbone: str | None = None
    device: str = "auto"
    precision: Precision = Precision.AUTO
    compile: bool = False
    deterministic: bool = False
    checkpoint_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    weights: str | None = None
    sampler: Sampler = Sampler.TPE
    pruner: Pruner = Pruner.NONE
    preset: Preset | None = None
    data: Data = Data()
    budget: Budget = Budget()
    seeds: Seeds = Seeds()
    space: Space | None = None

    @model_validator(mode="after")
    def _a_preset_needs_a_sampler_that_can_learn_beside_it(self) -> Self:
        if self.preset and self.sampler not in (Sampler.TPE, Sampler.RANDOM):
            raise ValueError(
                f"a preset lies outside the search space, which --sampler {self.sampler} cannot "
                "learn beside; use --sampler tpe or random"
            )
        return self

    @property
    def resolved_space(self) -> Space:
        """Give the space that is searched: the user's own, or the default for this data."""
        default = DIGITS_SPACE if self.data.source is None else PHOTO_SPACE
        space = self.space or default
        return space.model_copy(update={"backbone": (self.backbone,)}) if self.backbone else space

    @property
    def study_name(self) -> str:
        """Give the study's name: the user's own, or made of the data's."""
        if self.study:
            return self.study
        path = Path(self.data.source or "digits").resolve()
        stem = path.stem if path.suffix.lower() == ".csv" else path.name
        name = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "-" for c in stem)
        return name.strip("_.-")[:100] or "study"


def load_config(flags: Mapping[str, Any] | None = None, file: Path | None = None) -> StudyConfig:
    """Resolve a config: defaults, under a TOML file, under flags (nested, None is "not given").

    Raises `ConfigError`.
    """
    settings: dict[str, Any] = {}
    if file is not None:
        try:
            settings = tomllib.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"there is no config file {file}; check the path") from None
        except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} is not a readable TOML file: {error}") from None
    _overlay(settings, flags or {})
    try:
        return StudyConfig(**settings)
    except ValidationError as error:
        where = f"{file}: " if file and not _is_in(error.errors()[0]["loc"], flags or {}) else ""
        raise ConfigError(where + _one_sentence(error)) from None


_SECTION = {
    "data": ("data", "source"),
    "data_root": ("data", "root"),
    "cache_limit": ("data", "cache_limit"),
    "trials": ("budget", "trials"),
    "max_failures": ("budget", "max_failures"),
    "seed": ("seeds", "first"),
    "repeats": ("seeds", "repeats"),
    "finalists": ("seeds", "finalists"),
}
"""Where in the config a flag of the command line goes, if not to the top."""


def settings_of(**flags: Any) -> dict[str, Any]:
    """Nest settings that are named as the command line's flags are, for `load_config`."""
    nested: dict[str, Any] = {}
    for name, value in flags.items():
        section, field = _SECTION.get(name, (None, name))
        place = nested.setdefault(section, {}) if section else nested
        place[field] = str(value) if isinstance(value, Path) else value
    return nested


def _overlay(settings: dict[str, Any], flags: Mapping[str, Any]) -> None:
    for name, value in flags.items():
        if isinstance(value, Mapping):
            below = settings.setdefault(name, {})
            if isinstance(below, dict):  # else the file has a value for a section: told later
                _overlay(below, value)
        elif value is not None:
            settings[name] = value


def _is_in(path: Sequence[int | str], flags: Mapping[str, Any]) -> bool:
    """Tell whether a flag set what lies at `path`, so that no file is to blame."""
    place: Any = flags
    for part in path:
        place = place.get(part) if isinstance(place, Mapping) else None
    return place is not None


def _one_sentence(error: ValidationError) -> str:
    """Say the first thing that is wrong, naming the field, what it must be and what it is."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    name = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = _fields_at(path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return f"there is no setting {name!r}; {hint}"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{name}: {message}, got {first['input']!r}"


def _fields_at(path: list[str]) -> list[str]:
    kind: type[BaseModel] = StudyConfig
    sections: dict[str, type[BaseModel]] = {
        "data": Data, "budget": Budget, "seeds": Seeds, "space": Space, "stages": StageChoices
    }  # fmt: skip
    for part in path:
        kind = sections.get(part, kind)
    return list(kind.model_fields)
