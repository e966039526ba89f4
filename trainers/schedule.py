"""Stages, and schedules of them. Free of torch."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any, Literal, Self

from trainers.checks import check_between, check_known, check_whole, member_of, number, numbers

LAYER_GROUPS = ("body-early", "body-late", "head")
"""The three groups with a learning rate each, from the input to the output."""

MAX_IMAGE_SIZE = 4096

MOST_LEVELS = 8
"""More than any backbone's stages."""


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


class Train(StrEnum):
    """What a stage trains: the NETWORK by gradient descent, or a PROBE.

    A probe trains nothing of the body: its head becomes a regularised logistic regression on the
    body's pooled features, of each training photo and of its mirror image.
    """

    NETWORK = "network"
    PROBE = "probe"


class Augmentation(StrEnum):
    """Which random changes a training photo gets beside its crop.

    SIDE_ON (things seen from the side): rotation by up to 10 degrees, lighting, mirroring.
    TOP_DOWN (things seen from above): the same with all eight flips and quarter turns.
    TRIVIAL: mirroring, and one change of any kind and strength (TrivialAugment, Müller & Hutter
    2021).
    """

    NONE = "none"
    SIDE_ON = "side-on"
    TOP_DOWN = "top-down"
    TRIVIAL = "trivial"


class BatchNorm(StrEnum):
    """The statistics that BatchNorm uses; its affine weights train either way. TRAIN.

    Those of the batch, which are averaged further. FROZEN: the loaded ones, in the body and in a
    head from an earlier stage.
    """

    TRAIN = "train"
    FROZEN = "frozen"


class Balance(StrEnum):
    """How classes are balanced: by weights in the LOSS, or by SAMPLING rare ones more."""

    NONE = "none"
    LOSS = "loss"
    SAMPLING = "sampling"


class Loss(StrEnum):
    """What training lowers: cross-ENTROPY, or the ASYMMETRIC loss of several labels.

    That one counts sure and absent labels less, of which there are many (Ridnik et al. 2021).
    """

    ENTROPY = "entropy"
    ASYMMETRIC = "asymmetric"


class Optimizer(StrEnum):
    """ADAMW, or SGD with momentum 0.9."""

    ADAMW = "adamw"
    SGD = "sgd"


class Annealing(StrEnum):
    """The learning rates in a cycle: falling, or rising first (one-cycle)."""

    COSINE = "cosine"
    ONE_CYCLE = "one-cycle"


def spread_lr(lr: float) -> tuple[float, float, float]:
    """Return each layer group its discriminative learning rate: (lr/10, lr/5, lr)."""
    # Rounded, so that 1e-3 / 10 is exactly the literal 1e-4.
    return (float(f"{lr / 10:.12g}"), float(f"{lr / 5:.12g}"), float(lr))


PROBE_FIELDS = ("train", "image_size", "crop", "balance", "tta", "start_from")
"""The fields of a stage that apply to a probe."""

_NAMED: dict[str, type[StrEnum]] = {
    "annealing": Annealing,
    "crop": CropType,
    "augmentation": Augmentation,
    "batch_norm": BatchNorm,
    "optimizer": Optimizer,
    "loss": Loss,
    "balance": Balance,
}

