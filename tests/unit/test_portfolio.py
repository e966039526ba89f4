"""What fits the data: sizes that photos hold, steps rather than epochs, schedules of a space."""

from dataclasses import replace

import pytest

from study.config.loading import load_config, settings_of
from study.config.portfolio import (
    BATCH_SIZE,
    LEAST_STEPS,
    TYPICAL,
    VALIDATION_SHARE,
    DataFacts,
    peers,
    portfolio,
    probe_sizes,
    probes,
    space_for,
)
from study.config.presets import ARTICLE, preset_schedule
from study.config.schema import Preset, StudyConfig
from study.config.space import DIGITS_SPACE, describe_space, space_of
from study.searching.fitting import Fit, tried_first
from study.searching.suggest import params_of
from trainers.schedule import Balance, BatchNorm, Schedule, Train

FEW = replace(TYPICAL, training=8, validation=4, short_side=8, smallest_class=3, largest_class=5)
MANY = replace(TYPICAL, training=20_000, validation=5_000, short_side=600)
UNEVEN = replace(TYPICAL, smallest_class=20, largest_class=235)
EVERY = (
    TYPICAL,
    FEW,
    MANY,
    replace(MANY, on_gpu=True),
    replace(TYPICAL, validation=30_000),
    UNEVEN,
)


def steps(schedule: Schedule) -> int:
    """Return how many steps the last stage has at least."""
    return schedule.stages[-1].epochs * schedule.stages[-1].min_steps


@pytest.mark.parametrize(
    ("short_side", "sizes"),
    [
        (1000, (160, 288)),
        (288, (160, 288)),
        (287, (160, 224)),
        (150, (160, 224)),
        (64, (64, 96)),
        (8, (32, 48)),
    ],
)
def test_photos_are_probed_at_sizes_that_they_hold(short_side: int, sizes: tuple[int, int]) -> None:
    """Beyond the backbone's native 224 pixels where they hold so many, else at smaller ones."""
    facts = replace(TYPICAL, short_side=short_side)
    assert probe_sizes(facts) == sizes
    found = probes(facts, "net", "random")
    assert [[stage.image_size for stage in each.stages] for each in found] == [[s] for s in sizes]
    assert {stage.train for each in found for stage in each.stages} == {Train.PROBE}


def test_other_backbones_whose_weights_are_here_are_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    """At their own sizes, if photos hold that; not beside weights or a backbone of the user's."""
    names = tuple(f"tf_efficientnet_lite{n}" for n in range(3))
    monkeypatch.setattr("study.config.portfolio.packaged_backbones", lambda: names)
    found = peers(TYPICAL, names[0], "pretrained")
    assert [(each.backbone, each.stages[0].image_size) for each in found] == [
        (names[1], 240),
        (names[2], 260),
    ]
    assert peers(FEW, names[0], "pretrained") == ()
    assert peers(TYPICAL, names[0], "random") == ()
    assert peers(TYPICAL, "resnet18", "pretrained") == ()


@pytest.mark.parametrize("facts", EVERY)
def test_the_portfolio_is_of_schedules_in_the_space(facts: DataFacts) -> None:
    """All but the last, which has a hidden layer: so the sampler learns from them."""
    schedules, space = portfolio(facts, "tf_efficientnet_lite0", "pretrained"), space_for(facts)
    assert len({schedule.digest for schedule in schedules}) == len(schedules) >= 6
    params = [params_of(schedule, space) for schedule in schedules]
    assert params[-1] is None
    assert all(params[:-1])
    assert {name for each in params[:-1] for name in each or ()} >= {"s1_late_lr", "s1_min_steps"}


@pytest.mark.parametrize("facts", EVERY)
def test_length_is_a_matter_of_steps_and_validation_is_rare(facts: DataFacts) -> None:
    """Few photos get enough steps; validation takes a tenth of the recipe's stage, or is once."""
    first = portfolio(facts, "net", "random")[0]
    assert steps(first) >= LEAST_STEPS
    validated = first.stages[-1].epochs * facts.validation
    trained = steps(first) * BATCH_SIZE * 3
    assert first.stages[-1].epochs == 1 or validated <= VALIDATION_SHARE * trained


