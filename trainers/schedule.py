"""What is trained: stages, and the schedule that puts them in order. Free of torch."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any, Literal, Self

LAYER_GROUPS = ("body-early", "body-late", "head")
"""The three groups with a learning rate each, from the input to the output."""

MAX_IMAGE_SIZE = 4096


class CropType(StrEnum):
    """How a photo becomes a square, with the meanings of fast.ai 0.7.

    All but GOOGLENET first scale the short side to the image size. RANDOM then cuts a square
    anywhere (validation: from the centre), CENTER from the centre, and NO squeezes the whole
    photo into the square. GOOGLENET cuts a random area at a random aspect ratio (validation:
    from the centre).
    """

    RANDOM = "random"
    CENTER = "center"
    NO = "no"
    GOOGLENET = "googlenet"


class Augmentation(StrEnum):
    """Which random changes a training photo gets beside its crop.

    SIDE_ON (things seen from the side): rotation by up to 10 degrees, lighting, mirroring.
    TOP_DOWN (things seen from above): the same with all eight flips and quarter turns.
    """

    NONE = "none"
    SIDE_ON = "side-on"
    TOP_DOWN = "top-down"


class Optimizer(StrEnum):
    """ADAMW, or SGD with momentum 0.9."""

    ADAMW = "adamw"
    SGD = "sgd"


class Annealing(StrEnum):
    """How the learning rates run through a cycle: falling, or rising first (one-cycle)."""

    COSINE = "cosine"
    ONE_CYCLE = "one-cycle"


def spread_lr(lr: float) -> tuple[float, float, float]:
    """Give each layer group its discriminative learning rate: (lr/10, lr/5, lr)."""
    # Rounded, so that 1e-3 / 10 is the 1e-4 that a person would write, to the last bit.
    return (float(f"{lr / 10:.12g}"), float(f"{lr / 5:.12g}"), float(lr))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One block of training at one image size, batch size and set of learning rates.

    The learning rates are annealed by cosine in `n_cycles` cycles with warm restarts (SGDR,
    Loshchilov & Hutter 2017): the first lasts `cycle_len` epochs, each next one `cycle_mult`
    times longer. With `annealing` ONE_CYCLE they rise before they fall. `lrs` is one per layer
    group, or one number spread as (lr/10, lr/5, lr). `dropout` is one number for every dropout
    site of the head, or a list over the sites that fills from the end. `frozen_groups` counts
    layer groups from the input that do not train.
    """

    image_size: int
    batch_size: int
    n_cycles: int = 1
    cycle_len: int = 1
    cycle_mult: int = 1
    annealing: Annealing = Annealing.COSINE
    lrs: tuple[float, ...] = (1e-4, 2e-4, 1e-3)
    crop: CropType = CropType.RANDOM
    max_zoom: float = 1.0
    augmentation: Augmentation = Augmentation.NONE
    dropout: float | tuple[float, ...] = 0.0
    frozen_groups: int = 0
    optimizer: Optimizer = Optimizer.ADAMW
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    start_from: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        """Normalise the accepted spellings to one, then check every bound."""
        lrs, dropout = _numbers("lrs", self.lrs), _numbers("dropout", self.dropout)
        object.__setattr__(self, "lrs", spread_lr(lrs) if isinstance(lrs, float) else lrs)
        object.__setattr__(self, "dropout", dropout)
        for name, kind in (
            ("annealing", Annealing),
            ("crop", CropType),
            ("augmentation", Augmentation),
            ("optimizer", Optimizer),
        ):
            object.__setattr__(self, name, _member(kind, name, getattr(self, name)))
        for name in ("max_zoom", "weight_decay", "label_smoothing"):
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        self._check()

    def _check(self) -> None:
        _whole("image_size", self.image_size, 8, MAX_IMAGE_SIZE, "pixels")
        _whole("batch_size", self.batch_size, 2, 65536, "photos")
        _whole("n_cycles", self.n_cycles, 1, 100, "cycles")
        _whole("cycle_len", self.cycle_len, 1, 10_000, "epochs")
        _whole("cycle_mult", self.cycle_mult, 1, 10, "times")
        if self.epochs > 100_000:
            raise ValueError(f"a stage must have at most 100000 epochs, got {self.epochs}")
        if len(self.lrs) != len(LAYER_GROUPS):
            raise ValueError(
                f"lrs must be one number or {len(LAYER_GROUPS)} (one per layer group), "
                f"got {len(self.lrs)}"
            )
        for lr in self.lrs:
            _between("lrs", lr, 0.0, 100.0)
        for rate in (self.dropout,) if isinstance(self.dropout, float) else self.dropout:
            _between("dropout", rate, 0.0, 0.99)
        _between("max_zoom", self.max_zoom, 1.0, 10.0)
        _between("weight_decay", self.weight_decay, 0.0, 10.0)
        _between("label_smoothing", self.label_smoothing, 0.0, 0.99)
        _whole("frozen_groups", self.frozen_groups, 0, len(LAYER_GROUPS) - 1, "layer groups")
        if self.start_from not in ("last", "best"):
            raise ValueError(f"start_from must be 'last' or 'best', got {self.start_from!r}")

    @property
    def cycle_lengths(self) -> tuple[int, ...]:
        """Epochs of each cycle: cycle_len, cycle_len * cycle_mult, and so on."""
        return tuple(self.cycle_len * self.cycle_mult**i for i in range(self.n_cycles))

    @property
    def epochs(self) -> int:
        """Epochs of the whole stage."""
        return sum(self.cycle_lengths)

    def site_dropout(self, sites: int) -> tuple[float, ...]:
        """Give the dropout rate of each of the head's `sites` (a short list fills from the end)."""
        if isinstance(self.dropout, float):
            return (self.dropout,) * sites
        if len(self.dropout) > sites:
            raise ValueError(
                f"dropout must list at most {sites} rates, one per dropout site of the head, "
                f"got {len(self.dropout)}"
            )
        return (0.0,) * (sites - len(self.dropout)) + self.dropout


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A backbone, a head and the stages that train them. Its digest is its identity.

    `hidden` are the widths of the head's hidden layers, so the head has `len(hidden) + 1` dropout
    sites. `weights` is what the backbone starts from: "pretrained", "random", or
    "sha256:..." of the weights file that the user gave.
    """

    backbone: str
    stages: tuple[Stage, ...]
    hidden: tuple[int, ...] = (512,)
    weights: str = "pretrained"

    def __post_init__(self) -> None:
        """Normalise sequences, then check."""
        for name in ("backbone", "weights"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be text, got {getattr(self, name)!r}")
        object.__setattr__(self, "stages", tuple(self.stages))
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if not self.backbone or not all(c.isalnum() or c in "_.-" for c in self.backbone):
            raise ValueError(f"backbone must be the name of a timm model, got {self.backbone!r}")
        if not self.stages:
            raise ValueError("stages must hold at least 1 stage, got none")
        for width in self.hidden:
            _whole("hidden", width, 1, 65536, "units")
        if self.weights not in ("pretrained", "random") and not self.weights.startswith("sha256:"):
            raise ValueError(
                f"weights must be 'pretrained', 'random' or 'sha256:...', got {self.weights!r}"
            )
        for stage in self.stages:
            stage.site_dropout(self.dropout_sites)

    @property
    def dropout_sites(self) -> int:
        """Places in the head where dropout acts: before each hidden layer and the last."""
        return len(self.hidden) + 1

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    def prefixes(self) -> tuple[Self, ...]:
        """Give the schedules of the first 1, 2, ... stages; the last one is this schedule."""
        return tuple(replace(self, stages=self.stages[:k]) for k in range(1, len(self.stages) + 1))

    def to_dict(self) -> dict[str, Any]:
        """Give plain tuples, strings and numbers, as `from_dict` takes them."""
        plain = asdict(self)
        for stage in plain["stages"]:
            if stage["annealing"] is Annealing.COSINE:
                del stage["annealing"]  # once there was no other: digests stay as they were
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Build from `to_dict`, from TOML or from JSON; an unknown key is a ValueError."""
        _known("schedule", plain, cls)
        stages = plain.get("stages", ())
        for stage in stages:
            _known("stage", stage, Stage)
        return cls(**{**plain, "stages": tuple(Stage(**stage) for stage in stages)})

    def to_json(self) -> str:
        """Give the canonical JSON: equal schedules give equal text."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Build from `to_json`."""
        return cls.from_dict(json.loads(text))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def _member(kind: type[StrEnum], name: str, value: str) -> StrEnum:
    try:
        return kind(value.lower())
    except (ValueError, AttributeError):
        raise ValueError(f"{name} must be one of {', '.join(kind)}, got {value!r}") from None


def _number(name: str, value: Any) -> float:
    try:
        # 0.0 is added because -0.0 equals 0.0, but its JSON and so its digest do not.
        return float(value + 0.0)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None


def _numbers(name: str, value: Any) -> float | tuple[float, ...]:
    if isinstance(value, Iterable) and not isinstance(value, str):
        return tuple(_number(name, each) for each in value)
    return _number(name, value)


def _whole(name: str, value: object, low: int, high: int, unit: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number of {unit}, got {value!r}")
    if value < low:
        one = unit.removesuffix("s") if low == 1 else unit
        raise ValueError(f"{name} must be at least {low} {one}, got {value}")
    if value > high:
        raise ValueError(f"{name} must be at most {high} {unit}, got {value}")


def _between(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name} must be from {low:g} to {high:g}, got {value:g}")


def _known(what: str, plain: Mapping[str, Any], kind: type[Any]) -> None:
    names = {field.name for field in fields(kind)}
    for key in plain:
        if key not in names:
            raise ValueError(f"a {what} has no field {key!r}; it has {', '.join(sorted(names))}")
