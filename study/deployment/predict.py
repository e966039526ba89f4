"""Use case `predict`: classify photos with the best weights, or those of a file."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from study.config.schema import StudyConfig
from study.deployment.photos import find_photos
from study.deployment.reference import (
    Stated,
    known_distances,
    known_misfits,
    references_of,
    stated,
)
from study.errors import ConfigError
from study.formatting import count_text
from study.selection.best import best
from study.statistics.conformal import Known, beyond, p_values, sets
from trainers.decision import REJECTED, Decision
from trainers.labels import KINDS
from trainers.prior import label_shares, named_shares, reweighted, reweighted_labels

if TYPE_CHECKING:  # torch takes seconds; wrong arguments are reported before
    from trainers.card import WeightsCard
    from trainers.classifier import Classifier
    from trainers.reference import Reference

BATCH = 64

COMPARED = 16
"""Number of photos used to measure the effect of another precision than in validation."""

_Outcome = tuple[str | None, float, dict[str, float]]
"""Label, probability and probabilities of a photo, as in `Prediction`."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for a photo. `label` is None where the decision rule rejects it.

    Probabilities are calibrated by the rule; `probability` is that of the label, or, of a photo
    without one, that of its most probable class. On request: `unknown` means that the photo is
    unlike the training photos, and it has no label; `p_value` is the share of validation photos at
    least as far from these, counting itself; `classes` are those that it may be of, or the labels
    that it may have.
    """

    path: str
    label: str | None
    probability: float
    probabilities: dict[str, float]
    unknown: bool = False
    p_value: float | None = None
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Unreadable:
    """A file that could not be predicted, and why in a few words."""

    path: str
    reason: str


@dataclass(frozen=True)
class Predictions:
    """The result of `predict`: the weights used, and an iterator of answers, one per photo.

    `rule` is the weights' decision rule; None where the most probable class is predicted.
    With `several` labels, each photo's are in `label` as in a list, "a;b", and `probability` is
    that of the least certain label, present or not; `thresholds` say from which probability each
    label is present, None for one class each.
    `rounding` says by how much probabilities differ from those in validation where this device
    computes in another precision; else "". `stated` are the rates of unknown photos and of sets of
    classes, if requested.
    """

    weights: str
    classes: tuple[str, ...]
    rule: Decision | None
    answers: Iterator[Prediction | Unreadable]
    rounding: str = ""
    stated: Stated | None = None
    several: bool = False
    thresholds: dict[str, float] | None = None


def predict(
    inputs: Sequence[str],
    *,
    weights: Path | None = None,
    study: str | None = None,
    storage: str = StudyConfig().storage,
    device: str = "auto",
    augment: bool | None = None,
    prior: Sequence[str] = (),
    unknown: float | None = None,
    coverage: float | None = None,
) -> Predictions:
    """Predict files, folders at any depth, patterns such as `*.jpg`, and `-` for a list of paths.

    Without `weights`, those that `best` chooses for the study are used (by default the study used
    last). `augment` is as for `Classifier.predict`. `prior` are shares of classes, "A380=0.1",
    where they differ from those in training; of several labels, of the photos with each. Photos
    unlike the training photos are unknown, and so is at most the share `unknown` of photos like the
    validation photos: by default the rate that the weights carry; 0 turns it off. `coverage` is the
    share of photos whose set of classes contains the true one; of several labels, the mean share of
    a photo's labels that its set contains. Of weights in folds, both hold about: see `Stated`.
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
    card = classifier.card
    shares = _prior(card, prior)
    if coverage is not None and (shares or augment not in (None, card.tta)):
        raise ConfigError(
            "--coverage holds for photos predicted as in validation; drop "
            f"{'--prior' if shares else '--augment'}, or drop --coverage"
        )
    limits: Stated | None = None
    references: tuple[Reference, ...] = ()
    unknown = (card.unknown if unknown is None else unknown) or None
    if unknown is not None or coverage is not None:
        references = references_of(classifier, file, storage)
        limits = stated(references, unknown, coverage)
    return Predictions(
        str(file),
        classifier.classes,
        card.rule if card.decision else None,
        _answers(_Judge(classifier, shares, limits, references), paths, augment=augment),
        _rounding(classifier, paths),
        limits,
        several=card.several,
        thresholds=_thresholds(classifier),
    )


def _thresholds(classifier: "Classifier") -> dict[str, float] | None:
    if not classifier.card.several:
        return None
    return dict(zip(classifier.classes, classifier.thresholds.tolist(), strict=True))


def _rounding(classifier: "Classifier", paths: Sequence[Path]) -> str:
    validated, here = classifier.card.precision, classifier.precision
    if here is validated:
        return ""
    some = paths[:COMPARED]
    return (
        f"validated in {validated}, computed here in {here}: probabilities of the first "
        f"{count_text(len(some), 'photo')} differ by at most {classifier.rounding(some):.4f}"
    )