_BOUNDS = {
    "warm_up": 0.99,
    "layer_decay": 1.0,
    "erasing": 1.0,
    "mixup": 10.0,
    "cutmix": 10.0,
    "drop_path": 0.99,
    "frozen": 1.0,
    "weight_decay": 10.0,
    "clip_grad": 1e6,
    "label_smoothing": 0.99,
    "ema": 0.99999,
}
"""The numbers of a stage that begin at 0, and where they end."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One block of training at one image size, batch size and set of learning rates.

    The learning rates are annealed by cosine in `n_cycles` cycles with warm restarts (SGDR,
    Loshchilov & Hutter 2017): the first lasts `cycle_len` epochs, each next one `cycle_mult` times
    longer. With `annealing` ONE_CYCLE they rise before they fall. `warm_up` is the share of the
    stage's steps in which they rise linearly to that. An epoch has as many passes over the photos
    as `min_steps` steps need. `lrs` is one per layer group, or one number spread as (lr/10, lr/5,
    lr); each block's is `layer_decay` times that of the block after it.

    `frozen` is the share of the body's blocks, from the input, that do not train: 1 trains the head
    alone. With `views`, that many augmented views of each photo are drawn once, and frozen blocks
    are applied to them once (see `trainers.inputs`); without, each epoch draws new ones.

    `dropout` is one number for every dropout site of the head, or a list over the sites that fills
    from the end; `drop_path` the rate of stochastic depth (Huang et al. 2016) at the last block.
    `erasing` is how often a random rectangle is erased (Zhong et al. 2020), `mixup` (Zhang et al.
    2018) and `cutmix` (Yun et al. 2019) are the alphas of their Beta distributions. `clip_grad`
    bounds the gradient's norm. With `ema`, the decay of an exponential moving average of the
    weights, that average is validated and kept. All of these are off at 0. With `tta` the
    probabilities of photos and their mirror images are averaged, in validation and prediction. A
    PROBE has an image size, a crop, `balance` and `tta`; all other fields are set to their
    defaults.
    """

    image_size: int
    batch_size: int = 32
    train: Train = Train.NETWORK
    n_cycles: int = 1
    cycle_len: int = 1
    cycle_mult: int = 1
    annealing: Annealing = Annealing.COSINE
    warm_up: float = 0.0
    min_steps: int = 1
    lrs: tuple[float, ...] = (1e-4, 2e-4, 1e-3)
    layer_decay: float = 1.0
    crop: CropType = CropType.RANDOM
    max_zoom: float = 1.0
    augmentation: Augmentation = Augmentation.NONE
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    dropout: float | tuple[float, ...] = 0.0
    drop_path: float = 0.0
    frozen: float = 0.0
    views: int = 0
    batch_norm: BatchNorm = BatchNorm.TRAIN
    optimizer: Optimizer = Optimizer.ADAMW
    weight_decay: float = 0.0
    clip_grad: float = 0.0
    label_smoothing: float = 0.0
    loss: Loss = Loss.ENTROPY
    balance: Balance = Balance.NONE
    ema: float = 0.0
    tta: bool = False
    start_from: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        """Normalise the accepted spellings to one, then check every bound."""
        object.__setattr__(self, "train", member_of(Train, "train", self.train))
        if self.train is Train.PROBE:
            for field in fields(self):
                if field.name not in PROBE_FIELDS:
                    object.__setattr__(self, field.name, field.default)
        lrs, dropout = numbers("lrs", self.lrs), numbers("dropout", self.dropout)
        object.__setattr__(self, "lrs", spread_lr(lrs) if isinstance(lrs, float) else lrs)
        object.__setattr__(self, "dropout", dropout)
        for name, kind in _NAMED.items():
            object.__setattr__(self, name, member_of(kind, name, getattr(self, name)))
        for name in (*_BOUNDS, "max_zoom"):
            object.__setattr__(self, name, number(name, getattr(self, name)))
        self._check()

    def _check(self) -> None:
        check_whole("image_size", self.image_size, 8, MAX_IMAGE_SIZE, "pixels")
        check_whole("batch_size", self.batch_size, 2, 65536, "photos")
        check_whole("n_cycles", self.n_cycles, 1, 100, "cycles")
        check_whole("cycle_len", self.cycle_len, 1, 10_000, "epochs")
        check_whole("cycle_mult", self.cycle_mult, 1, 10, "times")
        check_whole("min_steps", self.min_steps, 1, 1_000_000, "steps")
        check_whole("views", self.views, 0, 1000, "views")
        if self.epochs > 100_000:
            raise ValueError(f"a stage must have at most 100000 epochs, got {self.epochs}")
        if len(self.lrs) != len(LAYER_GROUPS):
            raise ValueError(
                f"lrs must be one number or {len(LAYER_GROUPS)} (one per layer group), "
                f"got {len(self.lrs)}"
            )
        for lr in self.lrs:
            check_between("lrs", lr, 0.0, 100.0)
        for rate in (self.dropout,) if isinstance(self.dropout, float) else self.dropout:
            check_between("dropout", rate, 0.0, 0.99)
        for name, high in _BOUNDS.items():
            check_between(name, getattr(self, name), 0.0, high)
        check_between("max_zoom", self.max_zoom, 1.0, 10.0)
        if not self.layer_decay:
            raise ValueError("layer_decay must be above 0 and at most 1, got 0")
        if not isinstance(self.tta, bool):
            raise TypeError(f"tta must be true or false, got {self.tta!r}")
        if self.start_from not in ("last", "best"):
            raise ValueError(f"start_from must be 'last' or 'best', got {self.start_from!r}")
        self._check_what_is_frozen()

    def _check_what_is_frozen(self) -> None:
        if self.views and not self.frozen:
            raise ValueError(
                f"views must be 0 where nothing is frozen, got {self.views}; "
                "views are kept of what frozen blocks make of them"
            )
        if self.cutmix and self.frozen == 1:
            raise ValueError(
                f"cutmix must be 0 where the whole body is frozen, got {self.cutmix:g}; "
                "pooled features have no rectangles, mixup mixes them"
            )

    @property
    def cycle_lengths(self) -> tuple[int, ...]:
        """Epochs of each cycle: cycle_len, cycle_len * cycle_mult, and so on."""
        return tuple(self.cycle_len * self.cycle_mult**i for i in range(self.n_cycles))

    @property
    def epochs(self) -> int:
        """Epochs of the whole stage."""
        return sum(self.cycle_lengths)

    def site_dropout(self, sites: int) -> tuple[float, ...]:
        """Return the dropout rate of each of the head's `sites`; a short list fills the last."""
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
    sites. Its input is the body's pooled features and the means over places of the body's last
    `levels` stages. `weights` are the backbone's initial weights: "pretrained", "random", or
    "sha256:..." of the weights file that the user gave.
    """

    backbone: str
    stages: tuple[Stage, ...]
    hidden: tuple[int, ...] = (512,)
    weights: str = "pretrained"
    levels: int = 0

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
            check_whole("hidden", width, 1, 65536, "units")
        check_whole("levels", self.levels, 0, MOST_LEVELS, "levels")
        if self.weights not in ("pretrained", "random") and not self.weights.startswith("sha256:"):
            raise ValueError(
                f"weights must be 'pretrained', 'random' or 'sha256:...', got {self.weights!r}"
            )
        for stage in self.stages:
            stage.site_dropout(self.dropout_sites)
            if stage.train is Train.PROBE and self.hidden:
                raise ValueError(
                    f"hidden must be empty where a stage is a probe, whose head is linear, "
                    f"got {list(self.hidden)}"
                )

    @property
    def dropout_sites(self) -> int:
        """Places in the head where dropout acts: before each hidden layer and the last."""
        return len(self.hidden) + 1

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    def prefixes(self) -> tuple[Self, ...]:
        """Return the schedules of the first 1, 2, ... stages; the last one is this schedule."""
        return tuple(replace(self, stages=self.stages[:k]) for k in range(1, len(self.stages) + 1))

    def to_dict(self) -> dict[str, Any]:
        """Return plain tuples, strings and numbers, as `from_dict` takes them.

        Fields of a stage at their defaults are omitted, and so are `levels` of 0, so that adding a
        field with a neutral default does not change digests.
        """
        plain = asdict(self)
        if not self.levels:
            del plain["levels"]
        defaults = {field.name: field.default for field in fields(Stage)}
        plain["stages"] = tuple(
            {name: value for name, value in stage.items() if value != defaults[name]}
            for stage in plain["stages"]
        )
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Build from `to_dict`, from TOML or from JSON; an unknown key is a ValueError."""
        check_known("schedule", plain, cls)
        stages = [_renewed(stage) for stage in plain.get("stages", ())]
        for stage in stages:
            check_known("stage", stage, Stage)
        return cls(**{**plain, "stages": tuple(Stage(**stage) for stage in stages)})

    def to_json(self) -> str:
        """Return the canonical JSON: equal schedules give equal text."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Build from `to_json`."""
        return cls.from_dict(json.loads(text))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def _renewed(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a stage written by an earlier version, in whole layer groups, to current fields."""
    new = dict(stage)
    if "frozen_groups" in new:
        new["frozen"] = new.pop("frozen_groups") / (len(LAYER_GROUPS) - 1)
    return new
