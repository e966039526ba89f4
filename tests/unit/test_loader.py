"""Batches: their order, their labels, and what training and validation show of each photo."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from trainers.data.augment import draw_order
from trainers.data.loader import (
    Batch,
    Photos,
    training_batches,
    training_steps,
    validation_batches,
    view_batches,
)
from trainers.data.manifest import Manifest, Split, build_manifest
from trainers.data.scale import read_at, validation_scale
from trainers.schedule import Augmentation, CropType, Stage

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

CLASSES = ("dark", "light", "middle")


def write_photos(root: Path, train: int = 10, valid: int = 5) -> Manifest:
    """Write photos of one colour each: the red tells which photo it is, the green its class."""
    for split, count, first in (("train", train, 0), ("valid", valid, 100)):
        for index in range(count):
            label = index % len(CLASSES)
            path = root / split / CLASSES[label] / f"{index:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            size = (20 + index % 16, 36 - index % 16)
            Image.new("RGB", size, (first + index, label * 100, 7)).save(path)
    return build_manifest(root)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Return 10 photos to train on and 5 to validate."""
    return write_photos(tmp_path / "photos")


def write_noise(root: Path) -> Manifest:
    """Write 10 photos of noise, JPEG and PNG, to train on and 5 to validate."""
    manifest = write_photos(root)
    random = np.random.default_rng(0)
    for photo in manifest.photos:
        path = manifest.root / photo.path
        width, height = (int(side) for side in random.integers(20, 120, 2))
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, "JPEG" if photo.label else "PNG")
    return build_manifest(manifest.root)


@pytest.fixture
def noise(tmp_path: Path) -> Manifest:
    """Return 10 photos of noise to train on and 5 to validate."""
    return write_noise(tmp_path / "photos")


def stage(**fields: Any) -> Stage:
    """Return a stage of 16 pixels in batches of 4."""
    return Stage(**{"image_size": 16, "batch_size": 4, **fields})


def epoch_of(
    photos: Photos, mine: Stage, *, seed: int = 0, position: int = 0, epoch: int = 0
) -> list[Batch]:
    """Return an epoch's batches."""
    place = {"seed": seed, "position": position, "epoch": epoch}
    return list(training_batches(photos, mine, **place))


def colours(batches: list[Batch], channel: int = 0) -> list[int]:
    """Return a colour of each photo, in the order of the batches."""
    return [int(v) for s, _ in batches for v in (s[:, channel, 0, 0] * 255).round()]


def labels(batches: list[Batch]) -> list[int]:
    """Return the label of each photo, in the order of the batches."""
    return [int(label) for _, labels in batches for label in labels]


def pixels(batches: list[Batch]) -> Tensor:
    """Return the squares of all batches, in their order."""
    return torch.cat([squares for squares, _ in batches])


def test_batches_follow_the_drawn_order(manifest: Manifest) -> None:
    """The photos come in the order of their place, whatever the stage's settings and torch's."""
    members = manifest.of_split(Split.TRAIN)
    numbers = [int(Path(photo.path).stem) for photo in members]
    photos = Photos(manifest)
    for seed, position, epoch in itertools.product(range(2), repeat=3):
        place = {"seed": seed, "position": position, "epoch": epoch}
        expected = [numbers[index] for index in draw_order(10, **place)]
        for mine in (stage(), stage(batch_size=3), stage(image_size=24, crop="googlenet")):
            torch.manual_seed(9)
            assert colours(epoch_of(photos, mine, **place)) == expected


def test_every_photo_comes_once_an_epoch_with_its_label(manifest: Manifest) -> None:
    """All training photos and no others, in squares of float32 with labels of int64."""
    for epoch in range(3):
        batches = epoch_of(Photos(manifest), stage(), epoch=epoch)
        assert sorted(colours(batches)) == list(range(10))
        assert labels(batches) == [red % len(CLASSES) for red in colours(batches)]
        assert labels(batches) == [round(green / 100) for green in colours(batches, 1)]
        for squares, numbers in batches:
            assert squares.shape == (len(numbers), 3, 16, 16)
            assert (squares.dtype, numbers.dtype) == (torch.float32, torch.int64)


