"""The search space: choices for each stage. Free of torch and Optuna."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainers.packaged import BACKBONE
from trainers.schedule import LAYER_GROUPS, PROBE_FIELDS, Schedule, Stage, Train

SPACE_VERSION = 3
"""Part of a space's identity: raised when the same choices come to mean something else."""


_ANY_STAGE = Stage(image_size=64, batch_size=2)


class Section(BaseModel):
    """A part of the settings: unknown keys are refused, nothing changes after it is made."""

    model_config = ConfigDict(frozen=True, extra="forbid")


T = TypeVar("T")
Choices = Annotated[tuple[T, ...], Field(min_length=1)]
"""The values to choose from; one value is a constant."""


class StageChoices(Section):
    """The values to choose from, for each field of a stage.

    `late_lr` is not a field of a stage: it is the learning rate of the late body; the early body
    gets half of it, and `lrs` is then a number, the head's alone.
    """

    image_size: Choices[int] | None = None
    batch_size: Choices[int] | None = None
    train: Choices[str] | None = None
    n_cycles: Choices[int] | None = None
    cycle_len: Choices[int] | None = None
    cycle_mult: Choices[int] | None = None
    annealing: Choices[str] | None = None
    warm_up: Choices[float] | None = None
    min_steps: Choices[int] | None = None
    lrs: Choices[float | tuple[float, ...]] | None = None
    late_lr: Choices[float] | None = None
    layer_decay: Choices[float] | None = None
    crop: Choices[str] | None = None
    max_zoom: Choices[float] | None = None
    augmentation: Choices[str] | None = None
    erasing: Choices[float] | None = None
    mixup: Choices[float] | None = None
    cutmix: Choices[float] | None = None
    dropout: Choices[float | tuple[float, ...]] | None = None
    drop_path: Choices[float] | None = None
    frozen: Choices[float] | None = None
    views: Choices[int] | None = None
    batch_norm: Choices[str] | None = None
    optimizer: Choices[str] | None = None
    weight_decay: Choices[float] | None = None
    clip_grad: Choices[float] | None = None
    label_smoothing: Choices[float] | None = None
    loss: Choices[str] | None = None
    balance: Choices[str] | None = None
    ema: Choices[float] | None = None
    tta: Choices[bool] | None = None
    start_from: Choices[str] | None = None

    def given(self) -> dict[str, tuple[Any, ...]]:
        """Return the fields that have choices."""
        return {
            name: getattr(self, name) for name in StageChoices.model_fields if getattr(self, name)
        }


class Space(StageChoices):
    """The search space: choices for every stage, and overrides for single stages."""

    backbone: Choices[str] = (BACKBONE,)
    hidden: Choices[tuple[int, ...]] = ((512,),)
    levels: Choices[int] | None = None
    n_stages: Choices[Annotated[int, Field(ge=1, le=12)]] = (1, 2, 3)
    stages: tuple[StageChoices, ...] = ()

    @model_validator(mode="after")
    def _every_choice_is_a_stage(self) -> Self:
        for position in range(max(self.n_stages)):
            choices = self.of_stage(position)
            needed = ("image_size",) if _probes_only(choices) else ("image_size", "batch_size")
            for name in needed:
                if name not in choices:
                    raise ValueError(f"space.{name} must list at least 1 value, got none")
            first = {name: values[0] for name, values in choices.items()}
            for name, values in choices.items():
                for value in values:
                    stage = stage_of_choices({**first, name: value})
                    for hidden in self.hidden:
                        Schedule(backbone=self.backbone[0], hidden=hidden, stages=(stage,))
            cycles = ("n_cycles", "cycle_len", "cycle_mult")  # valid one by one, too many together
            stage_of_choices({**first, **{n: max(choices[n]) for n in cycles if n in choices}})
        for backbone in self.backbone:
            for levels in self.levels or (0,):
                Schedule(backbone=backbone, stages=(_ANY_STAGE,), levels=levels)
        return self

    def of_stage(self, position: int) -> dict[str, tuple[Any, ...]]:
        """Return the choices of one stage, counted from 0."""
        own = self.stages[position].given() if position < len(self.stages) else {}
        choices = {**self.given(), **own}
        if not _probes_only(choices):
            return choices
        return {name: values for name, values in choices.items() if name in PROBE_FIELDS}


def stage_of_choices(chosen: Mapping[str, Any]) -> Stage:
    """Make a stage from one choice for each field.

    `views` are cached activations of frozen blocks: without frozen blocks there are none.
    """
    fields = dict(chosen)
    if (late := fields.pop("late_lr", None)) is not None:
        head = fields.get("lrs", Stage.lrs[-1])
        if not isinstance(head, int | float):
            raise ValueError(f"lrs must be a number, the head's, beside late_lr, got {list(head)}")
        fields["lrs"] = (late / 2, late, head)
    if not fields.get("frozen"):
        fields.pop("views", None)
    return Stage(**fields)


def _probes_only(choices: Mapping[str, Sequence[Any]]) -> bool:
    return set(choices.get("train", ())) == {Train.PROBE.value}


PHOTO_SPACE = Space(
    n_stages=(1, 2, 3, 4),
    image_size=(64, 96, 128),
    batch_size=(32,),
    n_cycles=(1, 2),
    cycle_mult=(2,),
    lrs=(3e-4, 1e-3, 3e-3),
    crop=("random", "googlenet", "no"),
    max_zoom=(1.1,),
    augmentation=("side-on",),
    dropout=(0.1, (0.25, 0.5)),
    stages=(
        # The first stage is small and has few choices, so trials share what it trains.
        StageChoices(image_size=(64,), n_cycles=(1,), crop=("random",), dropout=((0.25, 0.5),)),
    ),
)
"""The default space for a custom trainer, of which only the fields of a stage are known."""

DIGITS_SPACE = Space(
    n_stages=(2,),
    image_size=(32, 40, 48),
    batch_size=(32,),
    cycle_len=(1, 2, 4),
    lrs=(3e-3, 1e-2, 2e-2),
    crop=("center",),
    augmentation=("none",),  # a mirrored 2 is not a 2
    dropout=(0.1, (0.25, 0.5)),
    stages=(StageChoices(image_size=(32, 48), cycle_len=(1,), lrs=(1e-2, 2e-2), dropout=(0.1,)),),
)
"""The default space for the handwritten digits, 8 x 8 pixels each."""


def describe_space(space: Space) -> dict[str, Any]:
    """Return what identifies a space, as plain JSON values, to be stored with the study."""
    return {"version": SPACE_VERSION, **json.loads(space.model_dump_json(exclude_none=True))}


def space_of(described: Mapping[str, Any]) -> Space:
    """Return the space that `describe_space` described, also by an earlier version."""
    plain = {name: value for name, value in described.items() if name != "version"}
    stages = [_renewed(stage) for stage in plain.get("stages", ())]
    return Space(**{**_renewed(plain), "stages": stages})


def space_changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Return in a phrase how two descriptions of spaces differ; "" if they do not."""
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return "; ".join(f"{name}: {old.get(name)} became {new.get(name)}" for name in names)


def _renewed(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Replace counts of whole layer groups by shares of the body."""
    new = dict(choices)
    if (groups := new.pop("frozen_groups", None)) is not None:
        new["frozen"] = [count / (len(LAYER_GROUPS) - 1) for count in groups]
    return new
