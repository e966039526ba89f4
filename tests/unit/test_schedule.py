"""Schedules: what is refused and in which words, how spellings become one, and their identity."""

import json
import math
from typing import Any

import pytest

from trainers.schedule import Augmentation, CropType, Optimizer, Schedule, Stage, spread_lr


def stage(**fields: Any) -> Stage:
    """Return a small stage with some fields changed."""
    return Stage(**{"image_size": 64, "batch_size": 8, **fields})


def schedule(**fields: Any) -> Schedule:
    """Return a small schedule with some fields changed."""
    return Schedule(**{"backbone": "resnet18", "stages": (stage(),), **fields})


BOUNDS = [
    ("image_size", 7, "image_size must be at least 8 pixels, got 7"),
    ("image_size", 4097, "image_size must be at most 4096 pixels, got 4097"),
    ("batch_size", 1, "batch_size must be at least 2 photos, got 1"),
    ("n_cycles", 0, "n_cycles must be at least 1 cycle, got 0"),
    ("cycle_len", 0, "cycle_len must be at least 1 epoch, got 0"),
    ("cycle_len", -3, "cycle_len must be at least 1 epoch, got -3"),
    ("cycle_mult", 0, "cycle_mult must be at least 1 time, got 0"),
    ("lrs", (1e-3, 1e-3), "lrs must be one number or 3 (one per layer group), got 2"),
    ("lrs", (), "lrs must be one number or 3 (one per layer group), got 0"),
    ("lrs", (0, 0, -1), "lrs must be from 0 to 100, got -1"),
    ("lrs", math.nan, "lrs must be from 0 to 100, got nan"),
    ("lrs", (0.1, math.inf, 0.1), "lrs must be from 0 to 100, got inf"),
    ("dropout", 1.0, "dropout must be from 0 to 0.99, got 1"),
    ("dropout", (0.5, -0.5), "dropout must be from 0 to 0.99, got -0.5"),
    ("max_zoom", 0.9, "max_zoom must be from 1 to 10, got 0.9"),
    ("weight_decay", -1, "weight_decay must be from 0 to 10, got -1"),
    ("label_smoothing", 1, "label_smoothing must be from 0 to 0.99, got 1"),
    ("frozen", 1.5, "frozen must be from 0 to 1, got 1.5"),
    ("frozen", -1, "frozen must be from 0 to 1, got -1"),
    ("start_from", "worst", "start_from must be 'last' or 'best', got 'worst'"),
    ("crop", "round", "crop must be one of random, center, no, googlenet, got 'round'"),
    ("augmentation", 7, "augmentation must be one of none, side-on, top-down, trivial, got 7"),
    ("optimizer", None, "optimizer must be one of adamw, sgd, got None"),
]


@pytest.mark.parametrize(("field", "value", "message"), BOUNDS)
def test_messages_name_field_bound_and_value(field: str, value: Any, message: str) -> None:
    """Each bound of a stage is checked, and its message is the one sentence that is needed."""
    with pytest.raises(ValueError, match=r"^\w") as error:
        stage(**{field: value})
    assert str(error.value) == message


@pytest.mark.parametrize("field", ["image_size", "batch_size", "cycle_len", "views"])
@pytest.mark.parametrize("value", [64.0, True, "64", None])
def test_counts_are_whole_numbers(field: str, value: Any) -> None:
    """What is counted is an int: no float, bool or text is accepted."""
    with pytest.raises(TypeError, match=rf"^{field} must be a whole number of .*, got {value!r}$"):
        stage(**{field: value})


@pytest.mark.parametrize("field", ["lrs", "dropout", "max_zoom", "weight_decay"])
@pytest.mark.parametrize("value", ["0.5", None, "many"])
def test_rates_are_numbers(field: str, value: Any) -> None:
    """What is measured is a number, and the message says which field holds none."""
    with pytest.raises((TypeError, ValueError), match=rf"^{field} must be .*, got {value!r}$"):
        stage(**{field: value})


def test_an_endless_stage_is_refused() -> None:
    """Cycles that multiply to more epochs than anyone waits for are refused at once."""
    with pytest.raises(ValueError, match=r"^a stage must have at most 100000 epochs, got 111111$"):
        stage(n_cycles=6, cycle_mult=10)
    with pytest.raises(ValueError, match="at most 100000 epochs"):
        stage(n_cycles=100, cycle_len=10_000, cycle_mult=10)


def test_one_learning_rate_is_spread_over_the_layer_groups() -> None:
    """One number becomes (lr/10, lr/5, lr), with the digits that a person would write."""
    assert stage(lrs=1e-3).lrs == (1e-4, 2e-4, 1e-3)
    assert stage(lrs=1).lrs == (0.1, 0.2, 1.0)
    assert stage(lrs=3e-3).lrs == spread_lr(3e-3) == (3e-4, 6e-4, 3e-3)
    assert stage(lrs=[1, 2, 3]).lrs == (1.0, 2.0, 3.0)


