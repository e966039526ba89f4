"""What comes out of each change is what torchvision, Pillow and plain arithmetic give."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from tests.unit.test_scale import scene
from trainers.data.augment import Changes, apply_changes, draw_changes, draw_numbers
from trainers.data.scale import read_at, training_scale, validation_scale
from trainers.schedule import Augmentation, CropType, Stage

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

SIZE = 48
BILINEAR = InterpolationMode.BILINEAR
SHAPES = [(96, 128), (128, 96), (100, 100), (60, 200), (40, 30)]
"""Heights and widths of photos."""

Pixels = NDArray[np.uint8]


def stage(crop: CropType, augmentation: Augmentation = Augmentation.NONE, zoom: float = 1) -> Stage:
    """Return a stage of 48 pixels."""
    return Stage(image_size=SIZE, batch_size=8, crop=crop, augmentation=augmentation, max_zoom=zoom)


def at_scale(mine: Stage, height: int, width: int) -> Pixels:
    """Make a photo and return it as its stage takes it."""
    return np.array(training_scale(mine).fit(Image.fromarray(scene(width, height))))


def tensor(photo: Pixels) -> Tensor:
    """Return a photo as torchvision takes it: float (3, H, W) of 0..255."""
    return torch.from_numpy(photo.copy()).permute(2, 0, 1).float()


def apply(photo: Pixels, mine: Stage, changes: Changes) -> Tensor:
    """Return the squares of one photo, (n, 3, S, S) of 0..255."""
    photos = [torch.from_numpy(photo)] * len(changes.matrix)
    return apply_changes(photos, changes, mine, torch.device("cpu")) * 255


def cut(photo: Pixels, left: float, top: float, wide: float, high: float) -> Tensor:
    """Cut a window out and scale it to the square."""
    matrix = np.array([[[wide / 2, 0, left + wide / 2], [0, high / 2, top + high / 2]]])
    mine = stage(CropType.GOOGLENET)
    return apply(photo, mine, Changes(matrix, np.zeros(1), np.ones(1)))[0]


def distance(found: Tensor, expected: Tensor) -> float:
    """Return the mean absolute difference in levels of 255."""
    assert found.shape == expected.shape
    return float((found - expected).abs().mean())


def lit(squares: Tensor, changes: Changes) -> Tensor:
    """Change the lighting: contrast around the mean of each square, then brightness."""
    contrast, brightness = (
        torch.from_numpy(values)[:, None, None, None]
        for values in (changes.contrast, changes.brightness)
    )
    mean = squares.mean((1, 2, 3), keepdim=True)
    return ((squares - mean) * contrast + mean + 255 * brightness).clamp(0, 255)


def padded(photo: Pixels) -> Pixels:
    """Return a photo with itself, mirrored, on each side."""
    height, width = photo.shape[:2]
    return np.pad(photo, ((height, height), (width, width), (0, 0)), "symmetric")


@pytest.mark.parametrize(
    ("left", "top", "wide", "high"),
    [(0, 0, 96, 96), (11, 7, 48, 48), (30, 5, 70, 70), (0, 20, 90, 68), (60, 3, 40, 31)],
)
def test_crop_agrees_with_torchvision(left: int, top: int, wide: int, high: int) -> None:
    """A window, enlarged, kept or made smaller to the square, is torchvision's bilinear one."""
    photo = scene(128, 96)
    expected = vision.resized_crop(
        tensor(photo), top, left, high, wide, [SIZE, SIZE], BILINEAR, antialias=False
    )
    assert distance(cut(photo, left, top, wide, high), expected) < 0.05


def test_enlarging_agrees_with_pillow() -> None:
    """Where nothing is made smaller, a window is Pillow's bilinear resize of it, its border too."""
    photo = scene(40, 30)
    image = Image.fromarray(photo).crop((8, 3, 32, 27)).resize((SIZE, SIZE), 2)
    found = cut(photo[3:27, 8:32], 0, 0, 24, 24)
    assert distance(found, tensor(np.asarray(image))) < 0.5
    assert (found - tensor(np.asarray(image))).abs().max() < 1.5


@pytest.mark.parametrize("augmentation", [Augmentation.SIDE_ON, Augmentation.TOP_DOWN])
def test_flips_agree_with_torchvision(augmentation: Augmentation) -> None:
    """What is drawn for photos that stay upright is a flip or a quarter turn of torchvision's."""
    mine = stage(CropType.CENTER, augmentation)
    photo = at_scale(mine, 96, 128)
    sizes = np.tile(photo.shape[:2], (100, 1))
    changes = draw_changes(mine, sizes, draw_numbers(mine, 100, seed=0, position=0, epoch=0))
    upright = (np.abs(changes.matrix[:, :, :2]).min(2) < 1e-9).all(1)
    shown = Changes(changes.matrix[upright], np.zeros(upright.sum()), np.ones(upright.sum()))
    whole = vision.center_crop(tensor(photo), [SIZE, SIZE])
    ways = [whole, vision.horizontal_flip(whole)]
    if augmentation is Augmentation.TOP_DOWN:
        ways += [vision.vertical_flip(way) for way in ways]
        ways += [vision.rotate(way, 90.0) for way in ways]
    nearest = [
        min((distance(square, way), index) for index, way in enumerate(ways))
        for square in apply(photo, mine, shown)
    ]
    assert max(nearest)[0] < 0.05
    assert {index for _, index in nearest} == set(range(len(ways)))


