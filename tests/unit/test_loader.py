"""Batches: their order, their labels, what is kept in memory, and what validation shows."""

import itertools
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from trainers.data import loader
from trainers.data.loader import (
    Batch,
    Photos,
    training_batches,
    training_scale,
    training_steps,
    validation_batches,
    validation_scale,
)
from trainers.data.manifest import Manifest, Split, build_manifest
from trainers.data.photo import UnreadablePhoto
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
            size = (20 + index, 36 - index)
            Image.new("RGB", size, (first + index, label * 100, 7)).save(path)
    return build_manifest(root)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Give 10 photos to train on and 5 to validate."""
    return write_photos(tmp_path)


def stage(**fields: Any) -> Stage:
    """Give a stage of 16 pixels in batches of 4."""
    return Stage(**{"image_size": 16, "batch_size": 4, **fields})


def epoch_of(
    photos: Photos, mine: Stage, *, seed: int = 0, position: int = 0, epoch: int = 0
) -> list[Batch]:
    """Give an epoch's batches."""
    place = {"seed": seed, "position": position, "epoch": epoch}
    return list(training_batches(photos, mine, **place))


def colours(batches: list[Batch], channel: int = 0) -> list[int]:
    """Give a colour of each photo, in the order of the batches."""
    return [int(v) for s, _ in batches for v in (s[:, channel, 0, 0] * 255).round()]


def labels(batches: list[Batch]) -> list[int]:
    """Give the label of each photo, in the order of the batches."""
    return [int(label) for _, labels in batches for label in labels]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often each photo is decoded."""
    counts: Counter[str] = Counter()
    read_photo, lock = loader.read_photo, threading.Lock()

    def counting(path: Path) -> Image.Image:
        with lock:
            counts[str(path)] += 1
        return read_photo(path)

    monkeypatch.setattr(loader, "read_photo", counting)
    return counts


def test_order_depends_on_seed_stage_and_epoch_alone(manifest: Manifest) -> None:
    """Neither the stage's settings, nor torch's generator, nor what is in memory changes it."""
    photos, place = Photos(manifest), {"seed": 3, "position": 1, "epoch": 2}
    order = colours(epoch_of(photos, stage(), **place))
    torch.manual_seed(9)
    assert colours(epoch_of(photos, stage(), **place)) == order
    for other in (stage(image_size=24, crop="googlenet"), stage(batch_size=3, frozen_groups=1)):
        assert colours(epoch_of(Photos(manifest, limit=0), other, **place)) == order
    places = itertools.product(range(3), repeat=3)
    orders = [colours(epoch_of(photos, stage(), seed=s, position=p, epoch=e)) for s, p, e in places]
    assert len({tuple(order) for order in orders}) == 27


def test_changes_depend_on_the_photo_and_not_on_the_batch(manifest: Manifest) -> None:
    """In batches of another size, each photo comes out with the same pixels."""
    changed = {"augmentation": Augmentation.TOP_DOWN, "max_zoom": 1.2}
    photos = Photos(manifest)
    four, five = (epoch_of(photos, stage(batch_size=n, **changed)) for n in (4, 5))
    pixels = [torch.cat([squares for squares, _ in batches]) for batches in (four, five)]
    assert torch.equal(*pixels)


def test_changes_are_drawn_anew_for_each_seed_stage_and_epoch(manifest: Manifest) -> None:
    """A photo seldom comes twice with the same pixels, in whichever order its epoch has them."""
    photos, mine = Photos(manifest), stage(augmentation=Augmentation.SIDE_ON)
    places = [{}, {"seed": 1}, {"position": 1}, {"epoch": 1}, {"epoch": 2}]
    batches = [batch for place in places for batch in epoch_of(photos, mine, **place)]
    different = {square.numpy().tobytes() for squares, _ in batches for square in squares}
    assert len(different) > 40  # of 50; some are black all over


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


def test_photos_are_decoded_once(manifest: Manifest, decoded: Counter[str]) -> None:
    """With memory enough, training and validation decode each photo once a scale."""
    photos = Photos(manifest)
    for epoch in range(3):
        epoch_of(photos, stage(), epoch=epoch)
        list(validation_batches(photos, stage()))
    assert len(decoded) == 15
    assert set(decoded.values()) == {1}


def test_without_memory_each_photo_is_decoded_each_time(
    manifest: Manifest, decoded: Counter[str]
) -> None:
    """A limit of 0 keeps nothing, and gives the same pixels."""
    nothing, plenty = Photos(manifest, limit=0), Photos(manifest)
    augmented = stage(augmentation="side-on")
    for epoch in range(2):
        first, second = (epoch_of(p, augmented, epoch=epoch) for p in (nothing, plenty))
        assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))
    assert set(decoded.values()) == {3}


def test_the_memory_limit_is_kept(manifest: Manifest, decoded: Counter[str]) -> None:
    """What fits within the limit is kept to the byte, and only the rest is decoded anew."""
    scale = validation_scale(16, CropType.CENTER)
    members = manifest.of_split(Split.VALID)
    photos = Photos(manifest, limit=3 * (3 * 16 * 16))
    for _ in range(4):
        for photo in members:
            photos.get(photo, scale)
    assert sorted(decoded.values()) == [1, 1, 1, 4, 4]


def test_threads_that_want_the_same_photo_count_it_once(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photo that two threads decode at the same time takes the room of one."""
    together, read_photo = threading.Barrier(2), loader.read_photo

    def waiting(path: Path) -> Image.Image:
        together.wait(timeout=10)
        return read_photo(path)

    scale, (photo, other, *_) = validation_scale(16, CropType.CENTER), manifest.photos
    photos = Photos(manifest, limit=2 * (3 * 16 * 16))
    monkeypatch.setattr(loader, "read_photo", waiting)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: photos.get(photo, scale), range(2)))
    monkeypatch.setattr(loader, "read_photo", read_photo)
    assert photos.get(other, scale) is photos.get(other, scale)


