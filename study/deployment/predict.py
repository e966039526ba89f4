"""Use case `predict`: name the class of photos with the best weights, or those of a file."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from study.config.schema import StudyConfig
from study.errors import ConfigError
from study.formatting import count_text
from study.selection.best import best
from trainers.data.photo import is_photo_name
from trainers.data.sources import is_inside
from trainers.decision import Decision

if TYPE_CHECKING:  # torch takes seconds, and a mistake is answered before
    from trainers.classifier import Classifier

LISTED = "-"
"""The input that stands for the paths on standard input, one per line."""

BATCH = 64

COMPARED = 16
"""Photos whose probabilities tell what another precision than that of validation changes."""

_Outcome = tuple[str | None, float, dict[str, float]]
"""Of a photo: label, probability and probabilities, as `Prediction` has them."""


@dataclass(frozen=True)
class Prediction:
    """What is seen on a photo. `label` is None where the rule of the weights rejects it.

    Probabilities are calibrated by the rule; `probability` is that of the label, or,
    of a rejected photo, that of its most probable class.
    """

    path: str
    label: str | None
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Unreadable:
    """A file that could not be predicted, and why in a few words."""

    path: str
    reason: str


@dataclass(frozen=True)
class Predictions:
    """The answer of `predict`: what it stands on, and an answer for each photo, as it comes.

    `rule` is what was set for these weights; None where the most probable class is named.
    `rounding` says by how much probabilities differ from those in validation where this device
    computes in another precision; else "".
    """

    weights: str
    classes: tuple[str, ...]
    rule: Decision | None
    answers: Iterator[Prediction | Unreadable]
    rounding: str = ""


def predict(
    inputs: Sequence[str],
    *,
    weights: Path | None = None,
    study: str | None = None,
    storage: str = StudyConfig().storage,
    device: str = "auto",
    augment: bool | None = None,
) -> Predictions:
    """Predict files, folders at any depth, patterns such as `*.jpg`, and `-` for a list of paths.

    Without `weights`: those that `best` names for the study (by default the one used last).
    `augment` is as for `Classifier.predict`.
    Raises FileNotFoundError for inputs without a photo, `NotOurWeights`, and what `best` raises.
    """
    paths = find_photos(inputs)
    file = Path(best(study, storage=storage).file) if weights is None else weights
    if not file.is_file():
        raise FileNotFoundError(f"there is no weights file {str(file)!r}")

    from trainers.classifier import load

    try:
        classifier = load(file, device)
    except ValueError as error:  # no such device here: `load` says what to try
        raise ConfigError(str(error)) from error
    rule = classifier.card.rule if classifier.card.decision else None
    answers = _answers(classifier, paths, augment=augment)
    return Predictions(str(file), classifier.classes, rule, answers, _rounding(classifier, paths))


def _rounding(classifier: "Classifier", paths: Sequence[Path]) -> str:
    validated, here = classifier.card.precision, classifier.precision
    if here is validated:
        return ""
    some = paths[:COMPARED]
    return (
        f"validated in {validated}, computed here in {here}: probabilities of the first "
        f"{count_text(len(some), 'photo')} differ by at most {classifier.rounding(some):.4f}"
    )


def find_photos(inputs: Iterable[str]) -> list[Path]:
    """Return the files that inputs stand for, each once; FileNotFoundError if that is none."""
    paths = list(dict.fromkeys(path for text in inputs for path in _photos_of(text)))
    if not paths:
        raise FileNotFoundError("no photo is given: standard input names none")
    return paths


def _photos_of(text: str) -> list[Path]:
    if text == LISTED:
        # A list may be long: what is no longer there is told when its turn comes.
        lines = (os.fsdecode(line).rstrip("\r\n") for line in sys.stdin.buffer)
        return [path for line in lines if line for path in _at(Path(line))]
    # A file may be called "rose[1].jpg": what is there is no pattern.
    if os.path.lexists(text):
        found = _at(Path(text))
    elif glob.has_magic(text):
        # As the shell does it, hidden files aside; but what is no photo was not meant.
        matches = map(Path, sorted(glob.glob(text, recursive=True)))  # noqa: PTH207
        meant = (each for each in matches if each.is_dir() or is_photo_name(each.name))
        found = [path for each in meant for path in _at(each)]
    else:
        raise FileNotFoundError(f"there is no file or folder {text!r}")
    if not found:
        raise FileNotFoundError(f"{text!r} holds no photos, or matches none")
    return found


def _at(path: Path) -> list[Path]:
    return list(_photos_below(path)) if path.is_dir() else [path]


def _photos_below(folder: Path) -> Iterator[Path]:
    """Return the visible photos of a folder at any depth, in order.

    Links are followed as in training: not out of the folder.
    """
    seen, root = set(), os.path.realpath(folder)
    for here, folders, files in os.walk(folder, onerror=_fail, followlinks=True):
        found = os.stat(here)  # noqa: PTH116 - a Path per folder is slow
        if (found.st_dev, found.st_ino) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add((found.st_dev, found.st_ino))
        folders[:] = sorted(
            each
            for each in folders
            if _is_visible(each) and is_inside(os.path.realpath(f"{here}/{each}"), root)
        )
        for name in sorted(files):
            if _is_visible(name) and is_photo_name(name):
                yield Path(here, name)


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _fail(error: OSError) -> None:
    raise error  # a folder that cannot be listed is not passed over in silence


def _answers(
    classifier: "Classifier", paths: Sequence[Path], *, augment: bool | None
) -> Iterator[Prediction | Unreadable]:
    found = classifier.stream(paths, BATCH, augment=augment)
    while batch := list(islice(found, BATCH)):
        rows = [row for _, row in batch if isinstance(row, np.ndarray)]
        outcomes = _outcomes(classifier, np.array(rows)) if rows else iter(())
        for path, row in batch:
            name = _shown(str(path))
            if isinstance(row, np.ndarray):
                yield Prediction(name, *next(outcomes))
            elif isinstance(row, OSError):
                yield Unreadable(name, row.strerror or str(row))
            else:
                yield Unreadable(name, str(row))


def _outcomes(classifier: "Classifier", rows: NDArray[np.float32]) -> Iterator[_Outcome]:
    # For all at once: of a thousand classes, a rule has a million prices.
    labels, calibrated = classifier.decide(rows), classifier.card.rule.calibrated(rows)
    for label, numbers in zip(labels, calibrated.tolist(), strict=True):
        probabilities = dict(zip(classifier.classes, numbers, strict=True))
        yield label, max(numbers) if label is None else probabilities[label], probabilities


def _shown(path: str) -> str:
    """Return a path as text that can be written: odd bytes in its name become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
