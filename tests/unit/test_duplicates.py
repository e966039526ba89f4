"""Duplicates: copies of a photo are found, however they came about, and nothing else is."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from tests.scenes import as_jpeg, print_of, scene
from trainers.data.inspect.duplicates import LEAST_COSINE, MOST, Pair, find_duplicates
from trainers.data.inspect.findings import Likeness
from trainers.data.inspect.fingerprints import Fingerprint
from trainers.data.manifest import Photo
from trainers.data.sources import Split

Groups = tuple[tuple[Photo, ...], ...]


def _same(indices: Sequence[int]) -> NDArray[np.float32]:
    """See the same in all photos, so that all depends on their prints."""
    return np.full((len(indices), 4), 0.5, np.float32)


def _never(indices: Sequence[int]) -> NDArray[np.float32]:
    raise AssertionError(f"features of {indices} were asked for")


def _find(
    prints: Sequence[Fingerprint], features: Callable[..., NDArray[np.float32]] = _same
) -> tuple[tuple[Pair, ...], Groups, int]:
    photos = [Photo(f"{index:04}.jpg", 0, Split.TRAIN, "", 1) for index, _ in enumerate(prints)]
    return find_duplicates(photos, prints, features)


def _ends(pairs: Sequence[Pair]) -> list[tuple[int, int]]:
    return [(int(pair.first.path[:4]), int(pair.second.path[:4])) for pair in pairs]


def _resized(photo: Image.Image) -> Image.Image:
    return photo.resize((photo.width * 55 // 100, photo.height * 55 // 100))


def _cropped(photo: Image.Image) -> Image.Image:
    return photo.crop((10, 2, photo.width - 2, photo.height - 7))


def _brightened(photo: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(photo).enhance(1.25)


COPIES = {
    "resized": _resized,
    "recompressed": lambda photo: as_jpeg(photo, 30),
    "cropped": _cropped,
    "brightened": _brightened,
    "darkened": lambda photo: ImageEnhance.Brightness(photo).enhance(0.65),
    "grey": lambda photo: ImageOps.grayscale(photo).convert("RGB"),
    "all of it": lambda photo: as_jpeg(_cropped(_resized(_brightened(photo))), 40),
}


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("change", COPIES)
def test_changed_copies_are_found(change: str, mirrored: bool) -> None:
    """Each of three photos is paired with its changed copy alone, and a mirrored one said so."""
    originals = [scene(number) for number in range(3)]
    copies = [COPIES[change](ImageOps.mirror(each) if mirrored else each) for each in originals]
    pairs, groups, uncompared = _find([print_of(each) for each in (*originals, *copies)])
    assert _ends(pairs) == [(0, 3), (1, 4), (2, 5)]
    assert {(pair.likeness, pair.mirrored) for pair in pairs} == {(Likeness.NEAR, mirrored)}
    assert [len(group) for group in groups] == [2, 2, 2]
    assert uncompared == 0


def test_strangers_are_not_found() -> None:
    """Of 60 photos, and a quarter of each, none is a copy, and no features are asked for."""
    photos = [scene(number) for number in range(60)]
    parts = [photo.crop((60, 45, 180, 135)) for photo in photos]
    assert _find([print_of(each) for each in (*photos, *parts)], _never) == ((), (), 0)


def test_a_common_layout_makes_no_copies() -> None:
    """Photos that are alike in the large, as X-rays are, are no copies of one another."""
    common = scene(0).filter(ImageFilter.GaussianBlur(8))
    prints = [print_of(Image.blend(scene(number), common, 0.6)) for number in range(1, 41)]
    assert _find(prints)[0] == ()


def test_an_object_elsewhere_is_no_copy() -> None:
    """One object at two places before the same empty ground makes two photos."""
    prints = []
    for left in (40, 100):
        photo = Image.new("RGB", (240, 180), "black")
        photo.paste(scene(1, 90, 90), (left, 45))
        prints.append(print_of(photo))
    assert _find(prints)[0] == ()


def test_exact_copies_are_paired_with_the_first() -> None:
    """Four copies make three pairs, not six; a near copy is paired with the first of them."""
    one, other = print_of(scene(1)), print_of(scene(2))
    pairs, groups, _ = _find([other, one, one, print_of(as_jpeg(scene(1), 40)), one, one])
    assert _ends(pairs) == [(1, 2), (1, 3), (1, 4), (1, 5)]
    exact = [pair.likeness is Likeness.EXACT for pair in pairs]
    assert exact == [True, False, True, True]
    assert [[photo.path[:4] for photo in group] for group in groups] == [
        ["0001", "0002", "0003", "0004", "0005"]
    ]


def test_features_have_a_say() -> None:
    """A pair whose features are no more alike than those of strangers is not a pair."""

    def apart(indices: Sequence[int]) -> NDArray[np.float32]:
        cosine = LEAST_COSINE - 0.01
        rows = {0: [1, 0], 2: [cosine, np.sqrt(1 - cosine**2)]}
        return np.array([rows[index] for index in indices], np.float32)

    prints = [print_of(each) for each in (scene(1), scene(2), _resized(scene(1)))]
    assert _find(prints, apart)[0] == ()
    assert _ends(_find(prints)[0]) == [(0, 2)]


def test_blank_and_tiny_photos_are_compared_by_all_pixels() -> None:
    """They are copies only to the last pixel, and counted as not compared otherwise."""
    white, tiny = Image.new("RGB", (90, 60), "white"), scene(1, 20, 20)
    nearly = tiny.copy()
    nearly.putpixel((3, 3), (1, 2, 3))
    photos = [white, Image.new("RGB", (90, 60), (254, 255, 255)), tiny, white, nearly, tiny]
    pairs, _, uncompared = _find([print_of(each) for each in photos], _never)
    assert _ends(pairs) == [(0, 3), (2, 5)]
    assert uncompared == 6


def test_a_film_of_one_scene_makes_no_million_pairs() -> None:
    """Of 60 frames with some noise, each has a few pairs only, and all are one group."""
    still, draw = np.asarray(scene(1, 120, 90)).astype(int), np.random.default_rng(0)
    frames = (still + draw.integers(-9, 10, still.shape) for _ in range(60))
    photos = [Image.fromarray(frame.clip(0, 255).astype(np.uint8)) for frame in frames]
    pairs, groups, _ = _find([print_of(each) for each in photos])
    assert 59 <= len(pairs) <= MOST * 60
    assert [len(group) for group in groups] == [60]


def test_the_largest_group_comes_first() -> None:
    """Groups are sorted by size, and their photos by path."""
    two, three = print_of(scene(1)), print_of(scene(2))
    _, groups, _ = _find([two, three, two, three, three])
    assert [[photo.path[:4] for photo in group] for group in groups] == [
        ["0001", "0003", "0004"],
        ["0000", "0002"],
    ]


def test_no_photos_have_no_duplicates() -> None:
    """Nothing is found in nothing."""
    assert _find([], _never) == ((), (), 0)