def test_a_new_stage_frees_what_only_other_scales_need(
    manifest: Manifest, decoded: Counter[str]
) -> None:
    """When memory is scarce, photos at the new stage's scales stay and all others go."""
    photo = manifest.of_split(Split.TRAIN)[0]
    old, new = (training_scale(stage(image_size=size, crop="no")) for size in (8, 16))
    photos = Photos(manifest, limit=3 * (8 * 8 + 16 * 16))
    kept = photos.get(photo, new)
    photos.get(photo, old)
    photos.begin(stage(image_size=16, crop="no"))
    assert photos.get(photo, new) is kept
    assert decoded.total() == 2
    photos.get(photo, old)
    assert decoded.total() == 3
    assert photos.get(photo, old) is photos.get(photo, old)  # its room is free again


def test_a_new_stage_frees_nothing_while_there_is_room(
    manifest: Manifest, decoded: Counter[str]
) -> None:
    """Another trial may need the other scales soon, so they stay while memory lasts."""
    photos = Photos(manifest)
    for size in (8, 16, 8):
        photos.begin(stage(image_size=size))
        epoch_of(photos, stage(image_size=size))
    assert set(decoded.values()) == {2}


def pixels_of(image: Image.Image) -> Tensor:
    """Give an image as the network sees it."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def test_validation_is_in_the_order_of_the_manifest(manifest: Manifest) -> None:
    """Each time the same photos come in the same order, whatever the batch size."""
    members = manifest.of_split(Split.VALID)
    batches = list(validation_batches(Photos(manifest), stage()))
    assert labels(batches) == [photo.label for photo in members]
    names = [int(Path(photo.path).stem) for photo in members]
    assert colours(batches) == [100 + number for number in names]
    for other in (stage(batch_size=2), stage(batch_size=100, augmentation="side-on")):
        again = list(validation_batches(Photos(manifest, limit=0), other))
        assert torch.equal(batches[0][0], again[0][0])
        assert torch.equal(batches[0][1], again[0][1])


@pytest.mark.parametrize("crop", CropType)
@pytest.mark.parametrize("size", [(40, 30), (31, 57), (10, 12)])
def test_validation_squares(tmp_path: Path, crop: CropType, size: tuple[int, int]) -> None:
    """NO squeezes the whole photo; all others cut the centre of one scaled by its short side."""
    write_photos(tmp_path)
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    image.save(tmp_path / "valid/dark/000.png")
    scaled = (16, 16) if crop is CropType.NO else tuple(round(16 * s / min(size)) for s in size)
    expected = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = (expected.width - 16) // 2, (expected.height - 16) // 2
    expected = expected.crop((left, top, left + 16, top + 16))
    batches = list(validation_batches(Photos(build_manifest(tmp_path)), stage(crop=crop)))
    assert torch.equal(batches[0][0][0], pixels_of(expected))


@pytest.mark.parametrize("crop", CropType)
@pytest.mark.parametrize("size", [(1000, 9), (9, 1000), (100_000, 1)])
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


def test_a_photo_that_breaks_later_is_told(manifest: Manifest) -> None:
    """A file that was readable when the manifest was made fails with its own error, not hangs."""
    (manifest.root / manifest.of_split(Split.TRAIN)[0].path).write_bytes(b"no longer a photo")
    with pytest.raises(UnreadablePhoto, match="not an image"):
        epoch_of(Photos(manifest), stage())
    (manifest.root / manifest.of_split(Split.VALID)[0].path).unlink()
    with pytest.raises(FileNotFoundError):
        list(validation_batches(Photos(manifest), stage()))


def test_an_epoch_left_early_leaves_no_threads(manifest: Manifest) -> None:
    """Closing a generator of batches after the first ends what it had begun to read."""
    before = threading.active_count()
    batches = training_batches(Photos(manifest), stage(), seed=0, position=0, epoch=0)
    next(batches)
    batches.close()
    assert threading.active_count() == before
