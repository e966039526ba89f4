"""Folds of photos: each photo is judged once, what belongs together stays together."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.folds import as_in, in_folds
from trainers.data.manifest import DatasetError, Manifest, Photo, Split


def manifest_of(labels: list[int], groups: list[int], copies: list[int]) -> Manifest:
    """Make a manifest without files: every seventh photo is of test, some are copies."""
    splits = (Split.TRAIN, Split.VALID, Split.TRAIN, Split.VALID, Split.TRAIN, Split.TRAIN)
    photos = tuple(
        Photo(
            f"{place:03}.png",
            label,
            (*splits, Split.TEST)[place % 7],
            f"{copy:064x}" if copy else f"{1000 + place:064x}",
            1,
            f"g{group}" if group else "",
        )
        for place, (label, group, copy) in enumerate(zip(labels, groups, copies, strict=True))
    )
    return Manifest(Path(), ("a", "b"), photos)


photos = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 8), st.integers(0, 4)), min_size=20, max_size=60
)


@settings(deadline=None)  # scikit-learn is imported within the first
@given(photos, st.integers(2, 5), st.integers(0, 3))
def test_each_photo_is_judged_once_and_groups_are_never_parted(
    drawn: list[tuple[int, int, int]], folds: int, seed: int
) -> None:
    """Over all folds, each photo but those of test validates once and trains in all others."""
    plain = manifest_of(*([each[i] for each in drawn] for i in range(3)))
    try:
        dealt = in_folds(plain, folds, seed)
    except DatasetError:  # too few for so many folds
        return
    assert dealt.folds == folds
    judged, trained = Counter[str](), Counter[str]()
    for number in range(folds):
        own = dealt.fold(number)
        inside, others = own.of_split(Split.VALID), own.of_split(Split.TRAIN)
        judged.update(photo.path for photo in inside)
        trained.update(photo.path for photo in others)
        assert not {photo.sha256 for photo in inside} & {photo.sha256 for photo in others}
        assert not {p.group for p in inside if p.group} & {p.group for p in others if p.group}
        assert {photo.label for photo in others} == {photo.label for photo in plain.photos if
                                                     photo.split is not Split.TEST}  # fmt: skip
        assert own.of_split(Split.TEST) == plain.of_split(Split.TEST)
    expected = {photo.path for photo in plain.photos if photo.split is not Split.TEST}
    assert judged == dict.fromkeys(expected, 1)
    assert trained == dict.fromkeys(expected, folds - 1)
    again = Manifest.from_json(dealt.to_json(), Path())
    assert (again.digest, again.fold_of.tolist()) == (dealt.digest, dealt.fold_of.tolist())
    assert as_in(plain, dealt).digest == dealt.digest
    assert dealt.digest != plain.digest


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
def test_each_class_is_dealt_evenly(folds: int) -> None:
    """Without groups, folds differ by a photo of each class at most, by seed."""
    count = 140
    plain = manifest_of([place % 2 for place in range(count)], [0] * count, [0] * count)
    dealt = in_folds(plain, folds, seed=1)
    for label in (0, 1):
        own = np.bincount(dealt.fold_of[dealt.labels(Split.VALID) == label])
        assert own.max() - own.min() <= 1
    assert in_folds(plain, folds, seed=1).digest == dealt.digest
    assert in_folds(plain, folds, seed=2).digest != dealt.digest


def test_near_copies_come_into_one_fold() -> None:
    """What the gate takes for one photo is judged without the others."""
    plain = manifest_of([0, 1] * 20, [0] * 40, [0] * 40)
    pairs = [(plain.photos[i], plain.photos[i + 2]) for i in (0, 8, 15)]
    dealt = in_folds(plain, 4, 0, pairs)
    place = {photo.path: photo.fold for photo in dealt.photos}
    assert all(place[one.path] == place[other.path] for one, other in pairs)


def test_too_few_photos_of_a_class_are_named() -> None:
    """Of three photos, no five folds can be made; the sentence names the class."""
    plain = manifest_of([1] * 3 + [0] * 30, [0] * 33, [0] * 33)
    with pytest.raises(
        DatasetError, match=r"class 'b' must have at least 5 photos .* fewer --folds"
    ):
        in_folds(plain, 5, 0)


def test_a_refit_trains_on_the_photos_of_all_folds() -> None:
    """It is a plain manifest, whose photos are of train and of validation at once."""
    plain = manifest_of([0, 1] * 20, [0] * 40, [0] * 40)
    for whole in (plain, in_folds(plain, 4, 0)):
        refit = whole.for_refit()
        assert refit.folds == 0
        paths = defaultdict(set)
        for photo in refit.photos:
            paths[photo.split].add(photo.path)
        assert paths[Split.TRAIN] == {p.path for p in plain.photos if p.split is not Split.TEST}
        assert paths[Split.VALID]
