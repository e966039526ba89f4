"""Trivial cues: a warning where one gives the class away, silence where it does not."""

from dataclasses import replace

import numpy as np
import pytest

from trainers.data.inspect.cues import find_cues
from trainers.data.inspect.facts import Facts
from trainers.data.inspect.findings import Cue
from trainers.data.manifest import Photo
from trainers.data.sources import Split

N = 200


def material(classes: int = 2) -> tuple[list[Photo], list[Facts]]:
    """Return photos whose facts have nothing to do with their classes."""
    random = np.random.default_rng(0)
    photos = [Photo(f"{i}.jpg", i % classes, Split.TRAIN, "", 1) for i in range(N)]
    facts = [
        Facts(
            width=int(random.integers(300, 900)),
            height=int(random.integers(300, 900)),
            format="JPEG",
            n_bytes=int(random.integers(20_000, 90_000)),
            grey=False,
            colour=tuple(random.uniform(60, 190, 3).tolist()),
            contrast=50,
            sharpness=2,
        )
        for _ in range(N)
    ]
    return photos, facts


def cues(photos: list[Photo], facts: list[Facts], classes: int = 2) -> dict[str, Cue]:
    """Return the cues by name."""
    return {cue.name: cue for cue in find_cues(photos, facts, classes)}


def test_unrelated_facts_leak_nothing() -> None:
    """Where facts and classes have nothing to do with each other, no cue warns."""
    found = cues(*material())
    assert set(found) == {"size", "aspect", "bytes per pixel", "mean colour"}
    assert not any(cue.leaks for cue in found.values())
    assert all(cue.accuracy < 0.6 and cue.chance == 0.5 for cue in found.values())


CHANGES = {
    "size": lambda label, fact: replace(fact, width=640 + label * 320, height=480 + label * 240),
    "aspect": lambda label, fact: replace(fact, width=fact.height * (1 + label)),
    "file format": lambda label, fact: replace(fact, format=("JPEG", "PNG")[label]),
    "bytes per pixel": lambda label, fact: replace(
        fact, n_bytes=fact.width * fact.height * (1 + 9 * label) // 10
    ),
    "mean colour": lambda label, fact: replace(fact, colour=(label * 255, 1, 1)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_cue_that_gives_the_class_away_warns(name: str) -> None:
    """Each cue is noticed where it alone decides, with both classes named."""
    photos, facts = material()
    told = [CHANGES[name](p.label, fact) for p, fact in zip(photos, facts, strict=True)]
    cue = cues(photos, told)[name]
    assert cue.leaks
    assert cue.accuracy > 0.95
    assert cue.classes == (0, 1)


def test_colour_may_belong_to_the_motif() -> None:
    """Classes of which colour tells four in five apart, as roses from tulips, raise no alarm."""
    photos, facts = material()
    random = np.random.default_rng(2)
    red = [p.label if random.random() < 0.8 else 1 - p.label for p in photos]
    told = [replace(f, colour=(60 + 120 * r, 90, 90)) for f, r in zip(facts, red, strict=True)]
    cue = cues(photos, told)["mean colour"]
    assert 0.7 < cue.accuracy < 0.9
    assert not cue.leaks


def test_one_class_of_many_is_named() -> None:
    """Where only one of four classes has a format of its own, that one is named."""
    photos, facts = material(4)
    told = [
        replace(f, format="PNG" if p.label == 2 else "JPEG")
        for p, f in zip(photos, facts, strict=True)
    ]
    cue = cues(photos, told, 4)["file format"]
    assert cue.classes == (2,)


def test_too_few_photos_say_nothing() -> None:
    """Fewer than five photos of a class are no ground to stand on."""
    photos, facts = material()
    assert find_cues(photos[:8], facts[:8], 2) == ()