@pytest.mark.parametrize("degrees", [-10.0, -3.0, 1.0, 7.5])
@pytest.mark.parametrize("shape", [(48, 48), (48, 64), (30, 64)])
def test_rotation_agrees_with_torchvision(shape: tuple[int, int], degrees: float) -> None:
    """A window around the middle is rotated as torchvision rotates the photo with its mirrors."""
    photo = scene(shape[1], shape[0])
    side, angle = min(shape), math.radians(degrees)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    centre = np.array([[shape[1] / 2], [shape[0] / 2]])
    matrix = np.concatenate([turn * side / 2, centre], 1)[None]
    mine = stage(CropType.CENTER, Augmentation.SIDE_ON)
    found = apply(photo, mine, Changes(matrix, np.zeros(1), np.ones(1)))[0]
    turned = vision.rotate(tensor(padded(photo)), degrees, BILINEAR)
    expected = vision.resized_crop(
        vision.center_crop(turned, [side, side]), 0, 0, side, side, [SIZE, SIZE], antialias=False
    )
    assert distance(found, expected) < (0.05 if side == SIZE else 2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("augmentation", Augmentation)
@pytest.mark.parametrize("crop", CropType)
def test_drawn_changes_agree_with_pillow(
    crop: CropType, augmentation: Augmentation, shape: tuple[int, int]
) -> None:
    """Crop, flip, rotation and reflection in one are Pillow's affine transform; then lighting."""
    mine = stage(crop, augmentation, zoom=1.3)
    photo = at_scale(mine, *shape)
    height, width = photo.shape[:2]
    sizes = np.tile([height, width], (8, 1))
    changes = draw_changes(mine, sizes, draw_numbers(mine, 8, seed=0, position=0, epoch=0))
    changes = replace(changes, trivial=None)  # which comes on top of it
    with_mirrors, squares = Image.fromarray(padded(photo)), []
    for (a, b, x), (c, d, y) in changes.matrix.tolist():
        # From the square's pixels 0..SIZE, where the matrix has -1..1, to the padded photo's.
        step = 2 / SIZE
        data = (a * step, b * step, x - a - b + width, c * step, d * step, y - c - d + height)
        square = with_mirrors.transform(
            (SIZE, SIZE), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR
        )
        squares.append(tensor(np.asarray(square)))
    found = apply(photo, mine, changes)
    expected = lit(torch.stack(squares), changes)
    for one, other in zip(found, expected, strict=True):
        assert distance(one, other) < 0.6  # Pillow keeps whole levels
    assert (found - expected).abs().max() < 3


@pytest.mark.parametrize("contrast", [1 / 1.05, 0.97, 1.05])
def test_contrast_agrees_with_torchvision(contrast: float) -> None:
    """On a grey photo, whose grey mean is its mean, contrast is torchvision's."""
    photo = scene(SIZE, SIZE)[..., :1].repeat(3, 2)
    changes = Changes(np.array([[[24.0, 0, 24], [0, 24, 24]]]), np.zeros(1), np.array([contrast]))
    found = apply(photo, stage(CropType.CENTER, Augmentation.SIDE_ON), changes)[0]
    expected = vision.adjust_contrast(tensor(photo) / 255, contrast) * 255
    assert distance(found, expected) < 0.05


def test_lighting_agrees_with_arithmetic() -> None:
    """On a colour photo, contrast works around the mean of all its values, brightness adds."""
    photo = scene(SIZE, SIZE).astype(float)
    brightness, contrast = np.array([0.05, -0.05, 0.02]), np.array([1.05, 1 / 1.05, 0.99])
    changes = Changes(np.array([[[24.0, 0, 24], [0, 24, 24]]] * 3), brightness, contrast)
    mine = stage(CropType.CENTER, Augmentation.SIDE_ON)
    found = apply(photo.astype(np.uint8), mine, changes).permute(0, 2, 3, 1).numpy()
    for square, more, times in zip(found, brightness, contrast, strict=True):
        expected = (photo - photo.mean()) * times + photo.mean() + 255 * more
        assert np.abs(square - expected.clip(0, 255)).max() < 0.01


@pytest.mark.parametrize("shape", [(96, 128), (192, 96), (144, 96), (24, 24), (32, 48)])
def test_validation_agrees_with_torchvision_and_pillow(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    """Validation shows Resize(48) and CenterCrop(48) of both, antialiased, within 2 levels."""
    image = Image.fromarray(scene(shape[1], shape[0]))
    image.save(tmp_path / "a.png")
    found = tensor(read_at(tmp_path / "a.png", [validation_scale(SIZE, CropType.RANDOM)])[0])
    whole = tensor(np.asarray(image))
    resized = vision.resize(whole, [SIZE], BILINEAR, antialias=True)
    assert distance(found, vision.center_crop(resized, [SIZE, SIZE])) < 0.5
    scaled = [SIZE * side // min(shape) for side in shape]
    margins = [(side - SIZE) // 2 for side in scaled]
    pillow = np.asarray(image.resize((scaled[1], scaled[0]), Image.Resampling.BILINEAR))
    pillow = pillow[margins[0] :, margins[1] :][:SIZE, :SIZE]
    assert (found == tensor(pillow)).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_squeezed_validation_agrees_with_torchvision(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    """NO shows Resize((48, 48)), antialiased, of the whole photo."""
    Image.fromarray(scene(shape[1], shape[0])).save(tmp_path / "a.png")
    found = tensor(read_at(tmp_path / "a.png", [validation_scale(SIZE, CropType.NO)])[0])
    whole = tensor(scene(shape[1], shape[0]))
    assert distance(found, vision.resize(whole, [SIZE, SIZE], BILINEAR, antialias=True)) < 0.5
