"""What a search can be told, with the defaults. Free of torch and Optuna."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

from storage.paths import sqlite_file
from storage.remote import is_url, plain_url
from study.config.costs import Costs
from study.config.portfolio import TYPICAL, space_for
from study.config.space import DIGITS_SPACE, PHOTO_SPACE, Section, Space
from trainers.base import Precision
from trainers.metrics import Metric


class Preset(StrEnum):
    """A schedule that is tried first: the cheapest sound one, the BEST known, or the article's."""

    QUICK = "quick"
    BEST = "best"
    ARTICLE = "article"


class Sampler(StrEnum):
    """Who suggests the next schedule (Optuna's samplers).

    Choices that are all numbers are ordered for them. CMAES models those alone, and draws from
    other lists at random. GP, CMAES and QMC model what all schedules of a space have.
    """

    TPE = "tpe"
    RANDOM = "random"
    GP = "gp"
    CMAES = "cmaes"
    QMC = "qmc"


class Strategy(StrEnum):
    """How schedules are chosen, and which of them are trained to their end.

    FORECAST trains, stage by stage, what promises most for each second; INDEPENDENT trains what
    the sampler suggests to its end; ASHA stops the weaker of it after each stage; GRID trains the
    schedules of a file.
    """

    FORECAST = "forecast"
    INDEPENDENT = "independent"
    ASHA = "asha"
    GRID = "grid"


class EngineKind(StrEnum):
    """Where stage runs are trained: in this process, in one process per slot, or on a Ray cluster.

    AUTO takes processes if there are several slots.
    """

    AUTO = "auto"
    INLINE = "inline"
    PROCESSES = "processes"
    RAY = "ray"


