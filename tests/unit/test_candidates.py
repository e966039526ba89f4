"""Which schedules could be tried next."""

from itertools import islice

import numpy as np
import pytest

from study.config.portfolio import TYPICAL, portfolio, space_for
from study.config.space import PHOTO_SPACE, Space, StageChoices
from study.searching.candidates import anywhere, neighbours
from study.searching.suggest import params_of
from trainers.schedule import Schedule

SPACE = Space(
    backbone=("net",),
    n_stages=(2,),
    image_size=(32, 48, 64, 96),
    batch_size=(8,),
    lrs=(1e-4, 1e-3, 1e-2),
    crop=("random", "no", "googlenet"),
    stages=(StageChoices(image_size=(32, 48)),),
)


def drawn(space: Space, count: int) -> list[Schedule]:
    """Draw schedules from anywhere."""
    return list(islice(anywhere(space, "random", np.random.default_rng(0)), count))


def around(schedule: Schedule, space: Space, count: int) -> list[Schedule]:
    """Draw neighbours."""
    return list(islice(neighbours(schedule, space, np.random.default_rng(0)), count))


@pytest.mark.parametrize("space", [SPACE, PHOTO_SPACE, space_for(TYPICAL)])
def test_what_is_drawn_is_of_the_space(space: Space) -> None:
    """Every schedule has parameters there, and many differ."""
    found = drawn(space, 60)
    assert all(params_of(each, space) is not None for each in found)
    assert len(set(found)) > 30


def test_neighbours_are_a_step_or_two_away() -> None:
    """One choice differs or two; of numbers by one step, up or down; sizes never shrink."""
    for of in drawn(SPACE, 5):
        here = params_of(of, SPACE) or {}
        for near in around(of, SPACE, 40):
            there = params_of(near, SPACE) or {}
            changed = [name for name in here if here[name] != there[name]]
            # A larger first size may take the second one with it.
            assert len(changed) <= 3
            for name in changed:
                values = sorted(here[name][1]) if name != "s0_crop" else []
                if "crop" in name or "s1_image_size" in name:
                    continue
                steps = values.index(here[name][0]) - values.index(there[name][0])
                assert abs(steps) == 1
            sizes = [stage.image_size for stage in near.stages]
            assert sizes == sorted(sizes)


def test_all_choices_are_in_reach() -> None:
    """Enough neighbours change each of the parameters."""
    (of,) = drawn(SPACE, 1)
    here = params_of(of, SPACE) or {}
    changed = {
        name
        for near in around(of, SPACE, 100)
        for name, value in (params_of(near, SPACE) or {}).items()
        if value != here[name]
    }
    assert changed == set(here)


def test_what_lies_outside_has_no_neighbours() -> None:
    """A schedule of another space does not count as one of this space."""
    staged = portfolio(TYPICAL, "net", "random")[-1]
    assert around(staged, SPACE, 5) == []
    assert around(drawn(SPACE, 1)[0], SPACE.model_copy(update={"lrs": (5.0,)}), 5) == []


def test_a_space_of_one_schedule_has_no_neighbours() -> None:
    """There is nothing to change."""
    one = SPACE.model_copy(
        update={"image_size": (32,), "lrs": (1e-3,), "crop": ("no",), "stages": ()}
    )
    (only,) = set(drawn(one, 5))
    assert around(only, one, 5) == []