def test_changes_are_drawn_anew_for_each_seed_stage_and_epoch(noise: Manifest) -> None:
    """No photo comes twice with the same pixels, in whichever order its epoch has them."""
    photos, mine = Photos(noise), stage(augmentation=Augmentation.SIDE_ON)
    places = [{}, {"seed": 1}, {"position": 1}, {"epoch": 1}, {"epoch": 2}]
    batches = [batch for place in places for batch in epoch_of(photos, mine, **place)]
    assert len({square.numpy().tobytes() for square in pixels(batches)}) == 50


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [(2, [2] * 5), (3, [3, 3, 4]), (4, [4, 4, 2]), (9, [10]), (10, [10]), (64, [10])],
)
def test_a_lone_last_photo_joins_the_batch_before_it(
    manifest: Manifest, batch_size: int, sizes: list[int]
) -> None:
    """No batch is of one photo, none is lost, and the steps of an epoch are counted so."""
    mine = stage(batch_size=batch_size)
    batches = epoch_of(Photos(manifest), mine)
    assert [len(numbers) for _, numbers in batches] == sizes
    assert training_steps(Photos(manifest), mine) == len(sizes)


@pytest.mark.parametrize("crop", CropType)
def test_the_size_of_batches_changes_no_photo(noise: Manifest, crop: CropType) -> None:
    """In batches of another size, each photo comes out with the same pixels to the last bit."""
    photos = Photos(noise)
    fields = {"crop": crop, "augmentation": Augmentation.TOP_DOWN, "max_zoom": 1.2}
    four, *others = (pixels(epoch_of(photos, stage(batch_size=n, **fields))) for n in (4, 2, 7, 10))
    assert all(torch.equal(four, other) for other in others)


def test_fixed_batches_are_training_photos_without_chance(noise: Manifest) -> None:
    """They come in the manifest's order, with the pixels that any epoch would show of them."""
    photos, mine = Photos(noise), stage(crop="center")
    fixed, epoch = list(view_batches(photos, mine, 0)), epoch_of(photos, mine, epoch=3)
    assert labels(fixed) == [photo.label for photo in noise.of_split(Split.TRAIN)]
    order = torch.from_numpy(draw_order(10, seed=0, position=0, epoch=3))
    assert torch.equal(pixels(fixed)[order], pixels(epoch))
    assert torch.equal(torch.tensor(labels(fixed))[order], torch.tensor(labels(epoch)))


@pytest.mark.parametrize("crop", CropType)
def test_validation_is_in_the_order_of_the_manifest(noise: Manifest, crop: CropType) -> None:
    """Each time the same photos come in the same order, with the pixels of read_at in 0..1."""
    members, scale = noise.of_split(Split.VALID), validation_scale(16, crop)
    read = [read_at(noise.root / photo.path, [scale])[0].copy() for photo in members]
    expected = torch.stack([torch.from_numpy(photo) for photo in read]).permute(0, 3, 1, 2) / 255
    for fields in ({}, {"batch_size": 2}, {"augmentation": "side-on", "max_zoom": 2.0}):
        batches = list(validation_batches(Photos(noise), stage(crop=crop, **fields)))
        assert labels(batches) == [photo.label for photo in members]
        assert torch.equal(pixels(batches), expected)


def test_many_photos_are_validated_in_several_batches(tmp_path: Path) -> None:
    """A split is cut into batches of at least 64, with none lost and no lone last photo."""
    photos = Photos(write_photos(tmp_path, train=3, valid=129))
    batches = list(validation_batches(photos, stage()))
    assert [len(numbers) for _, numbers in batches] == [64, 65]
    large = list(validation_batches(photos, stage(batch_size=100)))
    assert [len(numbers) for _, numbers in large] == [100, 29]
    assert torch.equal(pixels(batches), pixels(large))


@pytest.mark.parametrize("crop", CropType)
@pytest.mark.parametrize("size", [(1000, 9), (9, 1000), (60_000, 1)])
def test_extremely_narrow_photos(tmp_path: Path, crop: CropType, size: tuple[int, int]) -> None:
    """A photo a hundred times as long as it is wide trains and validates like any other."""
    write_photos(tmp_path)
    for split in ("train", "valid"):
        Image.new("RGB", size, (200, 0, 7)).save(tmp_path / split / "dark/000.png")
    photos, mine = Photos(build_manifest(tmp_path)), stage(image_size=32, crop=crop)
    batches = epoch_of(photos, mine), list(validation_batches(photos, mine))
    for found in batches:
        assert colours(found).count(200) == 1
        assert all(squares.shape[1:] == (3, 32, 32) for squares, _ in found)
