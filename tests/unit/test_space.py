"""From choices to schedules: what becomes a parameter, how it is called, what identifies it."""

import json
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import optuna
import pytest

from study.choices import DIGITS_SPACE, PHOTO_SPACE, SPACE_VERSION, Space, StageChoices
from study.config import Sampler
from study.space import describe_space, space_changes, suggest_schedule, views_of
from study.suggestions import _sampler
from trainers.schedule import CropType, Schedule


class Noting:
    """A chooser that takes what `pick` says, and notes what it was asked."""

    def __init__(self, pick: Callable[[Sequence[Any]], Any] = lambda choices: choices[0]) -> None:
        self.pick = pick
        self.asked: dict[str, list[Any]] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Choose; a parameter must always come with the same choices."""
        assert self.asked.setdefault(name, list(choices)) == list(choices)
        return self.pick(choices)


def space(**choices: Any) -> Space:
    """Make a space around what matters."""
    return Space(**({"image_size": (64,), "batch_size": (8,), "n_stages": (1,)} | choices))


def test_a_single_choice_is_no_parameter() -> None:
    """Constants reach the schedule and are never asked for."""
    chooser = Noting()
    one = space(crop=("no",), lrs=((1e-5, 1e-4, 1e-3),), dropout=((0.1, 0.2),), hidden=((64,),))
    made = suggest_schedule(chooser, one, "random")
    assert chooser.asked == {}
    assert made.weights == "random"
    assert made.hidden == (64,)
    assert made.stages[0].crop is CropType.NO
    assert made.stages[0].lrs == (1e-5, 1e-4, 1e-3)
    assert made.stages[0].dropout == (0.1, 0.2)


def test_lists_travel_as_json_and_arrive_as_lists() -> None:
    """Optuna's choices are scalars: numbers stay numbers, lists become their JSON."""
    chooser = Noting(lambda choices: choices[-1])
    several = space(
        lrs=(1e-3, (1e-5, 1e-4, 1e-3)), dropout=(0.1, (0.25, 0.5)), hidden=((512,), (64, 32))
    )
    made = suggest_schedule(chooser, several, "pretrained")
    assert chooser.asked == {
        "hidden": ["[512]", "[64, 32]"],
        "s0_lrs": [1e-3, "[1e-05, 0.0001, 0.001]"],
        "s0_dropout": [0.1, "[0.25, 0.5]"],
    }
    assert made.hidden == (64, 32)
    assert (made.stages[0].lrs, made.stages[0].dropout) == ((1e-5, 1e-4, 1e-3), (0.25, 0.5))


def test_stages_may_differ_from_the_rest() -> None:
    """What a stage lists itself replaces the common choices there, and nowhere else."""
    chooser = Noting(lambda choices: choices[-1])
    made = suggest_schedule(
        chooser,
        space(
            n_stages=(3,),
            batch_size=(8, 16),
            crop=("center", "no"),
            stages=(StageChoices(crop=("random",)), StageChoices(batch_size=(4, 6))),
        ),
        "random",
    )
    assert [stage.crop for stage in made.stages] == ["random", "no", "no"]
    assert [stage.batch_size for stage in made.stages] == [16, 6, 16]
    assert chooser.asked["s1_batch_size"] == [4, 6]
    assert "s0_crop" not in chooser.asked


def test_a_size_that_depends_on_another_has_it_in_its_name() -> None:
    """Optuna's choices can never change: what remains of the sizes is a parameter of its own."""
    chooser = Noting(lambda choices: choices[min(1, len(choices) - 1)])
    made = suggest_schedule(chooser, space(n_stages=(4,), image_size=(32, 64, 96)), "random")
    assert [stage.image_size for stage in made.stages] == [64, 96, 96, 96]
    assert chooser.asked == {
        "s0_image_size": [32, 64, 96],
        "s1_image_size_from_64": [64, 96],
        # From 96 on there is nothing to choose.
    }


def test_a_stage_below_the_one_before_stays_at_its_size() -> None:
    """Where all sizes of a stage are too small, the size stays, though it is not listed."""
    made = suggest_schedule(
        Noting(),
        space(n_stages=(2,), image_size=(96,), stages=({}, StageChoices(image_size=(32, 64)))),
        "random",
    )
    assert [stage.image_size for stage in made.stages] == [96, 96]


def test_views_are_those_that_a_schedule_can_have() -> None:
    """Each size, crop and zoom of each stage once; no size that no schedule comes to."""
    one = space(
        n_stages=(1, 3),
        image_size=(64, 96),
        max_zoom=(1.0, 1.1),
        stages=(
            StageChoices(image_size=(64,), max_zoom=(1.1,)),
            StageChoices(crop=("no", "googlenet"), max_zoom=(1.0,)),
            StageChoices(image_size=(32, 80), max_zoom=(1.0,)),
        ),
    )
    views = [(view.image_size, view.crop.value, view.max_zoom) for view in views_of(one)]
    assert views == [
        (64, "random", 1.1),
        *((size, crop, 1.0) for size in (64, 96) for crop in ("no", "googlenet")),
        *((size, "random", 1.0) for size in (80, 96)),
    ]


@pytest.mark.parametrize("one", [DIGITS_SPACE, PHOTO_SPACE])
@pytest.mark.parametrize("sampler", list(Sampler))
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optuna_takes_sixty_schedules_without_a_word(one: Space, sampler: Sampler) -> None:
    """A real study never complains of choices that changed, and the sampler learns all along."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=_sampler(sampler, 0, 0))
    asks = 11 if sampler is Sampler.GP else 60  # from the 11th on, a Gaussian process takes seconds
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(asks):
            trial = study.ask()
            made = suggest_schedule(trial, one, "pretrained")
            check(made, one)
            study.tell(trial, float(made.epochs))
    names = {name for trial in study.trials for name in trial.params}
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


def test_a_space_is_described_in_plain_json() -> None:
    """Equal spaces have equal descriptions, also after a trip through the database."""
    described = describe_space(PHOTO_SPACE)
    assert json.loads(json.dumps(described)) == described
    assert described["version"] == SPACE_VERSION
    again = Space(**{name: value for name, value in described.items() if name != "version"})
    assert describe_space(again) == described
    assert space_changes(described, describe_space(again)) == ""


def test_changes_of_a_space_are_told_by_name() -> None:
    """Each field that differs is named with what it was and what it is."""
    old, new = describe_space(space(lrs=(0.1,))), describe_space(space(crop=("no",), lrs=(0.1,)))
    assert space_changes(old, new) == "crop: None became ['no']"
    assert space_changes(new, old) == "crop: ['no'] became None"
    other = describe_space(space(n_stages=(2,), lrs=(0.2,)))
    assert space_changes(old, other) == "lrs: [0.1] became [0.2]; n_stages: [1] became [2]"
