"""The report's worst errors: each photo beside what the network went by.

A network takes seconds to be imported and loaded. So it is done by a process of its own, while the
figures are made; and whatever goes wrong there, the report is written, and says so.
"""

import multiprocessing
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from study.deployment.contact_sheet import Picture, heated
from study.deployment.explain import Explained, ToExplain, draw
from study.report.contents import Contents
from study.report.thumbnails import data_uri
from trainers.spawning import without_main

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
class ExplainedErrors:
    """The worst errors; where there are no pictures of them, why.

    `made_by` and `packages` are what the weights' own card tells of who made them, and with what.
    """

    photos: tuple[Worst, ...] = ()
    reason: str = ""
    made_by: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)


def worst_of(contents: Contents, top: int) -> list[int]:
    """Return the places of the `top` worst validation photos, the surest mistakes first.

    After the mistakes come those that were rightly named with the least certainty.
    """
    found = contents.predictions
    if found is None:
        return []
    wrong = found.predicted != contents.labels
    doubt = np.where(wrong, found.true_probability, 1 + found.confidence)
    return [int(place) for place in np.argsort(doubt, kind="stable")[:top]]


class Explainer:
    """Explains the worst errors in a process of its own, for as long as it is entered."""

    def __init__(self) -> None:
        self._process: SpawnProcess | None = None
        self._line: Connection | None = None
        self._reason = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Be done with the process: what it still has to tidy up would take a second."""
        if self._process is not None and self._line is not None:
            self._process.kill()
            self._process.join()
            self._line.close()

    def start(self) -> None:
        """Start the process, if it is not there yet: its imports take seconds."""
        if self._process is None:
            spawn = multiprocessing.get_context("spawn")
            line, theirs = spawn.Pipe()
            process = spawn.Process(target=_work, args=(theirs,), daemon=True)
            with without_main():
                process.start()
            theirs.close()
            self._process, self._line = process, line

    def ask(self, contents: Contents, top: int) -> None:
        """Have the `top` worst errors explained, where that can be."""
        chosen, manifest = contents.selection, contents.manifest
        self._reason = _reason(contents)
        if self._reason or chosen is None or manifest is None:
            return
        photos = [contents.photos[place] for place in worst_of(contents, top)]
        asked = [
            ToExplain(
                *(manifest.root / photo.path, photo.path, manifest.label_text(photo)),
                fold=photo.fold,
            )
            for photo in photos
        ]
        self.start()
        if self._line is not None:
            with suppress(OSError):  # that it has died is found when it should answer
                self._line.send((Path(chosen.file), asked))

    def answer(self) -> ExplainedErrors:
        """Wait for what came of it."""
        if self._reason or self._line is None:
            return ExplainedErrors(reason=self._reason)
        try:
            found: ExplainedErrors = self._line.recv()
        except (EOFError, OSError):
            return ExplainedErrors(reason="the process that was to explain the photos died")
        return found


def _work(line: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits
    with suppress(Exception):  # the page says what is missing
        from trainers import attribution, classifier  # noqa: F401
    with suppress(EOFError):
        line.send(explain_all(*line.recv()))


def _reason(contents: Contents) -> str:
    """Say why there can be no pictures, if that is known without loading anything."""
    if contents.selection is None:
        return contents.unselected
    if contents.study.config.get("trainer"):
        return "the network is that of your own trainer, which Encore cannot look into"
    return ""


def explain_all(weights: Path, photos: list[ToExplain]) -> ExplainedErrors:
    """Explain those of the photos that can be read, in this process."""
    try:
        from trainers.classifier import load

        # The accelerator, if there is one, is the search's.
        classifier = load(weights, "cpu")
        card = classifier.card
        known = partial(ExplainedErrors, made_by=dict(card.made_by), packages=dict(card.packages))
    except Exception as error:  # noqa: BLE001 - the report is worth having without these pictures
        return ExplainedErrors(reason=_sentence(error))
    if not photos:
        return known()
    readable = [photo for photo in photos if _is_readable(photo.path)]
    if not readable:
        where = photos[0].path.parent
        return known(reason=f"none of the worst photos can be read any more, such as in {where}")
    try:
        drawn = draw(classifier, readable, len(readable))
    except Exception as error:  # noqa: BLE001 - as above
        return known(reason=_sentence(error))
    return known(photos=tuple(_worst(about, picture) for about, picture in drawn))


def _is_readable(path: Path) -> bool:
    from trainers.data.photo import read_photo
    from trainers.errors import UnreadablePhoto

    try:
        read_photo(path)
    except (OSError, UnreadablePhoto):
        return False
    return True


def _worst(about: Explained, picture: Picture) -> Worst:
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
