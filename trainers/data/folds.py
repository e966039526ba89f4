"""Photos dealt into folds: each is scored by a network that was trained on the other folds."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from trainers.data.groups import joined
from trainers.data.manifest import Manifest, Photo, Split
from trainers.data.splits import deal_by_label
from trainers.errors import DatasetError

_DRAWS = 100
"""Maximum number of draws until each class is in several folds."""

Labels = Sequence[Sequence[int]]
"""The places of each photo's class, or labels, among all."""

Draw = Callable[[Labels, Sequence[str], int, int], Sequence[int]]
"""From photos' labels, their units, the number of folds and a seed to the fold of each photo."""


def in_folds(
    manifest: Manifest, folds: int, seed: int, together: Iterable[Sequence[Photo]] = ()
) -> Manifest:
    """Deal the photos of train and validation into folds, each class evenly; test takes no part.

    Photos of one group, of one hash, or of one of the groups `together` come into one fold. Drawn
    by scikit-learn's StratifiedKFold or StratifiedGroupKFold, of several labels by `deal_by_label`,
    whatever order the photos come in. Raises DatasetError for a class with fewer photos (or groups
    of them) than folds.
    """
    photos = [photo for photo in manifest.photos if photo.split is not Split.TEST]
    copies = {photo.path: str(number) for number, of in enumerate(together) for photo in of}
    linked = joined(
        [photo.group for photo in photos],
        [photo.sha256 for photo in photos],
        [copies.get(photo.path, "") for photo in photos],
    )
    units = [photos[first].path for first in linked]
    texts = (manifest.kind.named(manifest.label_text(photo)) for photo in photos)
    labels = [[manifest.classes.index(name) for name in names] for names in texts]
    _check_enough(manifest.classes, labels, units, folds)
    draw = _by_label if manifest.n_questions > 1 else _by_class
    dealt = _deal(draw, labels, units, folds, seed)
    return _with_folds(
        manifest, {photo.path: fold for photo, fold in zip(photos, dealt, strict=True)}
    )


def as_in(manifest: Manifest, known: Manifest) -> Manifest:
    """Assign the folds of a known manifest; photos that it lacks are in no fold."""
    return _with_folds(manifest, {photo.path: photo.fold for photo in known.photos})


def _with_folds(manifest: Manifest, dealt: dict[str, int | None] | dict[str, int]) -> Manifest:
    photos = tuple(
        photo
        if photo.split is Split.TEST
        else replace(photo, split=Split.TRAIN, fold=dealt.get(photo.path))
        for photo in manifest.photos
    )
    return replace(manifest, photos=photos)


def _check_enough(classes: Sequence[str], labels: Labels, units: Sequence[str], folds: int) -> None:
    of_class: dict[int, set[str]] = defaultdict(set)
    for own, unit in zip(labels, units, strict=True):
        for label in own:
            of_class[label].add(unit)
    label = min(of_class, key=lambda each: (len(of_class[each]), each))
    if len(of_class[label]) < folds:
        what = "photos" if len(set(units)) == len(units) else "groups of photos"
        raise DatasetError(
            f"class {classes[label]!r} must have at least {folds} {what} to be dealt into {folds} "
            f"folds, got {len(of_class[label])}; add photos or give fewer --folds"
        )


def _deal(draw: Draw, labels: Labels, units: Sequence[str], folds: int, seed: int) -> Sequence[int]:
    """Return the fold of each photo, photos given by path."""
    for turn in range(_DRAWS):
        dealt = draw(labels, units, folds, (seed + turn * 1_000_003) % 2**32)
        # No fold may be empty, and each class must be in several: none may be missing in training.
        places: dict[int, set[int]] = defaultdict(set)
        for own, fold in zip(labels, dealt, strict=True):
            for label in own:
                places[label].add(fold)
        if min(map(len, places.values())) > 1 and len(set(dealt)) == folds:
            return dealt
    raise DatasetError(
        f"photos cannot be dealt into {folds} folds with each class in several: "
        "their groups are too large; give fewer --folds, or smaller groups"
    )


def _by_class(labels: Labels, units: Sequence[str], folds: int, seed: int) -> Sequence[int]:
    """Draw the fold of each photo, each of which is of one class."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # a second to import

    own, of = np.array([label for (label,) in labels]), np.array(units)
    kind = StratifiedKFold if len(set(units)) == len(units) else StratifiedGroupKFold
    groups = None if kind is StratifiedKFold else of
    dealt = np.zeros(len(own), np.int64)
    parts = kind(folds, shuffle=True, random_state=seed).split(own, own, groups)
    for number, (_, inside) in enumerate(parts):
        dealt[inside] = number
    return [int(fold) for fold in dealt]


def _by_label(labels: Labels, units: Sequence[str], folds: int, seed: int) -> Sequence[int]:
    """Draw the fold of each photo, each of which has any number of labels."""
    names = [[str(label) for label in own] for own in labels]
    chosen = deal_by_label(
        names, units, lambda count: dict.fromkeys(range(folds), count / folds), {}, seed
    )
    return [chosen[unit] for unit in units]