_BESIDE = ("", ".lock", "-wal", "-shm", "-journal")
"""How the names of an SQLite database's files end."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _seconds(value: object) -> object:
    """Read "90s", "30m", "8h" or "2d"; leave the rest to pydantic."""
    if not isinstance(value, str | bool):
        return value
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([smhd])", str(value).strip().lower())
    if found is None:
        raise PydanticCustomError("span", "must be a number with a unit, as 90s, 30m, 8h or 2d")
    return float(found[1]) * _UNITS[found[2]]


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)]
"""A span of time, written as "8h"; a bare number is seconds."""


Place = Annotated[str, AfterValidator(lambda text: plain_url(text) if is_url(text) else text)]
"""A path on this machine, or a URL."""


class Data(Section):
    """Where the photos are: a folder or a CSV; None is the digits that scikit-learn ships.

    `cache_limit` bounds the decoded photos on disk; None is half of what is free. `regroup` splits
    the photos anew, duplicates together; `allow_leaks` leaves them where they are.
    """

    source: Place | None = None
    root: Place | None = None
    cache_limit: ByteSize | None = None
    regroup: bool = False
    allow_leaks: bool = False


TRIALS = 50
"""How many trials there are in all where nothing is said."""


class Budget(Section):
    """How much to train; what is spent first ends the search.

    `trials` and `compute` (time of devices, all stage runs together) are totals over all runs of
    the same command, `timeout` is for each. Without `trials` there are 50, or as many as `compute`
    buys. With `until_flat` a search ends, too, where as much time again is expected to bring less
    than validation could show. `max_failures` are trials in a row, `max_retries` are for each stage
    run whose worker died.
    """

    trials: Annotated[int, Field(ge=1)] | None = None
    compute: Seconds | None = None
    timeout: Seconds | None = None
    until_flat: bool = False
    max_failures: Annotated[int, Field(ge=1)] = 5
    max_retries: Annotated[int, Field(ge=0)] = 2

    @model_validator(mode="before")
    @classmethod
    def _something_ends_a_search(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("compute") is not None:
            return given
        return {**given, "trials": TRIALS if given.get("trials") is None else given["trials"]}


class Halving(Section):
    """Under strategy asha, the best 1/`eta` go on after a stage."""

    eta: Annotated[int, Field(ge=2)] = 3


class Keeping(Section):
    """Whose weights stay on disk: the best of `trials` trials and the finalists'.

    `max_disk` bounds what all weights of the study take, `max_predictions` what its predictions
    take in the database: beyond it, the weakest epochs keep two probabilities per photo.
    """

    trials: Annotated[int, Field(ge=1)] = 10
    max_disk: ByteSize | None = None
    max_predictions: ByteSize = ByteSize(10**9)


class Seeds(Section):
    """One common seed explores; the `finalists` best schedules are repeated under fresh ones."""

    first: Annotated[int, Field(ge=0, lt=2**31)] = 0
    repeats: Annotated[int, Field(ge=0, le=1000)] = 0
    finalists: Annotated[int, Field(ge=1)] = 5


class StudyConfig(Section):
    """Everything a search is told, resolved.

    With `portfolio` a search begins with two probes and, where the space is not the user's own,
    with complete schedules that fit the data.
    """

    study: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")] | None = None
    storage: str = "sqlite:///runs/encore.db"
    metric: Metric = Metric.ACCURACY
    vault: Annotated[str, AfterValidator(plain_url)] | None = None
    backbone: str | None = None
    strategy: Strategy = Strategy.FORECAST
    grid: str | None = None
    trainer: str | None = None
    engine: EngineKind = EngineKind.AUTO
    address: str | None = None
    devices: str = "auto"
    workers_per_device: Annotated[int, Field(ge=1, le=64)] = 1
    precision: Precision = Precision.AUTO
    compile: bool = False
    deterministic: bool = False
    checkpoint_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    weights: str | None = None
    sampler: Sampler = Sampler.TPE
    preset: Preset | None = None
    portfolio: bool = True
    data: Data = Data()
    budget: Budget = Budget()
    seeds: Seeds = Seeds()
    halving: Halving = Halving()
    keep: Keeping = Keeping()
    costs: Costs = Costs()
    space: Space | None = None

    @model_validator(mode="after")
    def _a_grid_needs_its_file(self) -> Self:
        if (self.strategy is Strategy.GRID) != (self.grid is not None):
            raise ValueError(
                "strategy grid must come with a file of schedules, and no other strategy with one; "
                "give --strategy grid FILE"
            )
        return self

    @model_validator(mode="after")
    def _only_a_forecast_can_be_flat(self) -> Self:
        if self.budget.until_flat and self.strategy is not Strategy.FORECAST:
            raise ValueError(
                f"until_flat needs strategy forecast, which alone expects anything, got "
                f"{self.strategy}; leave one of them away"
            )
        return self

    @model_validator(mode="after")
    def _repeats_come_after_a_number_of_trials(self) -> Self:
        endless = self.budget.trials is None and self.strategy is not Strategy.GRID
        if endless and self.seeds.repeats:
            raise ValueError(
                "seeds.repeats needs budget.trials: finalists are repeated once all trials have "
                "ended, and a budget of compute alone sets no number of them; give --trials as "
                "well, or --repeats 0"
            )
        return self

    @model_validator(mode="after")
    def _an_address_is_that_of_a_cluster(self) -> Self:
        if self.address is not None and self.engine is not EngineKind.RAY:
            raise ValueError("address is for engine ray alone; give --engine ray as well")
        if not re.fullmatch(r"auto|[^\s/@]+:\d{1,5}", self.address or "auto"):
            raise ValueError(f"address must be auto or host:port, got {self.address!r}")
        return self

    @model_validator(mode="after")
    def _a_folder_needs_a_name_that_is_free(self) -> Self:
        file = sqlite_file(self.storage)
        taken = {f"{file.name}{end}".lower() for end in _BESIDE} if file is not None else set()
        if self.study_name.lower() in taken:
            raise ValueError(
                f"study must not be named as the database's own file, got {self.study_name!r}; "
                "its folder lies beside that; give another --study"
            )
        return self

    @property
    def resolved_space(self) -> Space:
        """Return the space that is searched: the user's own, or a default.

        The default for photos is made from the data (see `fitting`), here from typical ones.
        """
        space = self.space or self._default_space()
        return space.model_copy(update={"backbone": (self.backbone,)}) if self.backbone else space

    def _default_space(self) -> Space:
        if self.data.source is None:
            return DIGITS_SPACE
        return PHOTO_SPACE if self.trainer else space_for(TYPICAL)

    @property
    def study_name(self) -> str:
        """Return the study's name: the user's own, or made of the data's."""
        if self.study:
            return self.study
        path = Path(self.data.source or "digits").resolve()
        stem = path.stem if path.suffix.lower() == ".csv" else path.name
        name = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "-" for c in stem)
        return name.strip("_.-")[:100] or "study"
