"""From choices to schedules: what becomes a parameter, how it is called, what identifies it."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from study.config.space import (
    PHOTO_SPACE,
    SPACE_VERSION,
    Space,
    StageChoices,
    describe_space,
    space_changes,
)
from study.searching.suggest import params_of, suggest_schedule, views_of
from trainers.schedule import CropType


class Noting:
    """A chooser that takes what `pick` says of what is allowed, and notes what it was asked."""

    def __init__(self, pick: Callable[[Sequence[Any]], Any] = lambda allowed: allowed[0]) -> None:
        self.pick = pick
        self.asked: dict[str, Sequence[Any]] = {}

    def choose(self, name: str, values: Sequence[Any], allowed: Sequence[Any]) -> Any:
        """Choose; a parameter must always come with the same choices."""
        assert self.asked.setdefault(name, values) == values
        return self.pick(allowed)


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


def test_a_choice_that_is_listed_twice_is_one() -> None:
    """It is as likely as any other, and alone it is a constant."""
    chooser = Noting()
    suggest_schedule(chooser, space(crop=("no", "no"), batch_size=(8, 16, 8)), "random")
    assert chooser.asked == {"s0_batch_size": (8, 16)}


def test_stages_may_differ_from_the_rest() -> None:
    """What a stage lists itself replaces the common choices there, and nowhere else."""
    chooser = Noting(lambda allowed: allowed[-1])
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
    assert chooser.asked["s1_batch_size"] == (4, 6)
    assert "s0_crop" not in chooser.asked


def test_a_size_is_one_parameter_whatever_came_before() -> None:
    """Its values are all sizes of the stage; allowed are those that do not shrink."""
    seen: list[Sequence[Any]] = []

    def second(allowed: Sequence[Any]) -> Any:
        seen.append(allowed)
        return allowed[min(1, len(allowed) - 1)]

    chooser = Noting(second)
    made = suggest_schedule(chooser, space(n_stages=(4,), image_size=(32, 64, 96)), "random")
    assert [stage.image_size for stage in made.stages] == [64, 96, 96, 96]
    assert chooser.asked == {f"s{position}_image_size": (32, 64, 96) for position in range(4)}
    assert seen == [(32, 64, 96), (64, 96), (96,), (96,)]


def test_the_parameters_of_a_schedule_are_recalled() -> None:
    """Lists and views that change nothing too; None where a space does not come to it."""
    several = space(
        n_stages=(1, 2), lrs=(1e-3, (1e-5, 1e-4, 1e-3)), frozen=(0.0, 0.5), views=(2, 4)
    )
    made = suggest_schedule(Noting(lambda allowed: allowed[-1]), several, "random")
    assert params_of(made, several) == {
        "n_stages": (2, (1, 2)),
        **{f"s{k}_lrs": ((1e-5, 1e-4, 1e-3), (1e-3, (1e-5, 1e-4, 1e-3))) for k in (0, 1)},
        **{f"s{k}_frozen": (0.5, (0.0, 0.5)) for k in (0, 1)},
        **{f"s{k}_views": (4, (2, 4)) for k in (0, 1)},
    }
    assert params_of(made, space()) is None
    unfrozen = suggest_schedule(Noting(), several, "random")
    assert unfrozen.stages[0].views == 0
    assert (params_of(unfrozen, several) or {})["s0_frozen"] == (0.0, (0.0, 0.5))


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
