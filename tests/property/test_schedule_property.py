"""Schedules of any kind: they survive JSON, and their digest is their identity."""

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from trainers.schedule import Augmentation, CropType, Loss, Optimizer, Schedule, Stage


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    """Draw floats and the whole numbers among them; often the same ones."""
    few = st.sampled_from([low, high])
    return few | st.floats(low, high) | st.integers(int(low), int(high)).map(float)


def stages(sites: int) -> st.SearchStrategy[Stage]:
    """Draw stages for a head with `sites` places of dropout."""
    rates = numbers(0, 0.99)
    return st.builds(
        Stage,
        image_size=st.integers(8, 4096),
        batch_size=st.integers(2, 65536),
        n_cycles=st.integers(1, 4),
        cycle_len=st.integers(1, 50),
        cycle_mult=st.integers(1, 10),
        lrs=numbers(0, 100) | st.tuples(*[numbers(0, 100)] * 3),
        crop=st.sampled_from([*CropType, *(crop.value for crop in CropType)]),
        max_zoom=numbers(1, 10),
        augmentation=st.sampled_from(Augmentation),
        dropout=rates | st.lists(rates, max_size=sites),
        frozen=st.floats(0, 1),
        optimizer=st.sampled_from(Optimizer),
        weight_decay=numbers(0, 10),
        label_smoothing=rates,
        loss=st.sampled_from(Loss),
        start_from=st.sampled_from(["last", "best"]),
    )


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Draw schedules of one to three stages."""
    hidden = draw(st.lists(st.integers(1, 65536), max_size=3))
    return Schedule(
        backbone=draw(st.sampled_from(["resnet18", "test_vit", "resnet50.a1_in1k"])),
        stages=tuple(draw(st.lists(stages(len(hidden) + 1), min_size=1, max_size=3))),
        hidden=tuple(hidden),
        weights=draw(st.sampled_from(["pretrained", "random", "sha256:" + "0" * 64])),
    )


few_stages = st.builds(
    Stage,
    image_size=st.sampled_from([32, 64]),
    batch_size=st.just(8),
    lrs=st.sampled_from([1, 1.0, (0.1, 0.2, 1), 1e-3]),
    dropout=st.sampled_from([0, -0.0, 0.0, (0.0,), [0]]),
    crop=st.sampled_from(["no", CropType.NO]),
)
few_schedules = st.builds(
    Schedule,
    backbone=st.just("resnet18"),
    stages=st.lists(few_stages, min_size=1, max_size=2),
    hidden=st.sampled_from([(), [], (8,)]),
)
"""So few that two of them are often equal, in different spellings."""


@given(schedules())
def test_json_round_trip(schedule: Schedule) -> None:
    """A schedule read from its JSON is the same schedule with the same JSON and digest."""
    again = Schedule.from_json(schedule.to_json())
    assert again == schedule
    assert again.to_json() == schedule.to_json()
    assert again.digest == schedule.digest
    assert Schedule.from_dict(schedule.to_dict()) == schedule


def refuse(name: str) -> None:
    """Stop at what Python reads but JSON does not know."""
    raise AssertionError(name)


@given(schedules())
def test_json_is_plain(schedule: Schedule) -> None:
    """The JSON is strict (no NaN or Infinity) and sorted, so any language reads the same."""
    text = schedule.to_json()
    plain = json.loads(text, parse_constant=refuse)
    assert json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False) == text


@given(few_schedules, few_schedules)
def test_equal_digests_mean_equal_schedules(first: Schedule, second: Schedule) -> None:
    """Two schedules share a digest if and only if they are equal."""
    assert (first == second) == (first.digest == second.digest)


@given(schedules(), schedules())
def test_different_schedules_have_different_digests(first: Schedule, second: Schedule) -> None:
    """Also schedules that differ in anything at all are told apart."""
    assert (first == second) == (first.digest == second.digest)


@given(schedules())
def test_prefixes(schedule: Schedule) -> None:
    """The k-th prefix has the first k stages; the last one is the schedule itself."""
    prefixes = schedule.prefixes()
    assert prefixes[-1] == schedule
    assert prefixes[-1].digest == schedule.digest
    for count, prefix in enumerate(prefixes, 1):
        assert prefix.stages == schedule.stages[:count]
        assert prefix.prefixes() == prefixes[:count]
    assert len({prefix.digest for prefix in prefixes}) == len(schedule.stages)


@given(schedules())
def test_epochs_are_the_sum_of_the_cycles(schedule: Schedule) -> None:
    """Cycle lengths multiply by cycle_mult and sum to the epochs of a stage and of the whole."""
    for stage in schedule.stages:
        lengths = stage.cycle_lengths
        assert len(lengths) == stage.n_cycles
        assert lengths[0] == stage.cycle_len
        assert all(b == a * stage.cycle_mult for a, b in pairwise(lengths))
        assert sum(lengths) == stage.epochs
    assert sum(stage.epochs for stage in schedule.stages) == schedule.epochs
