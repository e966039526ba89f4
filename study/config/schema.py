"""The settings of a search, with their defaults. Free of torch and Optuna."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    PlainSerializer,
    PlainValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from storage.paths import sqlite_file
from storage.remote import is_url, plain_url
from study.config.costs import Costs
from study.config.flags import Flag, Group
from study.config.portfolio import TYPICAL, space_for
from study.config.space import DIGITS_SPACE, PHOTO_SPACE, Section, Space
from trainers.base import Precision
from trainers.data.groups import parse_group_by
from trainers.data.sources import FEWEST_FOLDS, MOST_FOLDS
from trainers.metrics import Metric


class Preset(StrEnum):
    """A schedule that is tried first: the cheapest sound one, the BEST known, or the article's."""

    QUICK = "quick"
    BEST = "best"
    ARTICLE = "article"


class Sampler(StrEnum):
    """The sampler of Optuna that suggests the next schedule.

    Parameters whose choices are all numbers are ordered. CMAES models only these and draws all
    others at random. GP, CMAES and QMC model only parameters that all schedules of a space have.
    """

    TPE = "tpe"
    RANDOM = "random"
    GP = "gp"
    CMAES = "cmaes"
    QMC = "qmc"


class Strategy(StrEnum):
    """How schedules are chosen, and which of them are trained to their end.

    FORECAST trains, stage by stage, the trial with the largest expected improvement per second;
    INDEPENDENT trains each suggestion of the sampler to its end; ASHA stops the weaker ones after
    each stage; GRID trains the schedules of a file.
    """

    FORECAST = "forecast"
    INDEPENDENT = "independent"
    ASHA = "asha"
    GRID = "grid"


class EngineKind(StrEnum):
    """Where stage runs are trained: in this process, in one process per slot, or on a Ray cluster.

    AUTO means processes on a GPU or with several slots.
    """

    AUTO = "auto"
    INLINE = "inline"
    PROCESSES = "processes"
    RAY = "ray"


