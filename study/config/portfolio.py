"""The recipe for given data: complete schedules, best first, and a space around them.

Pure, free of torch. All numbers of the recipe are in the tables at the top.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study.config.space import Space, StageChoices, stage_of_choices
from trainers.packaged import BACKBONE, NATIVE_SIZES, packaged_backbones
from trainers.schedule import Balance, BatchNorm, Schedule, Stage, Train

PROBE_SIZES = (
    (288, (160, 288)),
    (134, (160, 224)),
    (80, (128, 160)),
    (40, (64, 96)),
    (0, (32, 48)),
)
"""By the typical short side of the photos (from so many pixels): the two image sizes of the probes.

For photos whose short sides are 208 to 256 pixels, 288 px gains nothing over 224, the native size,
once the head sees inner levels, and costs 1.6 times as much (benchmarks/README.md).
"""

LEAST_HELD = 0.6
"""The smallest ratio of a photo's short side to the image size of another backbone's probe."""

LARGE_SIZES = ((448, (384,)),)
"""Additional sizes of a search on a GPU, for photos that are large enough."""

FROZEN_BELOW = 2000
"""With fewer training photos BatchNorm stays frozen: a probe's head stands on its statistics."""

LEVELS = 3
"""How many inner levels of a packaged backbone the head sees.

Probes then make 0.93 times the errors, at no more cost (benchmarks/README.md).
"""

BATCH_SIZE = 32

PASSES, LEAST_STEPS, MOST_STEPS = 6, 48, 8000
"""How many passes over the photos the recipe makes, and the bounds on their number of steps."""

STAGE: Mapping[str, Any] = {
    "batch_size": BATCH_SIZE,
    "annealing": "one-cycle",
    "lrs": 5e-4,
    "late_lr": 2e-4,
    "crop": "random",
    "max_zoom": 1.1,
    "augmentation": "side-on",
    "dropout": 0.25,
    "frozen": 0.5,
    "views": 4,
}
"""The stage after the probe, by the fields of a space; length and BatchNorm depend on the data."""

QUICK: Mapping[str, Any] = {"size": 0, "passes": 0.5}
"""The cheapest sound schedule. `passes` multiplies the length; `size` is the index of a probe size.
"""

VARIANTS: tuple[Mapping[str, Any], ...] = (
    {},
    {"lrs": 2e-4, "late_lr": 1e-4},
    {"lrs": 1e-3, "passes": 2},
    QUICK,
    {"frozen": 0.0, "passes": 0.5},
)
"""What the portfolio's schedules change in that stage, best first.

Data sets differ in how high the learning rates and how long the stage should be
(benchmarks/README.md).
"""

BALANCED: Mapping[str, Any] = {"balance": Balance.LOSS.value}
"""The portfolio's second schedule, where classes are imbalanced."""

HIDDEN = (512,)
STAGED: tuple[Mapping[str, Any], ...] = (
    {"frozen": 1.0, "passes": 0.5, "size": 0, "lrs": 3e-3},
    {"frozen": 0.0, "passes": 0.5, "size": 0},
    {"frozen": 0.0, "passes": 0.5},
)
"""The portfolio's last schedule: a hidden layer, and stages as fast.ai has them."""

SPACE: Mapping[str, tuple[Any, ...]] = {
    "lrs": (2e-4, 5e-4, 1e-3),
    "late_lr": (5e-5, 1e-4, 2e-4, 5e-4),
    "dropout": (0.25, 0.5),
    "frozen": (0.0, 0.35, 0.5, 0.65),
    "label_smoothing": (0.0, 0.1),
}
"""The choices of the space for that stage; all other fields are fixed."""

BALANCES = tuple(balance.value for balance in Balance)

IMBALANCED = 5
"""`BALANCES` are tried where a class has more than this many times another's training photos."""

SPACE_PASSES = (0.5, 1, 2)

VALIDATION_SHARE, VALIDATIONS = 0.1, 4
"""The largest share of a stage's time for validation, and the largest number of validations."""

TRAINING_COST = 3
"""The cost of a photo in training relative to one in validation."""


def imbalanced(counts: Sequence[int]) -> bool:
    """Return whether classes are imbalanced: the largest has many more photos than the smallest."""
    return max(counts) > IMBALANCED * min(counts)


@dataclass(frozen=True)
class DataFacts:
    """The facts about the data that the recipe depends on.

    Counts of photos and classes; `short_side` is the typical one in pixels; `smallest_class` and
    `largest_class` are the smallest and the largest count of training photos.
    """

    training: int
    validation: int
    classes: int
    short_side: int
    smallest_class: int
    largest_class: int
    on_gpu: bool = False

    @property
    def imbalanced(self) -> bool:
        """Whether balancing is tried: small classes may be lost among large ones."""
        return imbalanced((self.smallest_class, self.largest_class))


TYPICAL = DataFacts(
    training=255,
    validation=309,
    classes=2,
    short_side=300,
    smallest_class=100,
    largest_class=155,
)
"""Assumed facts before the data are read: about those of the article."""


