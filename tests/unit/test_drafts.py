"""What samplers suggest: an ordered parameter comes to one of its choices, nothing is written."""

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from storage.records import State
from study.config.schema import Sampler
from study.config.space import DIGITS_SPACE, PHOTO_SPACE, Space
from study.searching.drafts import Draft, distribution_of, drafted, running
from study.searching.optuna_study import Suggestions
from study.searching.suggest import params_of
from tests.lab import optuna_study
from trainers.metrics import Metric
from trainers.schedule import Schedule

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
SIZES = (32, 48, 64, 96, 128)
TOY = Space(
    n_stages=(1,),
    image_size=SIZES,
    batch_size=(8,),
    lrs=RATES,
    weight_decay=(0.0, 0.1, 0.2, 0.3),
)
"""Nothing but numbers."""

SAMPLERS = [
    Sampler.TPE,
    Sampler.RANDOM,
    *(
        pytest.param(each, marks=pytest.mark.long)
        for each in (Sampler.CMAES, Sampler.GP, Sampler.QMC)
    ),
]

Start = Callable[..., Suggestions]


@pytest.fixture
def start(tmp_path: Path, template: Path) -> Start:
    """Return what opens Optuna's study of this test, as each process would."""
    shutil.copy(template, tmp_path / "optuna.db")

    def opened(sampler: Sampler, seed: int = 0) -> Suggestions:
        return Suggestions(
            f"sqlite:///{tmp_path / 'optuna.db'}",
            "lab",
            metric=Metric.ACCURACY,
            sampler=sampler,
            seed=seed,
        )

    return opened


class Saying(BaseSampler):
    """A sampler that models one parameter, and always says the same of it."""

    def __init__(self, name: str, values: Sequence[Any], said: Any) -> None:
        self._known = {name: distribution_of(values)}
        self._said = {name: said}

    def infer_relative_search_space(self, *_: Any) -> dict[str, BaseDistribution]:
        """Model that parameter."""
        return self._known

    def sample_relative(self, *_: Any) -> dict[str, Any]:
        """Say what it always says."""
        return self._said

    def sample_independent(self, *_: Any) -> Any:
        """Refuse: what is not modelled is drawn evenly, and not by a sampler."""
        raise AssertionError("a sampler must not be asked for what it does not model")


def saying(space: Space, name: str, values: Sequence[Any], said: Any) -> Draft:
    """Draft one schedule of a space by a sampler that says one thing."""
    study = optuna.create_study(sampler=Saying(name, values, said))
    return drafted(study, space, "random", np.random.default_rng(0))


def likeness(schedule: Schedule) -> float:
    """Score a schedule of TOY: the best lies inside of each list, and all steps count alike."""
    stage = schedule.stages[0]
    far = abs(RATES.index(stage.lrs[-1]) - 4) / 6 + abs(SIZES.index(stage.image_size) - 3) / 4
    return 1 - (far + abs(stage.weight_decay - 0.1) / 0.3) / 3


def begun(suggestions: Suggestions, space: Space, turn: int) -> tuple[int, Schedule]:
    """Begin a trial with what the sampler suggests."""
    draft = suggestions.draft(space, "random", turn)
    return suggestions.add(draft.params, draft.notes), draft.schedule


def searched(suggestions: Suggestions, trials: int) -> list[Schedule]:
    """Ask for schedules of TOY and tell what each is worth."""
    found = []
    for turn in range(trials):
        number, schedule = begun(suggestions, TOY, turn)
        suggestions.tell(number, State.COMPLETE, likeness(schedule))
        found.append(schedule)
    return found


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((3e-3, 1e-4, 1e-2), FloatDistribution(1e-4, 1e-2, log=True)),
        ((0.5, 0.25, 0.75), FloatDistribution(0.25, 0.75)),
        ((0.0, 1e-4, 1e-2), FloatDistribution(0.0, 1e-2)),
        ((1, 0.5), FloatDistribution(0.5, 1.0)),
        ((64, 128, 96), IntDistribution(64, 128)),
        ((1, 2, 4), IntDistribution(1, 4, log=True)),
        ((False, True), CategoricalDistribution((False, True))),
        (("no", "random"), CategoricalDistribution(("no", "random"))),
        ((0.1, (0.25, 0.5)), CategoricalDistribution((0.1, "[0.25, 0.5]"))),
        (((512,), (64, 32)), CategoricalDistribution(("[512]", "[64, 32]"))),
    ],
)
def test_numbers_are_ordered_and_all_else_is_a_list(
    values: Sequence[Any], expected: BaseDistribution
) -> None:
    """By ratio where all are positive and far apart; a list among numbers has no place there."""
    assert distribution_of(values) == expected


