"""Stages in words: the main fields, and others only if they are not at their defaults."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import groupby
from typing import Any

from trainers.schedule import Schedule, Stage, Train, spread_lr

LABELS = {
    "n_cycles": "cycles",
    "cycle_mult": "cycle mult",
    "annealing": "annealing",
    "warm_up": "warm-up",
    "min_steps": "min steps",
    "layer_decay": "layer decay",
    "max_zoom": "max zoom",
    "augmentation": "augmentation",
    "erasing": "erasing",
    "mixup": "mixup",
    "cutmix": "cutmix",
    "drop_path": "drop path",
    "frozen": "frozen",
    "views": "views",
    "batch_norm": "BatchNorm",
    "optimizer": "optimizer",
    "weight_decay": "weight decay",
    "clip_grad": "clip grad",
    "label_smoothing": "smoothing",
    "loss": "loss",
    "balance": "balance",
    "ema": "EMA",
    "tta": "mirror images",
    "start_from": "start from",
}
"""The display names of fields that are shown only if they are not at their defaults."""

SHARES = ("warm_up", "erasing", "drop_path", "frozen")
"""Those of them that are shares, shown in per cent."""

_DEFAULTS = {field.name: field.default for field in fields(Stage)}


def stages_text(stages: Sequence[Stage]) -> str:
    """Return stages of one kind in a few words; differing values are joined by `>`.

    The sizes are always those of all stages, so that one can see how many there are.
    """
    size = f"{'>'.join(str(stage.image_size) for stage in stages)} px"
    crop = f"{_joined(stage.crop for stage in stages)} crop"
    if stages[0].train is Train.PROBE:
        usual = all(stage.crop == _DEFAULTS["crop"] for stage in stages)
        parts = [f"probe {size}", *([] if usual else [crop])]
    else:
        parts = [
            size,
            f"epochs {_joined(stage.epochs for stage in stages)}",
            f"lr {_joined(lrs_text(stage) for stage in stages)}",
            f"bs {_joined(stage.batch_size for stage in stages)}",
            crop,
            f"dropout {_joined(_dropout_text(stage) for stage in stages)}",
        ]
    named = (f"{LABELS[name]} {_joined(values)}" for name, values in differing(stages).items())
    return ", ".join([*parts, *named])


def head_text(hidden: Sequence[int], levels: int) -> str:
    """Say what stands on the backbone: hidden layers and their units, or the output alone."""
    units = f"head with {' and '.join(map(str, hidden))} hidden units" if hidden else "linear head"
    return units + (f" that sees {levels} inner levels" if levels else "")


def schedule_text(schedule: Schedule) -> str:
    """Return a schedule in a few words, its probes and its training one after the other."""
    alike = groupby(schedule.stages, key=lambda stage: stage.train)
    return ", then ".join(stages_text(tuple(stages)) for _, stages in alike)


def stage_table(schedule: Schedule) -> list[list[str]]:
    """Return a schedule as a table: its head, then a row for each stage, counted from 1."""
    head = ["stage", "trains", "pixels", "photos per batch", "epochs", "learning rates"]
    named = differing(schedule.stages)
    rows = [
        [
            *(str(number), stage.train, str(stage.image_size)),
            *_course(stage, schedule.dropout_sites),
            *(values[number - 1] for values in named.values()),
        ]
        for number, stage in enumerate(schedule.stages, 1)
    ]
    return [[*head, "crop", "dropout", *(LABELS[name] for name in named)], *rows]


def _course(stage: Stage, dropout_sites: int) -> list[str]:
    if stage.train is Train.PROBE:
        return ["-", "-", "-", stage.crop, "-"]
    return [
        str(stage.batch_size),
        " + ".join(map(str, stage.cycle_lengths)),
        " / ".join(f"{lr:g}" for lr in stage.lrs),
        stage.crop,
        " / ".join(f"{rate:g}" for rate in stage.site_dropout(dropout_sites)),
    ]


def differing(stages: Sequence[Stage]) -> dict[str, list[str]]:
    """Return each stage's text for each field of `LABELS` that is not always at its default."""
    return {
        name: [value_text(name, getattr(stage, name)) for stage in stages]
        for name in LABELS
        if any(getattr(stage, name) != _DEFAULTS[name] for stage in stages)
    }


def value_text(name: str, value: Any) -> str:
    """Return the text of a value of a field of `LABELS`."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if name in SHARES:
        return f"{100 * value:.3g}%"
    return f"{value:.7g}" if isinstance(value, int | float) else str(value)


def lrs_text(stage: Stage) -> str:
    """Return the head's learning rate; all three if the body's are not in the default ratio."""
    head = stage.lrs[-1]
    return "/".join(f"{lr:g}" for lr in ((head,) if stage.lrs == spread_lr(head) else stage.lrs))


def _joined(values: Iterable[object]) -> str:
    texts = [str(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else ">".join(texts)


def _dropout_text(stage: Stage) -> str:
    rates = (stage.dropout,) if isinstance(stage.dropout, float) else stage.dropout
    return "/".join(f"{rate:g}" for rate in rates)
