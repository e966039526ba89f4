"""Use case `explain`: pictures of the areas of a photo that the network used."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from study.config.schema import StudyConfig
from study.deployment.contact_sheet import SIDE, Picture, draw_picture, draw_sheet
from study.deployment.photos import find_photos
from study.deployment.reference import trained_on
from study.errors import ConfigError
from study.selection.best import best
from trainers.data.manifest import Split
from trainers.data.scale import Scale, read_at, validation_scale
from trainers.labels import SEVERAL
from trainers.schedule import CropType

if TYPE_CHECKING:  # torch takes seconds; wrong arguments are reported before
    from trainers.classifier import Classifier

SHEET = "sheet.png"
NONE = "no label"
MAX_LIMIT = 100
"""More photos are no longer legible on one sheet."""

_MAX_STEM = 120  # bytes of a photo's name used in its picture's name; file systems allow 255


@dataclass(frozen=True)
class Explained:
    """A photo, its prediction, and the picture that explains class `explained`.

    `label` is None where the photo's class is not known, `predicted` where the decision rule
    rejects it. `probability` is that of the predicted class, `explained_probability` that of the
    explained one. `blank` means that no area supports that class.
    """

    path: str
    label: str | None
    predicted: str | None
    probability: float
    explained: str
    explained_probability: float
    blank: bool
    file: str

    @property
    def verdict(self) -> str:
        """Return label, prediction and probability in a few words."""
        sure = _bracketed(self.probability)
        if self.predicted is None:
            return f"{self.label or 'photo'} rejected {sure}"
        predicted, label = self.predicted or NONE, self.label or NONE
        if self.label is None:
            return f"{predicted} {sure}"
        if label == predicted:
            return f"{label}, classified correctly {sure}"
        return f"{label} misclassified as {predicted} {sure}"


@dataclass(frozen=True)
class Explanation:
    """The result of `explain`: the worst mistakes first, then the least certain photos."""

    weights: str
    sheet: str
    photos: tuple[Explained, ...]


@dataclass(frozen=True)
class ToExplain:
    """A photo to explain: its path, its name, and its class and fold if known."""

    path: Path
    name: str
    label: str | None
    fold: int | None = None


@dataclass(frozen=True)
class _Seen:
    """The prediction for a photo; `predicted` is None where the decision rule rejects it."""

    photo: ToExplain
    predicted: str | None
    probabilities: dict[str, float]
    about: str = ""  # of several labels the one to look at

    @property
    def answer(self) -> str:
        return (
            self.about
            or self.predicted
            or max(self.probabilities, key=self.probabilities.__getitem__)
        )

    @property
    def wrong(self) -> bool:
        return self.photo.label is not None and self.predicted not in (None, self.photo.label)


def explain(
    inputs: Sequence[str] = (),
    *,
    weights: Path | None = None,
    study: str | None = None,
    storage: str = StudyConfig().storage,
    to: Path,
    limit: int = 24,
    target: str | None = None,
    device: str = "auto",
) -> Explanation:
    """Draw which area of each photo supports the predicted class, or `target`.

    `inputs` are as `predict` takes them; without any, they are the validation photos that the
    weights were chosen by. Without `weights`, those that `best` chooses for the study are used.
    Into the folder `to` go `sheet.png` and a picture for each of the `limit` worst photos, all or
    none. Raises FileNotFoundError, `ConfigError`, `UnreadablePhoto`, `NotOurWeights`, and what
    `best` raises.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise ConfigError(f"limit must be 1 to {MAX_LIMIT} photos, got {limit}")
    if to.exists() and not to.is_dir():
        raise NotADirectoryError(f"{str(to)!r} is a file; name a folder for the pictures")
    paths = find_photos(inputs) if inputs else []
    chosen = best(study, storage=storage) if weights is None else None
    file = weights or Path(chosen.file if chosen else "")
    classifier = _load(file, device)
    if target is not None and target not in classifier.classes:
        names = ", ".join(classifier.classes)
        raise ConfigError(f"class must be one of {names}, got {target!r}")
    if inputs:
        several = classifier.card.several  # no folder is called like a set of labels
        known = () if several else classifier.classes
        photos = [_given(path, known) for path in paths]
    else:
        photos = _validation(classifier.card.manifest_digest, storage)
        # Of many photos, only those that stored predictions have wrong are looked at.
        mistakes = {mistake.path for mistake in chosen.mistakes} if chosen else set()
        if len(mistakes) >= limit:
            photos = [photo for photo in photos if photo.name in mistakes]
    return _publish(to, draw(classifier, photos, limit, target), str(file))


def draw(
    classifier: "Classifier", photos: Sequence[ToExplain], limit: int, target: str | None = None
) -> list[tuple[Explained, Picture]]:
    """Return the `limit` worst of the photos with their pictures, as `explain` would write them.

    Photos of a fold are explained by the network that was trained without it.
    Raises `ConfigError` for a backbone without spatial features, and what reading a photo raises.
    """
    judges = {fold: classifier.of_fold(fold) for fold in {photo.fold for photo in photos}}
    seen = [
        each
        for fold, judge in judges.items()
        for each in _look(judge, [photo for photo in photos if photo.fold == fold])
    ]
    return _pictures(judges, sorted(seen, key=_rank)[:limit], target)


def _load(file: Path, device: str) -> "Classifier":
    if not file.is_file():
        raise FileNotFoundError(f"there is no weights file {str(file)!r}")

    from trainers.classifier import load

    try:
        return load(file, device)
    except ValueError as error:  # no such device here: `load` suggests others
        raise ConfigError(str(error)) from error


def _given(path: Path, classes: Sequence[str]) -> ToExplain:
    """Return as the photo's label the nearest folder that is named after a class."""
    label = next((each.name for each in path.absolute().parents if each.name in classes), None)
    return ToExplain(path, os.fsencode(path).decode("utf-8", "backslashreplace"), label)


