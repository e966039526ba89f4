"""From photos on disk to settings that fit them; what a study was begun with stays."""

from dataclasses import replace
from typing import Any

import pytest

from study.config.loading import load_config, settings_of
from study.config.portfolio import space_for
from study.config.space import PHOTO_SPACE, describe_space
from study.engines.slots import slots_of
from study.searching.fitting import data_facts, fitted_to
from study.searching.policy import Independent, SearchPolicy
from study.searching.search import _warn_of_moving
from tests.lab import Lab
from trainers.data.manifest import Manifest, Split
from trainers.schedule import Schedule, Stage, Train

CPU = slots_of("cpu")
GPU = [replace(CPU[0], device="cuda:0")]
MINE: dict[str, Any] = {"image_size": [64], "batch_size": [8], "n_stages": [2]}


def settings(**flags: Any) -> Any:
    """Return the settings of a search of photos."""
    return load_config(settings_of(**({"data": "photos", "backbone": "net"} | flags)))


def test_facts_are_those_of_the_photos(photos: Manifest) -> None:
    """Counts by split, and the short side of the photos as their headers say."""
    facts = data_facts(photos, CPU)
    assert (facts.training, facts.validation) == (
        len(photos.of_split(Split.TRAIN)),
        len(photos.of_split(Split.VALID)),
    )
    assert (facts.classes, facts.on_gpu) == (len(photos.classes), False)
    assert data_facts(photos, GPU) == replace(facts, on_gpu=True)
    assert facts.short_side < 64
    assert facts.smallest_class * facts.classes <= facts.training


def test_a_space_fits_unless_it_is_the_users_or_the_studys(photos: Manifest, finished: Lab) -> None:
    """A study that there is keeps its space on another device; `backbone` goes into each."""
    facts = data_facts(photos, CPU)
    fitted = fitted_to(settings(), photos, CPU, None)
    assert fitted.config.space == space_for(facts, "net")
    assert fitted.config.resolved_space.backbone == ("net",)
    own = settings(space=MINE)
    assert (fitted_to(own, photos, CPU, None).config, fitted_to(own, photos, CPU, None).own) == (
        own,
        True,
    )
    with finished.reading() as (_, study, _):
        begun = replace(study, space=describe_space(space_for(replace(facts, short_side=999))))
    for slots in (CPU, GPU):
        kept = fitted_to(settings(), photos, slots, begun)
        assert kept.config.space == space_for(replace(facts, short_side=999))
        assert not kept.own
    assert fitted_to(settings(trainer="mine:T"), photos, CPU, None).config.space == (
        PHOTO_SPACE.model_copy(update={"backbone": ("net",)})
    )


@pytest.mark.parametrize("batch_norm", ["train", "frozen"])
def test_a_probe_that_batch_norm_moves_is_warned_of(photos: Manifest, batch_norm: str) -> None:
    """In a space or grid of the user's, on a backbone that has BatchNorm; never in our own."""
    moving, said = batch_norm == "train", list[str]()
    first = {"train": ["probe"]}
    space = MINE | {"hidden": [[]], "batch_norm": [batch_norm], "stages": [first]}
    fitted = fitted_to(settings(space=space), photos, CPU, None)
    _warn_of_moving(
        fitted, SearchPolicy(fitted.config, Independent(fitted.config)), ["net"], said.append
    )
    assert len(said) == moving
    assert all('batch_norm = "frozen"' in each and "net" in each for each in said)
    _warn_of_moving(
        fitted, SearchPolicy(fitted.config, Independent(fitted.config)), [], said.append
    )
    ours = fitted_to(settings(), photos, CPU, None)
    _warn_of_moving(ours, SearchPolicy(ours.config, Independent(ours.config)), ["net"], said.append)
    assert len(said) == moving
    stages = (Stage(image_size=64, train=Train.PROBE), Stage(image_size=64, batch_norm=batch_norm))  # type: ignore[arg-type]
    grid = replace(fitted, config=settings(strategy="grid", grid="g.toml"), own=False)
    given = [Schedule(backbone="net", hidden=(), stages=stages)]
    _warn_of_moving(
        grid, SearchPolicy(grid.config, Independent(grid.config), given), ["net"], said.append
    )
    assert len(said) == 2 * moving