def probe_sizes(facts: DataFacts) -> tuple[int, int]:
    """Return the two image sizes of the probes, the smaller one first."""
    return next(sizes for least, sizes in PROBE_SIZES if facts.short_side >= least)


def probes(facts: DataFacts, backbone: str, weights: str) -> tuple[Schedule, ...]:
    """Return the probes that every search begins with."""
    return tuple(_linear(backbone, weights, _probe(size)) for size in probe_sizes(facts))


def peers(facts: DataFacts, backbone: str, weights: str) -> tuple[Schedule, ...]:
    """Return probes of the packaged backbones beside this one, if it is one, at their own sizes.

    They use other features of a photo: the mean of several probes makes fewer errors than each.
    """
    names = packaged_backbones() if weights == "pretrained" else ()
    others = [name for name in names if name != backbone] if backbone in names else []
    return tuple(
        _linear(name, weights, _probe(NATIVE_SIZES[name]))
        for name in others
        if facts.short_side >= LEAST_HELD * NATIVE_SIZES[name]
    )


def portfolio(facts: DataFacts, backbone: str, weights: str) -> tuple[Schedule, ...]:
    """Return complete schedules, best first."""
    every = (*VARIANTS[:1], BALANCED, *VARIANTS[1:]) if facts.imbalanced else VARIANTS
    variants = (tuned(facts, backbone, weights, changes) for changes in every)
    return (*variants, staged(facts, backbone, weights))


def tuned(
    facts: DataFacts, backbone: str, weights: str, changes: Mapping[str, Any] | None = None
) -> Schedule:
    """Return the schedule of a probe and the recipe's stage, with these changes."""
    stage = _stage(facts, changes or {})
    return _linear(backbone, weights, _probe(stage.image_size), stage)


def staged(facts: DataFacts, backbone: str, weights: str) -> Schedule:
    """Return the schedule without a probe: the head first, then everything, then larger."""
    stages = tuple(_stage(facts, changes) for changes in STAGED)
    return Schedule(backbone=backbone, weights=weights, hidden=HIDDEN, stages=stages)


def space_for(facts: DataFacts, backbone: str | None = None) -> Space:
    """Return the space around the recipe's stage: for a probe, its size alone."""
    backbone = backbone or BACKBONE
    large = LARGE_SIZES if facts.on_gpu else ()
    held = next((sizes for least, sizes in large if facts.short_side >= least), ())
    lengths = [_length(facts, passes) for passes in SPACE_PASSES]
    fixed = {**STAGE, **_length(facts, 1), "batch_norm": _batch_norm(facts)}
    return Space(
        **{
            **{name: (value,) for name, value in fixed.items()},
            **SPACE,
            **({"balance": BALANCES} if facts.imbalanced else {}),
            "min_steps": tuple(dict.fromkeys(length["min_steps"] for length in lengths)),
            "image_size": tuple(sorted({*probe_sizes(facts), *held})),
            "hidden": ((),),
            "backbone": (backbone,),
            "levels": (levels_of(backbone),),
            "n_stages": (2,),
            "stages": (StageChoices(train=("probe",)),),
        }
    )


def levels_of(backbone: str) -> int:
    """Return how many inner levels the recipe's head sees: of other backbones nothing is known."""
    return LEVELS if backbone in NATIVE_SIZES else 0


def _linear(backbone: str, weights: str, *stages: Stage) -> Schedule:
    levels = levels_of(backbone)
    return Schedule(backbone=backbone, weights=weights, hidden=(), levels=levels, stages=stages)


def _probe(size: int) -> Stage:
    return Stage(image_size=size, train=Train.PROBE)


def _stage(facts: DataFacts, changes: Mapping[str, Any]) -> Stage:
    chosen = {**STAGE, "batch_norm": _batch_norm(facts), "size": -1, "passes": 1, **changes}
    size, passes = chosen.pop("size"), chosen.pop("passes")
    chosen |= {"image_size": probe_sizes(facts)[size], **_length(facts, passes)}
    return stage_of_choices(chosen)


def _length(facts: DataFacts, passes: float) -> dict[str, int]:
    """Return the epochs of a stage, and the steps that each has at least.

    The fewer epochs, the less often there is validation. All lengths have the same number of
    epochs, set by the shortest, so that a space has one parameter for them.
    """
    a_pass = math.ceil(facts.training / BATCH_SIZE)
    usual = min(max(PASSES * a_pass, LEAST_STEPS), max(a_pass, MOST_STEPS))
    shortest = usual * min(SPACE_PASSES)
    paid = shortest * BATCH_SIZE * TRAINING_COST * VALIDATION_SHARE / facts.validation
    epochs = max(1, math.floor(min(paid, shortest / a_pass, VALIDATIONS)))
    return {"cycle_len": epochs, "min_steps": math.ceil(usual * passes / epochs)}


def _batch_norm(facts: DataFacts) -> str:
    return (BatchNorm.FROZEN if facts.training < FROZEN_BELOW else BatchNorm.TRAIN).value