def _validation(digest: str, storage: str) -> list[ToExplain]:
    """Return the validation photos of the data that weights were trained on."""
    found = trained_on(digest, storage)
    if found is None:
        raise LookupError(
            "these weights were trained on data that no study here knows; name the photos"
        )
    _, manifest = found
    return [
        ToExplain(manifest.root / photo.path, photo.path, manifest.label_text(photo), photo.fold)
        for photo in manifest.of_split(Split.VALID)
    ]


def _look(classifier: "Classifier", photos: Sequence[ToExplain]) -> list[_Seen]:
    rows = classifier.predict(photo.path for photo in photos)
    if classifier.card.several:
        tables = (dict(zip(classifier.classes, row, strict=True)) for row in rows.tolist())
        told = zip(photos, classifier.decide(rows), tables, strict=True)
        return [_labelled(*each) for each in told]
    numbers = classifier.card.rule.calibrated(rows).tolist()
    return [
        _Seen(photo, answer, dict(zip(classifier.classes, shares, strict=True)))
        for photo, answer, shares in zip(photos, classifier.decide(rows), numbers, strict=True)
    ]


def _labelled(photo: ToExplain, named: str | None, shares: dict[str, float]) -> _Seen:
    """Look at the label that is most off where the weights are wrong, or at the most probable."""
    if photo.label is None or named == photo.label:
        return _Seen(photo, named, shares, max(shares, key=shares.__getitem__))
    there = SEVERAL.named(photo.label)
    return _Seen(
        photo, named, shares, max(shares, key=lambda name: abs((name in there) - shares[name]))
    )


def _rank(seen: _Seen) -> tuple[bool, float]:
    """Order photos: mistakes first, the worst at the top, then the least certain."""
    if seen.about:  # of a mistake, the label that is most off comes first
        off = seen.probabilities[seen.about]
        there = seen.about in SEVERAL.named(seen.photo.label or "")
        return not seen.wrong, off if there or not seen.wrong else 1 - off
    named = seen.photo.label if seen.wrong else seen.answer
    return not seen.wrong, seen.probabilities[named or seen.answer]


def _pictures(
    judges: Mapping[int | None, "Classifier"], seen: Sequence[_Seen], target: str | None
) -> list[tuple[Explained, Picture]]:
    from trainers.attribution import attribute

    classifier = next(iter(judges.values()))
    card = classifier.card
    small = validation_scale(card.image_size, CropType(card.crop))
    # The part of the photo that the network sees, in more detail.
    scales = small, Scale(SIDE, squeeze=small.squeeze, cut=small.cut)
    read = [read_at(each.photo.path, scales) for each in seen]
    asked = [target or each.answer for each in seen]
    indices = [classifier.classes.index(name) for name in asked]
    try:
        heats: dict[int, NDArray[np.float32]] = {}
        for fold, judge in judges.items():
            places = [place for place, each in enumerate(seen) if each.photo.fold == fold]
            if places:
                squares = np.stack([read[place][0] for place in places])
                found = attribute(judge, squares, [indices[place] for place in places])
                heats |= dict(zip(places, found, strict=True))
    except ValueError as error:  # an unusual backbone
        raise ConfigError(str(error)) from None
    return [
        _picture(place + 1, len(seen), each, name, large, heats[place])
        for place, (each, name, (_, large)) in enumerate(zip(seen, asked, read, strict=True))
    ]


def _picture(
    rank: int,
    of: int,
    seen: _Seen,
    asked: str,
    photo: NDArray[np.uint8],
    heat: NDArray[np.float32],
) -> tuple[Explained, Picture]:
    about = Explained(
        path=seen.photo.name,
        label=seen.photo.label,
        predicted=seen.predicted,
        probability=seen.probabilities[seen.answer],
        explained=asked,
        explained_probability=seen.probabilities[asked],
        blank=not heat.any(),
        file=picture_name(rank, of, seen.photo.path),
    )
    notes = [about.path]
    if asked != about.predicted:
        notes.insert(0, f"the map is of {asked} {_bracketed(about.explained_probability)}")
    if about.blank:
        notes.insert(0, f"no area supports {asked}")
    verdict = f"{rank}. {about.verdict}"
    return about, Picture(photo, heat, verdict, tuple(notes), wrong=seen.wrong)


def picture_name(rank: int, of: int, path: Path) -> str:
    """Name a photo's picture: its rank among `of`, and the safe characters of its own name."""
    stem = re.sub(r"[^\w.-]+", "_", path.stem).strip("._")
    short = stem.encode("utf-8", "ignore")[:_MAX_STEM].decode("utf-8", "ignore")
    return f"{rank:0{max(2, len(str(of)))}d}_{short or 'photo'}.png"


def _bracketed(probability: float) -> str:
    """Return a probability in brackets, such as "(98.2 %)"."""
    return f"({100 * probability:.1f} %)"


def _publish(
    folder: Path, pictures: Sequence[tuple[Explained, Picture]], weights: str
) -> Explanation:
    """Draw all pictures in a temporary folder beside the final one, then move them."""
    title = f"What {Path(weights).name} looks at"
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".explain-", dir=folder) as beside:
        for about, picture in pictures:
            Path(beside, about.file).write_bytes(draw_picture(picture))
        sheet = draw_sheet([picture for _, picture in pictures], title)
        Path(beside, SHEET).write_bytes(sheet)
        for drawn in sorted(Path(beside).iterdir()):
            drawn.replace(folder / drawn.name)
    photos = tuple(replace(about, file=str(folder / about.file)) for about, _ in pictures)
    return Explanation(weights, str(folder / SHEET), photos)
