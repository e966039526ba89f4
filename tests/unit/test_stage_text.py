"""Stages and schedules in words: all that was chosen is said, and nothing that was not."""

from dataclasses import fields
from typing import Any

import pytest

from study.report.figures.parameters import flattened, table_of
from study.stage_text import LABELS, differing, schedule_text, stage_table, stages_text
from tests.lab import schedule, stage
from trainers.schedule import Schedule, Stage, Train

PLAIN = "32 px, epochs 1, lr 0.001, bs 8, random crop, dropout 0"

SAID: list[tuple[dict[str, Any], str]] = [
    ({"n_cycles": 2, "cycle_mult": 2}, "cycles 2, cycle mult 2"),
    ({"annealing": "one-cycle"}, "annealing one-cycle"),
    ({"warm_up": 0.1}, "warm-up 10%"),
    ({"min_steps": 300}, "min steps 300"),
    ({"layer_decay": 0.75}, "layer decay 0.75"),
    ({"max_zoom": 1.1}, "max zoom 1.1"),
    ({"augmentation": "trivial"}, "augmentation trivial"),
    ({"erasing": 0.25}, "erasing 25%"),
    ({"mixup": 0.2}, "mixup 0.2"),
    ({"cutmix": 1.0}, "cutmix 1"),
    ({"drop_path": 0.125}, "drop path 12.5%"),
    ({"frozen": 0.35, "views": 8}, "frozen 35%, views 8"),
    ({"batch_norm": "frozen"}, "BatchNorm frozen"),
    ({"optimizer": "sgd"}, "optimizer sgd"),
    ({"weight_decay": 0.01}, "weight decay 0.01"),
    ({"clip_grad": 1.0}, "clip grad 1"),
    ({"label_smoothing": 0.1}, "smoothing 0.1"),
    ({"loss": "asymmetric"}, "loss asymmetric"),
    ({"balance": "sampling"}, "balance sampling"),
    ({"ema": 0.99999}, "EMA 0.99999"),
    ({"tta": True}, "mirror images on"),
    ({"start_from": "best"}, "start from best"),
]


def probe(size: int, **others: Any) -> Stage:
    """Make a probe."""
    return Stage(image_size=size, train=Train.PROBE, **others)


def linear(*stages: Stage) -> Schedule:
    """Make a schedule whose head has no hidden layer."""
    return Schedule(backbone="net", hidden=(), stages=stages, weights="random")


@pytest.mark.parametrize(("changes", "said"), SAID)
def test_a_field_is_named_where_it_is_not_at_its_default(
    changes: dict[str, Any], said: str
) -> None:
    """After what every stage has, and by its name in the field."""
    changed = stages_text([stage(**changes)])
    assert changed.endswith(f", {said}")
    assert changed.removesuffix(f", {said}").count(",") == PLAIN.count(",")
    assert stages_text([stage()]) == PLAIN


def test_no_field_of_a_stage_goes_unsaid() -> None:
    """A field that comes later has to have a name, or be said as every stage's are."""
    always = {"image_size", "batch_size", "train", "cycle_len", "lrs", "crop", "dropout"}
    assert {field.name for field in fields(Stage)} == always | LABELS.keys()


def test_a_probe_says_what_it_has_and_not_what_training_has() -> None:
    """Its image size, and its crop if that was chosen; the stages after it are apart."""
    assert schedule_text(linear(probe(224))) == "probe 224 px"
    assert schedule_text(linear(probe(224, crop="no", tta=True))) == (
        "probe 224 px, no crop, mirror images on"
    )
    assert schedule_text(linear(probe(128), stage(frozen=0.5), stage(64))) == (
        "probe 128 px, then 32>64 px, epochs 1, lr 0.001, bs 8, random crop, dropout 0, "
        "frozen 50%>0%"
    )


def test_learning_rates_of_the_body_are_said_where_they_are_its_own() -> None:
    """One number stands for all three only where the others follow from it."""
    own = Stage(image_size=32, batch_size=8, lrs=(0.0, 2e-4, 2e-3))
    assert "lr 0/0.0002/0.002," in stages_text([own])
    assert "lr 0.001>0/0.0002/0.002," in stages_text([stage(), own])


def test_a_table_of_stages_has_columns_for_what_was_chosen() -> None:
    """A row for each stage, all as long as the head; a probe has dashes for a network's course."""
    head, first, second = stage_table(linear(probe(64), stage(frozen=0.5, ema=0.9)))
    assert head[-2:] == ["frozen", "EMA"]
    assert len(head) == len(first) == len(second)
    assert first == ["1", "probe", "64", "-", "-", "-", "random", "-", "0%", "0"]
    assert second[:5] == ["2", "network", "32", "8", "1"]
    assert second[-2:] == ["50%", "0.9"]
    assert differing([stage()]) == {}


def test_parameters_have_a_column_for_every_field_that_differs() -> None:
    """Whatever differs between two schedules is a column of the figures."""
    plain = schedule(stage())
    for changes, _ in SAID:
        labels = {f"s1 {LABELS[name]}" for name in changes}
        assert labels <= table_of([plain, schedule(stage(**changes))]).keys()
    late = schedule(Stage(image_size=32, batch_size=8, lrs=(1e-4, 5e-4, 1e-3)))
    assert table_of([plain, late]) == {"s1 lr late/head": [0.2, 0.5]}


def test_a_probe_has_no_parameters_of_training() -> None:
    """Its columns are gaps where others have a learning rate or a batch size."""
    flat = flattened(linear(probe(64)))
    assert flat["s1 trains"] == "probe"
    assert not {"s1 lr", "s1 batch size", "s1 epochs", "s1 EMA"} & flat.keys()