def test_batch_norm_is_frozen_where_photos_are_few() -> None:
    """Statistics of few photos move a probe's features away; many photos bring their own."""
    assert {s.stages[-1].batch_norm for s in portfolio(FEW, "net", "random")} == {BatchNorm.FROZEN}
    assert {s.stages[-1].batch_norm for s in portfolio(MANY, "net", "random")} == {BatchNorm.TRAIN}
    assert (space_for(FEW).batch_norm, space_for(MANY).batch_norm) == (("frozen",), ("train",))


def test_imbalanced_classes_are_balanced_in_some_schedules() -> None:
    """In the second of the portfolio, and as a choice of the space; else there is none."""
    balances = [each.stages[-1].balance for each in portfolio(UNEVEN, "net", "random")]
    assert balances[:3] == [Balance.NONE, Balance.LOSS, Balance.NONE]
    assert space_for(UNEVEN).balance == ("none", "loss", "sampling")
    even = portfolio(TYPICAL, "net", "random")
    assert {each.stages[-1].balance for each in even} == {Balance.NONE}
    assert len(even) == len(balances) - 1
    assert space_for(TYPICAL).balance is None


def test_a_gpu_affords_larger_photos() -> None:
    """Where photos hold more than the native size, only a GPU's space has it; no other differs."""
    gpu = replace(MANY, on_gpu=True)
    assert (max(space_for(MANY).image_size or ()), max(space_for(gpu).image_size or ())) == (
        288,
        384,
    )
    assert space_for(replace(TYPICAL, on_gpu=True)) == space_for(TYPICAL)
    assert portfolio(gpu, "net", "random") == portfolio(MANY, "net", "random")


def test_a_fitted_space_comes_back_from_its_description() -> None:
    """A study keeps its space: what the database holds of it makes the same space again."""
    for facts in EVERY:
        assert space_of(describe_space(space_for(facts))) == space_for(facts)
    old = {"version": 1, "image_size": [64], "batch_size": [8], "frozen_groups": [0, 1, 2]}
    assert space_of(old).frozen == (0.0, 0.5, 1.0)


def first_of(**settings: object) -> list[Schedule]:
    """Return what a search with these settings begins with."""
    config = load_config(settings_of(**({"backbone": "net", "data": "photos"} | settings)))
    return list(tried_first(Fit(config, TYPICAL, own=config.space is not None), "random"))


def test_probes_come_first_then_the_preset_then_the_portfolio() -> None:
    """A preset that is in the portfolio is tried once; the space of a user has no portfolio.

    The digits have neither.
    """
    begun, all_of = list(probes(TYPICAL, "net", "random")), portfolio(TYPICAL, "net", "random")
    quick = preset_schedule(Preset.QUICK, TYPICAL, "net", "random")
    assert first_of() == [*begun, *all_of]
    assert first_of(preset="quick") == [*begun, quick, *(s for s in all_of if s != quick)]
    assert first_of(preset="best") == first_of()
    mine = {"image_size": [64], "batch_size": [8]}
    assert first_of(space=mine, preset="best") == [*begun, all_of[0]]
    assert first_of(data=None) == []
    assert first_of(portfolio=False) == []
    assert first_of(portfolio=False, preset="quick") == [quick]
    assert first_of(trainer="mine:Trainer") == []


def test_presets_are_of_the_portfolio_or_the_article() -> None:
    """Quick is the cheapest of it, best its first; a trainer of one's own is given no probe."""
    all_of = portfolio(TYPICAL, "net", "random")
    quick = preset_schedule(Preset.QUICK, TYPICAL, "net", "random")
    assert quick in all_of
    assert steps(quick) == min(map(steps, all_of))
    assert preset_schedule(Preset.BEST, TYPICAL, "net", "random") == all_of[0]
    assert preset_schedule(Preset.ARTICLE, TYPICAL, "net", "random").stages == ARTICLE
    own = preset_schedule(Preset.QUICK, TYPICAL, "net", "random", probe=False)
    assert {stage.train for stage in own.stages} == {Train.NETWORK}


def test_defaults_need_no_data() -> None:
    """Until the data are read, their typical facts stand for them; the digits have a space."""
    assert load_config(settings_of(data="photos")).resolved_space == space_for(TYPICAL)
    assert StudyConfig().resolved_space == DIGITS_SPACE