def test_dropout_fills_from_the_end() -> None:
    """One rate is for every site; a short list is for the last ones, and 0 for those before."""
    assert stage(dropout=0.5).site_dropout(3) == (0.5, 0.5, 0.5)
    assert stage(dropout=[0.5]).site_dropout(3) == (0.0, 0.0, 0.5)
    assert stage(dropout=(0.25, 0.5)).site_dropout(3) == (0.0, 0.25, 0.5)
    assert stage(dropout=(0.1, 0.25, 0.5)).site_dropout(3) == (0.1, 0.25, 0.5)
    assert stage(dropout=()).site_dropout(2) == (0.0, 0.0)


def test_a_dropout_list_longer_than_the_head_is_refused() -> None:
    """A schedule refuses more rates than its head has sites, in whichever stage they stand."""
    message = "^dropout must list at most 2 rates, one per dropout site of the head, got 3$"
    long = stage(dropout=(0.1, 0.2, 0.3))
    with pytest.raises(ValueError, match=message):
        schedule(hidden=(16,), stages=(stage(), long))
    assert schedule(hidden=(16, 16), stages=(long,)).dropout_sites == 3
    assert schedule(hidden=(), stages=(stage(),)).dropout_sites == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stages": ()}, "stages must hold at least 1 stage, got none"),
        ({"hidden": (0,)}, "hidden must be at least 1 unit, got 0"),
        ({"hidden": (10**9,)}, "hidden must be at most 65536 units, got 1000000000"),
        (
            {"weights": "weights.pth"},
            "weights must be 'pretrained', 'random' or 'sha256:...', got 'weights.pth'",
        ),
    ],
)
def test_a_schedule_checks_its_own_fields(fields: dict[str, Any], message: str) -> None:
    """Stages, head and weights are checked where the schedule is made."""
    with pytest.raises(ValueError, match=r"^\w") as error:
        schedule(**fields)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "backbone",
    [
        "",
        "hf-hub:someone/model",
        "hf_hub:someone/model",
        "local-dir:/tmp/model",
        "/etc/passwd",
        "../model",
        "..\\model",
        "a model",
        "model\n",
        "model\0",
        "model;ls",
    ],
)
def test_hostile_backbone_names_are_refused(backbone: str) -> None:
    """A backbone can be neither a path nor a place on a hub that code or weights come from."""
    with pytest.raises(ValueError, match=r"^backbone must be the name of a timm model, got "):
        schedule(backbone=backbone)


def test_plain_words_are_accepted_for_enumerations() -> None:
    """The words of TOML and JSON, in any case, become members; equal stages come of it."""
    plain = stage(crop="center", augmentation="Side-On", optimizer="SGD")
    assert plain.crop is CropType.CENTER
    assert plain.augmentation is Augmentation.SIDE_ON
    assert plain.optimizer is Optimizer.SGD
    assert plain == stage(
        crop=CropType.CENTER, augmentation=Augmentation.SIDE_ON, optimizer=Optimizer.SGD
    )


def test_prefixes_grow_stage_by_stage() -> None:
    """A prefix differs from its schedule in nothing but the stages that are left out."""
    stages = tuple(stage(image_size=size) for size in (32, 48, 64))
    whole = schedule(stages=stages, hidden=(7,), weights="random")
    assert [prefix.stages for prefix in whole.prefixes()] == [stages[:1], stages[:2], stages]
    assert whole.prefixes()[-1] == whole
    assert {(p.backbone, p.hidden, p.weights) for p in whole.prefixes()} == {
        ("resnet18", (7,), "random")
    }


def test_unknown_keys_are_refused_with_the_known_ones() -> None:
    """A misspelt key of a schedule or a stage is named, beside all that there are."""
    plain = schedule().to_dict()
    with pytest.raises(ValueError, match=r"^a schedule has no field 'backbon'; it has backbone, "):
        Schedule.from_dict({**plain, "backbon": "resnet18"})
    stages = [{"image_size": 64, "batch_size": 8, "cycles": 1}]
    with pytest.raises(ValueError, match=r"^a stage has no field 'cycles'; it has annealing, "):
        Schedule.from_dict({**plain, "stages": stages})


def test_the_canonical_json_stays_as_it_is() -> None:
    """Stored runs are found again by this text: a change of it orphans them all."""
    assert schedule(hidden=(16,), stages=(stage(lrs=0.01, dropout=(0.5,)),)).to_json() == (
        '{"backbone":"resnet18","hidden":[16],"stages":[{"batch_size":8,"dropout":[0.5],'
        '"image_size":64,"lrs":[0.001,0.002,0.01]}],"weights":"pretrained"}'
    )


def test_spellings_of_one_schedule_share_a_digest() -> None:
    """Lists, whole numbers, a negative zero and plain words do not change what is the same."""
    first = schedule(stages=(stage(lrs=1, dropout=0, weight_decay=0, crop="NO"),), hidden=(16, 8))
    second = schedule(
        stages=[stage(lrs=[0.1, 0.2, 1.0], dropout=-0.0, weight_decay=-0.0, crop=CropType.NO)],
        hidden=[16, 8],
    )
    assert first == second
    assert first.to_json() == second.to_json()
    assert first.digest == second.digest
    assert Schedule.from_dict(json.loads(json.dumps(first.to_dict()))).digest == first.digest
