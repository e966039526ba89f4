"""Use case `predict`: name the class of photos with the best weights, or those of a file."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from study.config.schema import StudyConfig
from study.deployment.photos import find_photos
from study.errors import ConfigError
from study.formatting import count_text
from study.selection.best import best
from trainers.decision import REJECTED, Decision, named_shares, reweighted

if TYPE_CHECKING:  # torch takes seconds, and a mistake is answered before
    from trainers.card import WeightsCard
    from trainers.classifier import Classifier

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
    prior: Sequence[str] = (),
) -> Predictions:
    """Predict files, folders at any depth, patterns such as `*.jpg`, and `-` for a list of paths.

    Without `weights`: those that `best` names for the study (by default the one used last).
    `augment` is as for `Classifier.predict`. `prior` are shares of classes, "A380=0.1", where they
    come in other ones than in training.
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
    answers = _answers(classifier, paths, _prior(classifier.card, prior), augment=augment)
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


def _answers(
    classifier: "Classifier",
    paths: Sequence[Path],
    prior: Sequence[float] | None,
    *,
    augment: bool | None,
) -> Iterator[Prediction | Unreadable]:
    found = classifier.stream(paths, BATCH, augment=augment)
    while batch := list(islice(found, BATCH)):
        rows = [row for _, row in batch if isinstance(row, np.ndarray)]
        outcomes = _outcomes(classifier, np.array(rows), prior) if rows else iter(())
        for path, row in batch:
            name = _shown(str(path))
            if isinstance(row, np.ndarray):
                yield Prediction(name, *next(outcomes))
            elif isinstance(row, OSError):
                yield Unreadable(name, row.strerror or str(row))
            else:
                yield Unreadable(name, str(row))


def _prior(card: "WeightsCard", shares: Sequence[str]) -> tuple[float, ...] | None:
    """Return the shares of all classes that photos are to be predicted for, if any are given."""
    if not shares:
        return None
    if card.prior is None:
        raise ConfigError(
            "--prior needs weights that tell the classes' shares in training, which older ones do "
            "not; train them again"
        )
    try:
        return named_shares(shares, card.classes, card.prior)
    except ValueError as error:
        raise ConfigError(f"--{error}") from None


def _outcomes(
    classifier: "Classifier", rows: NDArray[np.float32], prior: Sequence[float] | None
) -> Iterator[_Outcome]:
    # For all at once: of a thousand classes, a rule has a million prices.
    card = classifier.card
    calibrated = card.rule.calibrated(rows)
    if prior is not None and card.prior is not None:
        calibrated = reweighted(calibrated, card.prior, prior)
    answers = card.rule.answers(calibrated)
    for answer, numbers in zip(answers.tolist(), calibrated.tolist(), strict=True):
        probabilities = dict(zip(classifier.classes, numbers, strict=True))
        label = None if answer == REJECTED else classifier.classes[answer]
        yield label, max(numbers) if label is None else probabilities[label], probabilities


def _shown(path: str) -> str:
    """Return a path as text that can be written: odd bytes in its name become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