@dataclass(frozen=True)
class _Judge:
    """What predicts: the weights, the given shares of classes, and the requested limits."""

    classifier: "Classifier"
    prior: Sequence[float] | None
    stated: Stated | None
    references: "Sequence[Reference]"

    def rows(self, paths: Sequence[Path], *, augment: bool | None) -> Iterator[tuple[Any, Any]]:
        """Yield photos with their rows; of each network, with distances, where rates are stated."""
        if self.stated is None:
            return self.classifier.stream(paths, BATCH, augment=augment)
        return self.classifier.look(paths, BATCH, references=self.references, augment=augment)

    def outcomes(self, rows: NDArray[np.float32]) -> Iterator[dict[str, Any]]:
        """Yield what `Prediction` says of each photo, by the names of its fields."""
        more: list[dict[str, Any]] = [{} for _ in rows]
        if self.stated is not None:
            n_classes = len(self.classifier.classes)
            by_network = np.swapaxes(rows, 0, 1)  # (K, B, C + 1)
            rows = rows[..., :n_classes].mean(axis=1)
            more = self._more(self.stated, by_network, rows)
        answers = _outcomes(self.classifier, rows, self.prior)
        for (label, probability, table), extra in zip(answers, more, strict=True):
            known = None if extra.get("unknown") else label
            best = max(table.values()) if known is None else probability
            yield {"label": known, "probability": best, "probabilities": table} | extra

    def _more(
        self, stated: Stated, by_network: NDArray[np.float32], mean: NDArray[np.float32]
    ) -> list[dict[str, Any]]:
        """Return what the requested rates say of photos, given their rows, (K, B, C + 1)."""
        more: list[dict[str, Any]] = [{} for _ in mean]
        if stated.unknown is not None:
            shares = p_values(self._distances, by_network[..., -1])
            far = beyond(shares, stated.unknown).tolist()
            for each, p_value, unknown in zip(more, shares.tolist(), far, strict=True):
                each |= {"p_value": p_value, "unknown": unknown}
        if stated.missed is not None:
            shares = p_values(self._misfits, 1 - by_network[..., :-1])
            found = self._sets(shares, mean, stated.missed)
            names = np.array(self.classifier.classes, object)
            for each, may in zip(more, found, strict=True):
                each["classes"] = tuple(names[may])
        return more

    def _sets(
        self, shares: NDArray[np.float64], mean: NDArray[np.float32], missed: float
    ) -> NDArray[np.bool_]:
        if not self.classifier.card.several:
            return sets(shares, mean, missed)
        # What is named is in the set.
        return np.asarray(~beyond(shares, missed) | (mean >= self.classifier.thresholds))

    @cached_property
    def _distances(self) -> list[Known]:
        return known_distances(self.references)

    @cached_property
    def _misfits(self) -> list[Known]:
        return known_misfits(self.references)


def _answers(
    judge: _Judge, paths: Sequence[Path], *, augment: bool | None
) -> Iterator[Prediction | Unreadable]:
    found = judge.rows(paths, augment=augment)
    while batch := list(islice(found, BATCH)):
        rows = [row for _, row in batch if isinstance(row, np.ndarray)]
        outcomes = judge.outcomes(np.array(rows)) if rows else iter(())
        for path, row in batch:
            name = _shown(str(path))
            if isinstance(row, np.ndarray):
                yield Prediction(name, **next(outcomes))
            elif isinstance(row, OSError):
                yield Unreadable(name, row.strerror or str(row))
            else:
                yield Unreadable(name, str(row))


def _prior(card: "WeightsCard", shares: Sequence[str]) -> tuple[float, ...] | None:
    """Return the shares of all classes among the photos, if any are given."""
    if not shares:
        return None
    if card.prior is None:
        raise ConfigError(
            f"--prior needs weights that record the {KINDS[card.kind].plural}' shares in training; "
            "older ones do not, so train them again"
        )
    try:
        read = label_shares if card.several else named_shares
        return read(shares, card.classes, card.prior)
    except ValueError as error:
        raise ConfigError(f"--{error}") from None


def _outcomes(
    classifier: "Classifier", rows: NDArray[np.float32], prior: Sequence[float] | None
) -> Iterator[_Outcome]:
    card = classifier.card
    if card.several:
        shares = (
            rows
            if prior is None or card.prior is None
            else reweighted_labels(rows, card.prior, prior)
        )
        for named, numbers in zip(classifier.decide(shares), shares.tolist(), strict=True):
            sure = min(max(number, 1 - number) for number in numbers)
            yield named, sure, dict(zip(classifier.classes, numbers, strict=True))
        return
    # For all at once: of a thousand classes, a rule has a million prices.
    calibrated = card.rule.calibrated(rows)
    if prior is not None and card.prior is not None:
        calibrated = reweighted(calibrated, card.prior, prior)
    answers = card.rule.answers(calibrated)
    for answer, numbers in zip(answers.tolist(), calibrated.tolist(), strict=True):
        probabilities = dict(zip(classifier.classes, numbers, strict=True))
        label = None if answer == REJECTED else classifier.classes[answer]
        yield label, max(numbers) if label is None else probabilities[label], probabilities


def _shown(path: str) -> str:
    """Return a path as text that can be written: invalid bytes in its name become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
