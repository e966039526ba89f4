"""Photos dealt into folds: each is scored by a network that was trained on the other folds."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from trainers.data.groups import joined
from trainers.data.manifest import Manifest, Photo, Split
from trainers.errors import DatasetError

_DRAWS = 100
"""Maximum number of draws until each class is in several folds."""


def in_folds(
    manifest: Manifest, folds: int, seed: int, together: Iterable[Sequence[Photo]] = ()
) -> Manifest:
    """Deal the photos of train and validation into folds, each class evenly; test takes no part.

    Photos of one group, of one hash, or of one of the groups `together` come into one fold. Drawn
    by scikit-learn's StratifiedKFold or StratifiedGroupKFold, whatever order the photos come in.
    Raises DatasetError for a class with fewer photos (or groups of them) than folds.
    """
    photos = [photo for photo in manifest.photos if photo.split is not Split.TEST]
    copies = {photo.path: str(number) for number, of in enumerate(together) for photo in of}
    linked = joined(
        [photo.group for photo in photos],
        [photo.sha256 for photo in photos],
        [copies.get(photo.path, "") for photo in photos],
    )
    units = [photos[first].path for first in linked]
    labels = [photo.label for photo in photos]
    _check_enough(manifest.classes, labels, units, folds)
    dealt = dict(
        zip((photo.path for photo in photos), _deal(labels, units, folds, seed), strict=True)
    )
    return _with_folds(manifest, dealt)


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


def _check_enough(
    classes: Sequence[str], labels: Sequence[int], units: Sequence[str], folds: int
) -> None:
    of_class: dict[int, set[str]] = defaultdict(set)
    for label, unit in zip(labels, units, strict=True):
        of_class[label].add(unit)
    label = min(of_class, key=lambda each: (len(of_class[each]), each))
    if len(of_class[label]) < folds:
        what = "photos" if len(set(units)) == len(units) else "groups of photos"
        raise DatasetError(
            f"class {classes[label]!r} must have at least {folds} {what} to be dealt into {folds} "
            f"folds, got {len(of_class[label])}; add photos or give fewer --folds"
        )


def _deal(labels: Sequence[int], units: Sequence[str], folds: int, seed: int) -> list[int]:
    """Return the fold of each photo, photos given by path."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # a second to import

    own, of = np.array(labels), np.array(units)
    kind = StratifiedKFold if len(set(units)) == len(units) else StratifiedGroupKFold
    for turn in range(_DRAWS):
        state = (seed + turn * 1_000_003) % 2**32
        dealt = np.zeros(len(own), np.int64)
        groups = None if kind is StratifiedKFold else of
        parts = kind(folds, shuffle=True, random_state=state).split(own, own, groups)
        for number, (_, inside) in enumerate(parts):
            dealt[inside] = number
        # No fold may be empty, and each class must be in several: none may be missing in training.
        several = all(len(np.unique(dealt[own == label])) > 1 for label in np.unique(own))
        if several and len(np.unique(dealt)) == folds:
            return [int(fold) for fold in dealt]
    raise DatasetError(
        f"photos cannot be dealt into {folds} folds with each class in several: "
        "their groups are too large; give fewer --folds, or smaller groups"
    )
