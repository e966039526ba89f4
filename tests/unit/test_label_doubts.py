"""Labels are doubted where features say otherwise, by who has not seen the photo."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trainers.data.inspect.labels import doubt_labels, out_of_fold
from trainers.data.manifest import Photo
from trainers.data.sources import Split

N, WIDTH = 120, 16


def clouds(seed: int = 0, classes: int = 3) -> tuple[list[Photo], NDArray[np.float32]]:
    """Return photos of classes whose features lie apart."""
    random = np.random.default_rng(seed)
    labels = np.arange(N) % classes
    centres = random.normal(size=(classes, WIDTH)) * 2
    features = (centres[labels] + random.normal(size=(N, WIDTH))).astype(np.float32)
    photos = [Photo(f"{i}.jpg", int(k), Split.TRAIN, f"{i}", 1) for i, k in enumerate(labels)]
    return photos, features


def test_swapped_labels_are_found_and_named() -> None:
    """Six labels that were swapped lead the list, each with the class it was taken from."""
    photos, features = clouds()
    swapped = {7: 0, 20: 1, 41: 0, 60: 2, 83: 1, 110: 0}
    for index, label in swapped.items():
        assert photos[index].label != label
    true = {index: photos[index].label for index in swapped}
    for index, label in swapped.items():
        photos[index] = replace(photos[index], label=label)
    found = doubt_labels(photos, features, np.arange(N), 3)
    first = {int(each.photo.path.removesuffix(".jpg")): each.suggested for each in found[:6]}
    assert first == true
    assert all(each.suggested_probability > each.own_probability for each in found)


def test_clean_labels_are_hardly_doubted() -> None:
    """Where nothing is wrong, next to nothing is doubted."""
    photos, features = clouds()
    assert len(doubt_labels(photos, features, np.arange(N), 3)) <= 2


def test_duplicates_do_not_vouch_for_each_other() -> None:
    """Two copies under one wrong label are both doubted, since they lie in one fold."""
    photos, features = clouds()
    features[1], photos[1] = features[0], replace(photos[1], label=2)
    photos[0] = replace(photos[0], label=2)
    groups = np.arange(N)
    groups[1] = 0
    doubted = {each.photo.path for each in doubt_labels(photos, features, groups, 3)}
    assert {"0.jpg", "1.jpg"} <= doubted


def test_a_rare_class_is_left_alone() -> None:
    """A class of three photos is neither doubted nor suggested, nor does it stop the rest."""
    photos, features = clouds()
    for index in (5, 6, 7):
        photos[index] = replace(photos[index], label=3)
    found = doubt_labels(photos, features, np.arange(N), 4)
    assert all(each.photo.label != 3 and each.suggested != 3 for each in found)


def test_one_class_alone_cannot_be_doubted() -> None:
    """With a single class that has photos enough, nothing is said."""
    photos, features = clouds(classes=1)
    assert doubt_labels(photos, features, np.arange(N), 2) == ()


def test_no_photo_is_judged_by_who_has_seen_it() -> None:
    """Random labels get no better than guessing: fitted on themselves, they would."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 200)
    features = random.normal(size=(200, 100)).astype(np.float32)
    found = out_of_fold(labels, features, np.arange(200), seed=0)
    assert (found.argmax(axis=1) == labels).mean() < 0.65
    assert np.allclose(found.sum(axis=1), 1)