_BESIDE = ("", ".lock", "-wal", "-shm", "-journal")
"""The suffixes of an SQLite database's files."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _seconds(value: object) -> object:
    """Read "90s", "30m", "8h" or "2d"; leave the rest to pydantic."""
    if not isinstance(value, str | bool):
        return value
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([smhd])", str(value).strip().lower())
    if found is None:
        raise PydanticCustomError(
            "span", "must be a number with a unit, such as 90s, 30m, 8h or 2d"
        )
    return float(found[1]) * _UNITS[found[2]]


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)]
"""A span of time, written as "8h"; a bare number is seconds."""


def _size(value: Any) -> Any:
    """Refuse a size without a unit: 5 would be five bytes. Our own values are `ByteSize`."""
    if isinstance(value, ByteSize) or str(value).strip() == "0":
        return value
    if isinstance(value, int | float) or not value.strip(" 0123456789."):
        raise PydanticCustomError("size", "must be a size with a unit, such as 20GB")
    return value


Size = Annotated[
    ByteSize,
    BeforeValidator(_size),
    PlainSerializer(lambda size: f"{int(size)}B", return_type=str, when_used="json"),
]
"""A size on the disk, written as "20GB"; a bare number is refused, but for 0."""


Place = Annotated[str, AfterValidator(lambda text: plain_url(text) if is_url(text) else text)]
"""A path on this machine, or a URL."""


def _group_rule(text: str) -> str:
    """Refuse what `--group-by` cannot read."""
    try:
        parse_group_by(text)
    except ValueError as error:
        raise PydanticCustomError("group_by", "{reason}", {"reason": str(error)}) from None
    return text


GroupRule = Annotated[str, AfterValidator(_group_rule)]
"""How groups of photos are found: a regular expression, or exif-time:60s."""


class Data(Section):
    """Where the photos are: a folder or a CSV; None means the digits that scikit-learn ships.

    `cache_limit` bounds the decoded photos on disk; None is half of the free space. `regroup`
    splits the photos again, duplicates together; `allow_leaks` accepts duplicates across splits.
    `group_by` finds groups of photos that stay together, as those of one patient. With `folds`, the
    photos of train and validation are dealt into that many folds, and each photo is scored by the
    network trained without its fold.
    """

    source: Annotated[
        Place | None,
        Flag(
            Group.DATA,
            "Folder or CSV of photos, or its URL.",
            name="data",
            metavar="PHOTOS",
            default="the handwritten digits of scikit-learn",
        ),
    ] = None
    root: Annotated[
        Place | None,
        Flag(
            Group.DATA,
            "Folder that the paths of a CSV start from.",
            name="data_root",
            metavar="DIR",
            default="the CSV's own",
        ),
    ] = None
    cache_limit: Annotated[
        Size | None,
        Flag(
            Group.STORAGE,
            "Disk for decoded photos, such as 20GB.",
            metavar="SIZE",
            default="half of what is free",
        ),
    ] = None
    regroup: Annotated[
        bool, Flag(Group.DATA, "Split the photos again, keeping copies of one photo together.")
    ] = False
    allow_leaks: Annotated[
        bool,
        Flag(
            Group.DATA,
            "Search even if splits share photos or groups; scores are then too high.",
        ),
    ] = False
    group_by: Annotated[
        GroupRule | None,
        Flag(
            Group.DATA,
            "How photos are grouped: a regular expression with one capture group for their paths, "
            "or exif-time:60s.",
            metavar="REGEX",
            default="the CSV's column group, if there is one",
        ),
    ] = None
    folds: Annotated[
        Annotated[int, Field(ge=FEWEST_FOLDS, le=MOST_FOLDS)] | None,
        Flag(
            Group.DATA,
            "For few photos: train each schedule once per fold, and score it on all photos.",
            metavar="K",
            default="one split into train and validation",
        ),
    ] = None


TRIALS = 50
"""The number of trials if nothing else is given."""


class Budget(Section):
    """How much to train; the limit that is reached first ends the search.

    `trials` and `compute` (time of devices, all stage runs together) are totals over all runs of
    the same command, `timeout` is for each. Without `trials` there are 50, or as many as `compute`
    buys. With `until_flat` a search also ends once the same time again is expected to improve the
    score by less than validation could show. `max_failures` counts failed trials in a row,
    `max_retries` is per stage run whose worker died.
    """

    trials: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Flag(
            Group.BUDGET,
            "Trials in all, earlier ones included.",
            metavar="N",
            default=f"{TRIALS}, or what --budget buys",
            aliases=("--n-trials",),
        ),
    ] = None
    compute: Annotated[
        Seconds | None,
        Flag(
            Group.BUDGET,
            "Device time in all, earlier runs included, e.g. 20m or 2h.",
            name="budget",
            metavar="TIME",
            default="unlimited",
        ),
    ] = None
    timeout: Annotated[
        Seconds | None,
        Flag(Group.BUDGET, "Stop this run after a time, e.g. 8h.", metavar="TIME", default="never"),
    ] = None
    until_flat: Annotated[
        bool, Flag(Group.BUDGET, "Stop once the same time again would bring no visible gain.")
    ] = False
    max_failures: Annotated[
        Annotated[int, Field(ge=1)],
        Flag(Group.BUDGET, "Failed trials in a row that end the search.", metavar="N"),
    ] = 5
    max_retries: Annotated[
        Annotated[int, Field(ge=0)],
        Flag(Group.BUDGET, "Retries of a stage whose worker died.", metavar="N"),
    ] = 2

    @model_validator(mode="before")
    @classmethod
    def _something_ends_a_search(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("compute") is not None:
            return given
        return {**given, "trials": TRIALS if given.get("trials") is None else given["trials"]}


class Halving(Section):
    """Under strategy asha, the best 1/`eta` go on after a stage."""

    eta: Annotated[
        Annotated[int, Field(ge=2)],
        Flag(Group.SEARCH, "Under asha, the best 1/N go on after a stage.", metavar="N"),
    ] = 3


class Keeping(Section):
    """Whose weights stay on disk: the best of `trials` trials and the finalists'.

    `max_disk` bounds the size of all weights of the study, `max_predictions` that of its
    predictions in the database: beyond it, the weakest epochs keep two probabilities per photo.
    """

    trials: Annotated[
        Annotated[int, Field(ge=1)],
        Flag(Group.STORAGE, "Trials whose weights are kept.", name="keep", metavar="N"),
    ] = 10
    max_disk: Annotated[
        Size | None,
        Flag(
            Group.STORAGE,
            "Disk for all weights of the study, such as 20GB.",
            metavar="SIZE",
            default="unlimited",
        ),
    ] = None
    max_predictions: Size = ByteSize(10**9)


class Seeds(Section):
    """One seed explores; the `finalists` best schedules are repeated under fresh ones."""

    first: Annotated[
        Annotated[int, Field(ge=0, lt=2**31)],
        Flag(Group.SEARCH, "Seed that all trials but repeats share.", name="seed", metavar="N"),
    ] = 0
    repeats: Annotated[
        Annotated[int, Field(ge=0, le=1000)],
        Flag(Group.SEARCH, "Maximum number of fresh seeds per finalist.", metavar="N"),
    ] = 0
    finalists: Annotated[
        Annotated[int, Field(ge=1)],
        Flag(Group.SEARCH, "Best schedules to repeat under fresh seeds.", metavar="N"),
    ] = 5


def _registered(given: object) -> Metric:
    """Return the metric of a name."""
    found = next((metric for metric in Metric if metric == given), None)
    if found is None:
        *first, last = (repr(str(metric)) for metric in Metric)
        expected = f"{', '.join(first)} or {last}"
        raise PydanticCustomError("enum", "must be {expected}", {"expected": expected})
    return found


class StudyConfig(Section):
    """All settings of a search.

    With `portfolio` a search begins with two probes and, unless the space is the user's own, with
    complete schedules that fit the data.
    """

    study: Annotated[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")] | None,
        Flag(Group.OUTPUT, "Name of the study.", metavar="NAME", default="made of the data's"),
    ] = None
    storage: Annotated[
        str, Flag(Group.STORAGE, "URL of the database that all studies are in.", metavar="URL")
    ] = "sqlite:///runs/encore.db"
    metric: Annotated[
        Metric,
        PlainValidator(_registered),
        PlainSerializer(str),
        Flag(Group.SEARCH, "Metric that decides which trial is best."),
    ] = Metric.ACCURACY
    vault: Annotated[
        Annotated[str, AfterValidator(plain_url)] | None,
        Flag(
            Group.STORAGE,
            "URL to keep weights under, as s3://bucket/prefix.",
            metavar="URL",
            default="a folder beside the database",
        ),
    ] = None
    backbone: Annotated[
        str | None,
        Flag(
            Group.TRAINING,
            "Name of a timm model.",
            metavar="NAME",
            default="that of the search space",
            aliases=("--model",),
        ),
    ] = None
    strategy: Annotated[
        Strategy, Flag(Group.SEARCH, "How schedules are chosen, and which are trained to the end.")
    ] = Strategy.FORECAST
    grid: str | None = None
    trainer: Annotated[
        str | None,
        Flag(
            Group.TRAINING,
            "Your own class that trains a stage.",
            metavar="MODULE:CLASS",
            default="Encore's",
        ),
    ] = None
    engine: Annotated[
        EngineKind,
        Flag(Group.DEVICES, "Where stages run; auto: processes on a GPU or in several slots."),
    ] = EngineKind.AUTO
    address: Annotated[
        str | None,
        Flag(
            Group.DEVICES,
            "Ray cluster, auto or HOST:PORT.",
            metavar="ADDRESS",
            default="known to Ray, or started here",
        ),
    ] = None
    devices: Annotated[
        str,
        Flag(
            Group.DEVICES,
            "auto (all GPUs), 0,1 or cuda:1 or mps or cpu:2.",
            metavar="DEVICES",
            aliases=("--device",),
        ),
    ] = "auto"
    workers_per_device: Annotated[
        Annotated[int, Field(ge=1, le=64)],
        Flag(Group.DEVICES, "Trials that share a device.", metavar="N"),
    ] = 1
    precision: Annotated[
        Precision, Flag(Group.TRAINING, "Number format for training; auto depends on the device.")
    ] = Precision.AUTO
    compile: Annotated[bool, Flag(Group.TRAINING, "Pass networks through torch.compile.")] = False
    deterministic: Annotated[bool, Flag(Group.TRAINING, "Bit-identical results on a GPU, too.")] = (
        False
    )
    checkpoint_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    weights: Annotated[
        str | None,
        Flag(
            Group.TRAINING,
            "Initial weights of the backbone: a file, or 'random'.",
            metavar="FILE",
            default="packaged, or timm's",
        ),
    ] = None
    sampler: Annotated[
        Sampler, Flag(Group.SEARCH, "Optuna's sampler, which suggests schedules.")
    ] = Sampler.TPE
    preset: Annotated[
        Preset | None, Flag(Group.SEARCH, "A schedule to try first.", default="none")
    ] = None
    like: Annotated[
        str | None,
        Flag(
            Group.SEARCH,
            "Begin with the best schedules of this study, on other photos.",
            metavar="STUDY",
            default="none",
        ),
    ] = None
    portfolio: Annotated[
        bool, Flag(Group.SEARCH, "Begin with probes, and schedules that fit the data.")
    ] = True
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
                "--strategy grid needs a file of schedules, and no other strategy takes one; "
                "give --strategy grid FILE"
            )
        return self

    @model_validator(mode="after")
    def _a_grid_is_like_no_study(self) -> Self:
        if self.like is not None and self.grid is not None:
            raise ValueError("--like and --strategy grid both say what is tried; drop one of them")
        return self

    @model_validator(mode="after")
    def _a_trainer_of_one_s_own_knows_no_folds(self) -> Self:
        if self.data.folds is not None and self.trainer is not None:
            raise ValueError("--folds is for Encore's own trainer; drop it, or drop --trainer")
        return self

    @model_validator(mode="after")
    def _only_a_forecast_can_be_flat(self) -> Self:
        if self.budget.until_flat and self.strategy is not Strategy.FORECAST:
            raise ValueError(
                f"--until-flat needs --strategy forecast, which alone forecasts, got "
                f"--strategy {self.strategy}; drop one of them"
            )
        return self

    @model_validator(mode="after")
    def _repeats_come_after_a_number_of_trials(self) -> Self:
        endless = self.budget.trials is None and self.strategy is not Strategy.GRID
        if endless and self.seeds.repeats:
            raise ValueError(
                "--repeats needs --trials: finalists are repeated once all trials have ended, and "
                "--budget alone sets no number of them; give --trials as well, or --repeats 0"
            )
        return self

    @model_validator(mode="after")
    def _an_address_is_that_of_a_cluster(self) -> Self:
        if self.address is not None and self.engine is not EngineKind.RAY:
            raise ValueError("--address is for --engine ray alone; give that as well")
        if not re.fullmatch(r"auto|[^\s/@]+:\d{1,5}", self.address or "auto"):
            raise ValueError(f"--address must be auto or HOST:PORT, got {self.address!r}")
        return self

    @model_validator(mode="after")
    def _a_folder_needs_a_name_that_is_free(self) -> Self:
        file = sqlite_file(self.storage)
        taken = {f"{file.name}{end}".lower() for end in _BESIDE} if file is not None else set()
        if self.study_name.lower() in taken:
            raise ValueError(
                f"a study must not be named as the database's own file, got {self.study_name!r}; "
                "its folder lies beside that; give another --study"
            )
        return self

    @property
    def resolved_space(self) -> Space:
        """Return the space that is searched: the user's own, or a default.

        The default for photos depends on the data (see `fitting`); here typical data are assumed.
        """
        space = self.space or self._default_space()
        return space.model_copy(update={"backbone": (self.backbone,)}) if self.backbone else space

    def _default_space(self) -> Space:
        if self.data.source is None:
            return DIGITS_SPACE
        return PHOTO_SPACE if self.trainer else space_for(TYPICAL, self.backbone)

    @property
    def study_name(self) -> str:
        """Return the study's name: the given one, or one derived from the data's."""
        if self.study:
            return self.study
        path = Path(self.data.source or "digits").resolve()
        stem = path.stem if path.suffix.lower() == ".csv" else path.name
        name = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "-" for c in stem)
        return name.strip("_.-")[:100] or "study"
