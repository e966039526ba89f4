"""The report's worst errors: each photo beside what the network went by.

A network takes seconds to be imported and loaded. So it is done by a process of its own, while the
figures are made; and whatever goes wrong there, the report is written, and says so.
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from study.explain import ToExplain, draw
from study.report.contents import Contents
from study.report.thumbnails import data_uri
from study.views.sheet import Picture, heated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from study.explain import Explained

SIDE = 224
"""Pixels a side of a photo and of its heat map."""


@dataclass(frozen=True)
class Worst:
    """A photo as the page shows it: `photo` and `heat` are data URIs."""

    path: str
    label: str | None
    predicted: str | None
    probability: float
    verdict: str
    wrong: bool
    blank: bool
    photo: str = field(repr=False)
    heat: str = field(repr=False)


@dataclass(frozen=True)
class Explanation:
    """The worst errors; where there are no pictures of them, why.

    `made_by` and `packages` are what the weights' own card tells of who made them, and with what.
    """

    photos: tuple[Worst, ...] = ()
    reason: str = ""
    made_by: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)


def worst_of(contents: Contents, top: int) -> list[int]:
    """Give the places of the `top` worst validation photos: mistakes by how little was right,
    then those that were rightly named with the least certainty.
    """
    found = contents.predictions
    if found is None:
        return []
    wrong = found.predicted != contents.labels
    doubt = np.where(wrong, found.true_probability, 1 + found.confidence)
    return [int(place) for place in np.argsort(doubt, kind="stable")[:top]]


@contextmanager
def explaining(contents: Contents, top: int) -> "Iterator[Callable[[], Explanation]]":
    """Begin to explain the worst errors beside; what is given waits for them."""
    reason = _reason(contents)
    chosen, manifest = contents.selection, contents.manifest
    if reason or chosen is None or manifest is None:
        yield partial(Explanation, reason=reason)
        return
    photos = [contents.photos[place] for place in worst_of(contents, top)]
    asked = [
        ToExplain(manifest.root / photo.path, photo.path, manifest.classes[photo.label])
        for photo in photos
    ]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        yield pool.submit(explain_all, Path(chosen.file), asked).result


def _reason(contents: Contents) -> str:
    """Say why there can be no pictures, if that is known without loading anything."""
    if contents.selection is None:
        return contents.unselected
    if contents.study.config.get("trainer"):
        return "the network is that of your own trainer, which Encore cannot look into"
    return ""


def explain_all(weights: Path, photos: list[ToExplain]) -> Explanation:
    """Explain those of the photos that can be read, in this process."""
    try:
        from trainers.classifier import load

        # The accelerator, if there is one, is the search's.
        classifier = load(weights, "cpu")
        card = classifier.card
        known = partial(Explanation, made_by=dict(card.made_by), packages=dict(card.packages))
    except Exception as error:  # noqa: BLE001 - the report is worth having without these pictures
        return Explanation(reason=_sentence(error))
    readable = [photo for photo in photos if _is_readable(photo.path)]
    if photos and not readable:
        where = photos[0].path.parent
        return known(reason=f"none of the worst photos can be read any more, such as in {where}")
    try:
        drawn = draw(classifier, readable, len(readable))
    except Exception as error:  # noqa: BLE001 - as above
        return known(reason=_sentence(error))
    return known(photos=tuple(_worst(about, picture) for about, picture in drawn))


def _is_readable(path: Path) -> bool:
    from trainers.data.photo import UnreadablePhoto, read_photo

    try:
        read_photo(path)
    except (OSError, UnreadablePhoto):
        return False
    return True


def _worst(about: "Explained", picture: Picture) -> Worst:
    photo = Image.fromarray(picture.photo).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return Worst(
        path=about.path,
        label=about.label,
        predicted=about.predicted,
        probability=about.probability,
        verdict=about.verdict,
        wrong=picture.wrong,
        blank=about.blank,
        photo=data_uri(photo),
        heat=data_uri(heated(photo, picture.heat)),
    )


def _sentence(error: Exception) -> str:
    return str(error) or type(error).__name__
