"""Flawed photos: blank, blurred, tiny, of unusual aspect, grey among coloured ones."""

from collections.abc import Sequence
from statistics import median

from trainers.data.inspect.facts import Facts
from trainers.data.inspect.findings import Flaw, FlawedPhoto
from trainers.data.manifest import Photo

BLANK = 3.0
"""A photo whose luminance varies less, in levels of 255, is blank."""

BLURRED = 0.4
"""A sharpness below it, at 128 pixels a side, is that of a Gaussian blur of 1.2 % of the side or
more; of 1,440 photos of flowers, soft ones among them, the least sharp had 0.51."""

USUAL_BLUR = 3
"""The median photo must have this many times the sharpness limit: else the whole set is soft."""

TINY = 32
"""Pixels of the shorter side, below which there is little to see."""

ODD = 3.0
"""How many times longer than the shorter side the longer one may be: a crop shows a third of it."""

RARE = 0.05
"""A property of more than this share of all photos is not a flaw."""


def find_flaws(photos: Sequence[Photo], facts: Sequence[Facts]) -> tuple[FlawedPhoto, ...]:
    """Return the photos with flaws that are exceptions in their set, flaw by flaw."""
    soft = median(each.sharpness for each in facts) < USUAL_BLUR * BLURRED if facts else True
    small = {
        Flaw.BLANK: [each.contrast < BLANK for each in facts],
        Flaw.BLURRED: [not soft and each.sharpness < BLURRED for each in facts],
        Flaw.TINY: [each.short_side < TINY for each in facts],
        Flaw.ODD_ASPECT: [each.elongation > ODD for each in facts],
        Flaw.GREY: [each.grey for each in facts],
    }
    found = []
    for flaw, has in small.items():
        if flaw is not Flaw.BLANK and sum(has) > max(1, RARE * len(facts)):
            continue
        found += [
            FlawedPhoto(photo, flaw, _detail(flaw, each))
            for photo, each, flawed in zip(photos, facts, has, strict=True)
            # A blank photo is neither blurred nor grey.
            if flawed and (flaw is Flaw.BLANK or each.contrast >= BLANK)
        ]
    return tuple(found)


def _detail(flaw: Flaw, facts: Facts) -> str:
    match flaw:
        case Flaw.BLANK:
            return f"its brightness varies by {facts.contrast:.1f} of 255 levels"
        case Flaw.BLURRED:
            return f"sharpness {facts.sharpness:.2f}, less than {BLURRED}"
        case Flaw.TINY | Flaw.ODD_ASPECT:
            return f"{facts.width} x {facts.height} pixels"
        case Flaw.GREY:
            return "no colour"