@pytest.mark.parametrize(
    ("said", "chosen"),
    [(1e-4, 1e-4), (3.1e-4, 1e-4), (3.2e-4, 1e-3), (3.1e-3, 1e-3), (3.2e-3, 1e-2), (1e-2, 1e-2)],
)
def test_what_is_said_becomes_the_nearest_choice(said: float, chosen: float) -> None:
    """By ratio, the middle of 1e-3 and 1e-2 lies at 3.16e-3; what is written is the choice."""
    rates = (1e-2, 1e-4, 1e-3)
    space = TOY.model_copy(update={"lrs": rates})
    draft = saying(space, "s0_lrs", rates, said)
    assert draft.schedule.stages[0].lrs[-1] == chosen
    assert running(draft.params, {}).params["s0_lrs"] == chosen


@pytest.mark.parametrize(("said", "size"), [(40, 96), (80, 96), (111, 96), (113, 128)])
def test_a_size_that_would_shrink_becomes_the_nearest_that_does_not(said: int, size: int) -> None:
    """What is written is what is trained, and each trial has the parameter."""
    space = Space(
        n_stages=(2,), image_size=(40, 96, 128), batch_size=(8,), stages=({"image_size": (96,)},)
    )
    draft = saying(space, "s1_image_size", (40, 96, 128), said)
    assert [stage.image_size for stage in draft.schedule.stages] == [96, size]
    assert running(draft.params, {}).params == {"s1_image_size": size}


def test_lists_are_written_as_json_and_come_back_as_lists() -> None:
    """Optuna's choices are scalars."""
    rates = (1e-3, (1e-5, 1e-4, 1e-3))
    draft = saying(TOY.model_copy(update={"lrs": rates}), "s0_lrs", rates, "[1e-05, 0.0001, 0.001]")
    assert draft.schedule.stages[0].lrs == rates[1]
    assert running(draft.params, {}).params["s0_lrs"] == "[1e-05, 0.0001, 0.001]"


@pytest.mark.long
def test_what_no_sampler_models_is_drawn_evenly(start: Start) -> None:
    """Where choices crowd, 0 and 1e-4 beside 0.1, each comes as often as any other."""
    suggestions = start(Sampler.RANDOM)
    space = TOY.model_copy(update={"weight_decay": (0.0, 1e-4, 0.1)})
    drafts = [suggestions.draft(space, "random", turn) for turn in range(600)]
    counts = Counter(draft.schedule.stages[0].weight_decay for draft in drafts)
    assert all(150 < counts[value] < 250 for value in (0.0, 1e-4, 0.1))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_drafts_leave_no_trial(start: Start, tmp_path: Path, sampler: Sampler) -> None:
    """Many may be drafted for a trial that begins; with the one that does, all is written."""
    suggestions = start(sampler)
    searched(suggestions, 11)  # from then on, each sampler models
    theirs = optuna_study(f"sqlite:///{tmp_path / 'optuna.db'}")
    before = theirs.get_trials()
    drafts = [suggestions.draft(TOY, "random", turn) for turn in range(3)]
    assert theirs.get_trials() == before
    for draft in drafts:
        assert draft.params == params_of(draft.schedule, TOY)
    number = suggestions.add(drafts[1].params, drafts[1].notes)
    trial = theirs.get_trials()[-1]
    assert (trial.number, trial.state.name) == (number, "RUNNING") == (11, "RUNNING")
    assert trial.params == {name: value for name, (value, _) in drafts[1].params.items()}
    assert trial.system_attrs == drafts[1].notes


