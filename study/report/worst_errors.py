"""The report's worst errors: each photo beside its heat map.

Loading a network takes seconds, so it is done in a separate process while the figures are made; if
that fails, the report is still written, and says so.
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
"""Side of a photo and of its heat map, in pixels."""


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
    """The worst errors; if there are no pictures of them, why.

    `made_by` and `packages` are from the weights' card.
    """

    photos: tuple[Worst, ...] = ()
    reason: str = ""
    made_by: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)


def worst_of(contents: Contents, top: int) -> list[int]:
    """Return the indices of the `top` worst validation photos, the most confident mistakes first.

    After the mistakes come the right predictions with the least confidence.
    """
    found = contents.predictions
    if found is None:
        return []
    wrong = found.predicted != contents.labels
    doubt = np.where(wrong, found.true_probability, 1 + found.confidence)
    doubt = doubt.reshape(-1, contents.questions).min(axis=1)
    return [int(place) for place in np.argsort(doubt, kind="stable")[:top]]


class Explainer:
    """A context that explains the worst errors in a separate process."""

    def __init__(self) -> None:
        self._process: SpawnProcess | None = None
        self._line: Connection | None = None
        self._reason = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the process: an orderly exit would take a second."""
        if self._process is not None and self._line is not None:
            self._process.kill()
            self._process.join()
            self._line.close()

    def start(self) -> None:
        """Start the process unless it runs already: its imports take seconds."""
        if self._process is None:
            spawn = multiprocessing.get_context("spawn")
            line, theirs = spawn.Pipe()
            process = spawn.Process(target=_work, args=(theirs,), daemon=True)
            with without_main():
                process.start()
            theirs.close()
            self._process, self._line = process, line

    def ask(self, contents: Contents, top: int) -> None:
        """Start explaining the `top` worst errors, if possible."""
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
            with suppress(OSError):  # a dead process is noticed when its answer is read
                self._line.send((Path(chosen.file), asked))

    def answer(self) -> ExplainedErrors:
        """Wait for the result."""
        if self._reason or self._line is None:
            return ExplainedErrors(reason=self._reason)
        try:
            found: ExplainedErrors = self._line.recv()
        except (EOFError, OSError):
            return ExplainedErrors(reason="the process that was to explain the photos died")
        return found


def _work(line: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent
    with suppress(Exception):  # the page says what is missing
        from trainers import attribution, classifier  # noqa: F401
    with suppress(EOFError):
        line.send(explain_all(*line.recv()))


def _reason(contents: Contents) -> str:
    """Return why there can be no pictures, if that is known without loading anything."""
    if contents.selection is None:
        return contents.unselected
    if contents.study.config.get("trainer"):
        return "the network is your own trainer's, which Encore cannot explain"
    return ""


def explain_all(weights: Path, photos: list[ToExplain]) -> ExplainedErrors:
    """Explain those of the photos that can be read, in this process."""
    try:
        from trainers.classifier import load

        # The accelerator, if there is one, is left to the search.
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
