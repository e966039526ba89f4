"""Whatever the space and the sampler, each schedule can be trained."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler

from study.config.space import Space, StageChoices, describe_space, space_changes
from study.searching.drafts import distribution_of, drafted, running
from study.searching.suggest import Params, params_of, suggest_schedule, views_of
from tests.examples import examples
from trainers.data.scale import Scale, training_scale, validation_scale
from trainers.schedule import Schedule, Stage

SIZES = st.lists(st.sampled_from([8, 32, 64, 96, 128]), min_size=1, max_size=3, unique=True)
RATE = st.floats(1e-5, 1)
CHOICES: dict[str, st.SearchStrategy[Any]] = {
    "image_size": SIZES,
    "batch_size": st.lists(st.integers(2, 64), min_size=1, max_size=2),
    "n_cycles": st.lists(st.integers(1, 3), min_size=1, max_size=2),
    "cycle_mult": st.lists(st.integers(1, 2), min_size=1, max_size=2),
    "lrs": st.lists(RATE | st.tuples(RATE, RATE, RATE), min_size=1, max_size=3),
    "dropout": st.lists(st.floats(0, 0.9) | st.tuples(st.floats(0, 0.9)), min_size=1, max_size=2),
    "crop": st.lists(st.sampled_from(["random", "center", "no", "googlenet"]), min_size=1),
    "frozen": st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=3),
    "views": st.lists(st.integers(0, 4), min_size=1, max_size=3),
    "tta": st.lists(st.booleans(), min_size=1, max_size=2),
    "max_zoom": st.lists(st.sampled_from([1.0, 1.1, 1.37, 2.0]), min_size=1, max_size=2),
    "start_from": st.lists(st.sampled_from(["last", "best"]), min_size=1, max_size=2),
}
RATES = st.lists(RATE, min_size=1, max_size=3)
APART: dict[str, st.SearchStrategy[Any]] = {"lrs": RATES, "late_lr": RATES}
"""Rates of the head and the late body, each a number."""

PROBES = {"train": st.lists(st.sampled_from(["network", "probe"]), min_size=1, max_size=2)}
"""For heads that are linear."""


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Draw a space, with some stages of their own."""
    needed = {name: draw(CHOICES[name]) for name in ("image_size", "batch_size")}
    hidden = draw(st.sampled_from([[[]], [[64]], [[64], [32, 16]]]))
    some = CHOICES | draw(st.sampled_from([{}, APART])) | (PROBES if hidden == [[]] else {})
    stages = st.fixed_dictionaries({}, optional=some)
    return Space(
        **{**draw(stages), **needed},
        n_stages=draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)),
        hidden=hidden,
        stages=[StageChoices(**own) for own in draw(st.lists(stages, max_size=4))],
    )


class Drawing:
    """A chooser that draws, and insists that a parameter's choices never change."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.values: dict[str, Sequence[Any]] = {}

    def choose(self, name: str, values: Sequence[Any], allowed: Sequence[Any]) -> Any:
        """Draw one of the allowed values."""
        assert len(set(values)) == len(values) > 1
        assert set(allowed) <= set(values)
        assert self.values.setdefault(name, values) == values
        return self.data.draw(st.sampled_from(allowed))


class Same:
    """A chooser that chooses what parameters say."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def choose(self, name: str, values: Sequence[Any], allowed: Sequence[Any]) -> Any:
        """Look up what was chosen."""
        chosen, known = self.params[name]
        assert known == values
        assert chosen in allowed
        return chosen


@settings(deadline=None, max_examples=examples(150))
@given(spaces(), st.data())
def test_every_suggestion_is_a_schedule_whose_sizes_never_shrink(
    space: Space, data: st.DataObject
) -> None:
    """A parameter always has the choices it had the first time, and leads to that schedule."""
    chooser = Drawing(data)
    for _ in range(3):
        made = suggest_schedule(chooser, space, "pretrained")
        assert Schedule.from_json(made.to_json()) == made
        assert len(made.stages) in space.n_stages
        assert made.hidden in space.hidden
        sizes = [stage.image_size for stage in made.stages]
        assert sizes == sorted(sizes)
        params = params_of(made, space)
        assert params is not None
        assert suggest_schedule(Same(params), space, "pretrained") == made


class Anywhere(BaseSampler):
    """A sampler that says anything that lies in a distribution, or what it was told to say."""

    def __init__(
        self,
        data: st.DataObject,
        known: dict[str, Sequence[Any]],
        told: dict[str, Any] | None = None,
    ) -> None:
        self.data, self.told = data, told
        self.known = {name: distribution_of(values) for name, values in known.items()}

    def infer_relative_search_space(self, *_: Any) -> dict[str, BaseDistribution]:
        """Model all that is known."""
        return self.known

    def sample_relative(self, *_: Any) -> dict[str, Any]:
        """Draw a value of each distribution."""
        if self.told is not None:
            return self.told
        return {name: self.data.draw(self._within(each)) for name, each in self.known.items()}

    def sample_independent(self, *_: Any) -> Any:
        """Refuse."""
        raise AssertionError("must not be asked")

    @staticmethod
    def _within(known: BaseDistribution) -> st.SearchStrategy[Any]:
        if isinstance(known, FloatDistribution):
            return st.floats(known.low, known.high)
        if isinstance(known, IntDistribution):
            return st.integers(known.low, known.high)
        assert isinstance(known, CategoricalDistribution)
        return st.sampled_from(known.choices)


@settings(deadline=None, max_examples=examples(100))
@given(spaces(), st.data())
def test_whatever_a_sampler_says_becomes_a_choice(space: Space, data: st.DataObject) -> None:
    """What Optuna stores are choices that lead to the schedule; said again, they stay."""
    chooser = Drawing(data)
    suggest_schedule(chooser, space, "random")
    study = optuna.create_study(sampler=Anywhere(data, chooser.values))
    draft = drafted(study, space, "random", np.random.default_rng(0))
    assert all(value in values for value, values in draft.params.values())
    assert params_of(draft.schedule, space) is not None
    stored = running(draft.params, draft.notes)
    study.sampler = Anywhere(
        data, {n: each for n, (_, each) in draft.params.items()}, stored.params
    )
    again = drafted(study, space, "random", np.random.default_rng(1))
    assert again.schedule == draft.schedule
    assert running(again.params, {}).params == stored.params


def scales_of(stage: Stage) -> tuple[Scale, Scale]:
    """Return the scales of a stage's photos, in training and in validation."""
    return training_scale(stage), validation_scale(stage.image_size, stage.crop)


@settings(deadline=None, max_examples=examples(200))
@given(spaces(), st.data())
def test_every_stage_looks_at_photos_in_a_way_that_was_foreseen(
    space: Space, data: st.DataObject
) -> None:
    """What is decoded before the first trial is enough for all: no trial has to wait for more."""
    foreseen = {scales_of(view) for view in views_of(space)}
    for _ in range(3):
        made = suggest_schedule(Drawing(data), space, "random")
        assert {scales_of(stage) for stage in made.stages} <= foreseen


@settings(deadline=None, max_examples=examples(50))
@given(spaces(), spaces())
def test_descriptions_differ_exactly_where_spaces_do(one: Space, other: Space) -> None:
    """A study is refused another space, and never its own."""
    assert space_changes(describe_space(one), describe_space(one)) == ""
    changes = space_changes(describe_space(one), describe_space(other))
    assert (changes == "") == (describe_space(one) == describe_space(other))