@pytest.mark.parametrize("sampler", [each for each in SAMPLERS if each is not Sampler.RANDOM])
def test_numbers_are_modelled(
    start: Start, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once there are trials to learn from, nothing of a space of numbers is left to chance."""
    suggestions = start(sampler)
    searched(suggestions, 11)
    model = suggestions._study.sampler
    frozen = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING)
    learnt = model.infer_relative_search_space(suggestions._study, frozen)
    names = {"s0_lrs", "s0_image_size", "s0_weight_decay"}
    assert set(learnt) == names
    assert not any(isinstance(each, CategoricalDistribution) for each in learnt.values())

    monkeypatch.setattr("numpy.random.default_rng", lambda _: None)  # which it would stumble over
    draft = suggestions.draft(TOY, "random", 11)
    assert set(draft.params) == names
    assert all(value in values for value, values in draft.params.values())


@pytest.mark.parametrize("sampler", [Sampler.TPE, pytest.param(Sampler.GP, marks=pytest.mark.long)])
def test_the_order_is_learnt(start: Start, sampler: Sampler) -> None:
    """What was never tried, but lies between the best, is suggested more often than the others."""
    suggestions = start(sampler)
    space = TOY.model_copy(update={"image_size": (32,), "weight_decay": (0.0,)})
    untried = 4
    for place in (0, 1, 2, 3, 5, 6) * 2:
        number = suggestions.add({"s0_lrs": (RATES[place], RATES)})
        suggestions.tell(number, State.COMPLETE, 1 - abs(place - untried) / 6)
    rates = [
        suggestions.draft(space, "random", turn).schedule.stages[0].lrs[-1] for turn in range(20)
    ]
    assert Counter(rates)[RATES[untried]] > 10


@pytest.mark.parametrize(
    "sampler",
    [
        pytest.param(Sampler.TPE, marks=pytest.mark.long),
        pytest.param(Sampler.CMAES, marks=pytest.mark.slow),
    ],
)
def test_the_best_region_is_found_more_often_than_by_chance(start: Start, sampler: Sampler) -> None:
    """Of the second half of a search, more trials lie within a step or so of the best."""
    modelled, drawn = (
        sum(likeness(made) > 0.8 for made in searched(start(each), 40)[20:])
        for each in (sampler, Sampler.RANDOM)
    )
    assert modelled > 2 * drawn


@pytest.mark.long
def test_a_search_by_cma_es_goes_on_in_another_process(start: Start, tmp_path: Path) -> None:
    """Its state lies beside the trials: the next process is in the same generation, or later."""
    searched(start(Sampler.CMAES), 15)
    again = start(Sampler.CMAES)
    searched(again, 15)
    trials: list[FrozenTrial] = optuna_study(f"sqlite:///{tmp_path / 'optuna.db'}").trials
    generations = [trial.system_attrs.get("cma:generation", 0) for trial in trials]
    assert generations == sorted(generations)
    assert generations[14] >= 1
    assert generations[-1] > generations[14]


@pytest.mark.parametrize("one", [pytest.param(DIGITS_SPACE, marks=pytest.mark.slow), PHOTO_SPACE])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.filterwarnings("error")
def test_optuna_takes_twenty_schedules_without_a_word(
    start: Start, tmp_path: Path, one: Space, sampler: Sampler
) -> None:
    """A real study never complains of parameters that changed, and the sampler learns all along."""
    suggestions = start(sampler)
    asks = 11 if sampler is Sampler.GP else 20  # from the 11th on, a Gaussian process takes seconds
    for turn in range(asks):
        number, made = begun(suggestions, one, turn)
        check(made, one)
        suggestions.tell(number, State.COMPLETE, made.epochs / 100)
    trials = optuna_study(f"sqlite:///{tmp_path / 'optuna.db'}").trials
    names = {name for trial in trials for name in trial.params}
    assert ("n_stages" in names) is (len(one.n_stages) > 1)
    assert all(name == "n_stages" or name[0] == "s" for name in names)


def check(made: Schedule, one: Space) -> None:
    """Check that a schedule is one of the space."""
    assert len(made.stages) in one.n_stages
    assert made.backbone in one.backbone
    sizes = [stage.image_size for stage in made.stages]
    assert sizes == sorted(sizes)
    for position, stage in enumerate(made.stages):
        assert stage.batch_size in one.of_stage(position)["batch_size"]
        assert stage.image_size in (*one.of_stage(position)["image_size"], *sizes[:position])
