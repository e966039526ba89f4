"""Random changes of a photo: drawn by key alone, inside the photo, and sampled as PIL does."""

import math
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as vision

from trainers.data.augment import (
    GOOGLENET_AREA,
    GOOGLENET_ASPECT,
    LIGHTING,
    ROTATION_DEGREES,
    Change,
    Window,
    apply_change,
    draw_change,
)
from trainers.schedule import Augmentation, CropType, Stage

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

UPRIGHT = ((1, 0), (0, 1))
WHOLE = Window(0.5, 0.5, 0.5, 0.5)


def stage(crop: CropType, augmentation: Augmentation = Augmentation.NONE, zoom: float = 1) -> Stage:
    """Give a stage of 32 pixels."""
    return Stage(image_size=32, batch_size=8, crop=crop, augmentation=augmentation, max_zoom=zoom)


def smooth(width: int, height: int) -> Tensor:
    """Make a photo of slow waves, another one in each colour, none of them symmetric."""
    y, x = np.mgrid[0:height, 0:width] / 32
    waves = [np.sin(x * 2 + y + 1), np.sin(y * 2 - x), np.cos(x - 2 * y + 2)]
    return torch.from_numpy(np.rint(np.stack(waves) * 100 + 127).astype(np.uint8))


def noise(width: int, height: int) -> Tensor:
    """Make a photo in which neighbours have nothing in common."""
    random = np.random.default_rng(0)
    return torch.from_numpy(random.integers(0, 256, (3, height, width), dtype=np.uint8))


def apply(photo: Tensor, size: int, window: Window = WHOLE, **parts: object) -> Tensor:
    """Apply a change that leaves alone what `parts` do not name."""
    plain = {"flip": UPRIGHT, "angle": 0.0, "brightness": 0.0, "contrast": 1.0}
    return apply_change(photo, Change(window=window, **{**plain, **parts}), size)  # type: ignore[arg-type]


def eight_bit(square: Tensor) -> Tensor:
    """Give the values 0..1 as they would be stored."""
    return (square * 255).round().to(torch.uint8)


def drawn(
    stage: Stage, width: int, height: int, count: int = 300
) -> Iterator[tuple[Change, tuple[float, float, float, float]]]:
    """Draw changes, each with the left, top, right and bottom of its window in shares."""
    for index in range(count):
        change = draw_change(stage, width, height, (0, 0, 0, index))
        w = change.window
        yield change, (w.x - w.half_x, w.y - w.half_y, w.x + w.half_x, w.y + w.half_y)


@pytest.mark.parametrize("augmentation", Augmentation)
@pytest.mark.parametrize("crop", CropType)
def test_a_change_is_a_pure_function_of_its_key(crop: CropType, augmentation: Augmentation) -> None:
    """No generator's state matters: a key gives the same change whenever it is asked."""
    mine = stage(crop, augmentation, zoom=1.2)
    keys = [(seed, position, epoch, 7) for seed, position, epoch in product(range(3), repeat=3)]
    changes = [draw_change(mine, 60, 40, key) for key in keys]
    np.random.seed(1)
    torch.manual_seed(1)
    assert [draw_change(mine, 60, 40, key) for key in reversed(keys)] == changes[::-1]
    fixed = crop is CropType.NO and augmentation is Augmentation.NONE
    assert len(set(changes)) == (1 if fixed else len(keys))


def test_an_identity_crop_is_exact() -> None:
    """A square photo at its own size comes out as it went in, even if it is noise."""
    photo = noise(64, 64)
    change = draw_change(stage(CropType.CENTER), 64, 64, (0,))
    square = apply_change(photo, change, 64)
    assert square.dtype == torch.float32
    assert torch.equal(eight_bit(square), photo)
    assert torch.allclose(square, photo / 255, atol=2e-5)


def test_a_centre_crop_is_exact() -> None:
    """The square in the middle of a wide or a tall photo is cut out pixel by pixel."""
    for width, height in ((96, 64), (64, 100)):
        photo = noise(width, height)
        change = draw_change(stage(CropType.CENTER), width, height, (0,))
        left, top = (width - 64) // 2, (height - 64) // 2
        assert torch.equal(
            eight_bit(apply_change(photo, change, 64)), photo[:, top : top + 64, left : left + 64]
        )


@pytest.mark.parametrize(
    ("flip", "turns", "mirrors"),
    [
        (((-1, 0), (0, 1)), 0, True),
        (((0, -1), (1, 0)), 1, False),
        (((-1, 0), (0, -1)), 2, False),
        (((0, 1), (-1, 0)), 3, False),
        (((0, -1), (-1, 0)), 1, True),
    ],
)
def test_mirrors_and_quarter_turns_are_exact(
    flip: tuple[tuple[int, int], tuple[int, int]], turns: int, mirrors: bool
) -> None:
    """They move pixels and change none; also of a photo that NO squeezes, the whole is kept."""
    photo = noise(64, 64)
    expected = photo.rot90(turns, (1, 2))
    expected = expected.flip(2) if mirrors else expected
    assert torch.equal(eight_bit(apply(photo, 64, flip=flip)), expected)
    wide = noise(64, 32)
    squeezed = apply(wide, 48).rot90(turns, (1, 2))
    squeezed = squeezed.flip(2) if mirrors else squeezed
    assert torch.allclose(apply(wide, 48, flip=flip), squeezed, atol=2e-5)


@pytest.mark.parametrize("degrees", [-10.0, -3.0, 1.0, 7.5, 45.0])
def test_rotation_agrees_with_torchvision_and_pil(degrees: float) -> None:
    """Away from the border, rotating by an angle is rotating by it, bilinearly."""
    photo = smooth(96, 96)
    found = apply(photo, 96, angle=math.radians(degrees))
    bilinear = InterpolationMode.BILINEAR
    turned = vision.rotate(photo.float() / 255, degrees, bilinear)
    affine = vision.affine(photo.float() / 255, -degrees, [0, 0], 1.0, [0.0, 0.0], bilinear)
    image = vision.to_pil_image(photo).rotate(degrees, Image.Resampling.BILINEAR)
    inner = (slice(None), slice(24, 72), slice(24, 72))
    for other in (turned, affine, vision.to_tensor(image)):
        assert (found[inner] - other[inner]).abs().mean() < 1 / 255


def test_rotation_does_not_shear_a_window_that_is_not_square() -> None:
    """It is the photo that is rotated, around the window; the window is cut out afterwards."""
    photo = smooth(160, 96)
    found = apply(photo, 64, Window(0.5, 0.5, 32 / 160, 16 / 96), angle=math.radians(10))
    turned = vision.rotate(photo, 10, InterpolationMode.BILINEAR)[:, 32:64, 48:112]
    expected = vision.to_pil_image(turned).resize((64, 64), Image.Resampling.BILINEAR)
    assert (found - vision.to_tensor(expected)).abs().mean() < 2 / 255


@pytest.mark.parametrize(("width", "height"), [(16, 16), (30, 17), (8, 31)])
def test_no_crop_enlarges_as_pil_does(width: int, height: int) -> None:
    """The whole photo, squeezed into the square, is PIL's bilinear resize, its border too."""
    photo = noise(width, height)
    change = draw_change(stage(CropType.NO), width, height, (0,))
    image = Image.fromarray(photo.permute(1, 2, 0).numpy())
    expected = vision.to_tensor(image.resize((32, 32), Image.Resampling.BILINEAR))
    assert (apply_change(photo, change, 32) - expected).abs().max() < 1.5 / 255


def test_lighting() -> None:
    """Contrast stretches around the mean of the square, brightness shifts, both within 0..1."""
    photo = smooth(40, 40)
    plain = apply(photo, 40)
    found = apply(photo, 40, brightness=0.04, contrast=1.05)
    expected = (plain - plain.mean()) * 1.05 + plain.mean() + 0.04
    assert torch.allclose(found, expected.clamp(0, 1), atol=1e-6)
    bright = apply(photo, 40, brightness=0.5, contrast=3.0)
    assert (bright.min(), bright.max()) == (0, 1)


@pytest.mark.parametrize("augmentation", [Augmentation.SIDE_ON, Augmentation.TOP_DOWN])
def test_augmentation_draws_within_its_bounds(augmentation: Augmentation) -> None:
    """A quarter stays upright, angles and lighting keep their bounds, all flips do occur."""
    changes = [c for c, _ in drawn(stage(CropType.CENTER, augmentation), 50, 40, 1000)]
    angles = np.array([math.degrees(change.angle) for change in changes])
    assert np.mean(angles == 0) == pytest.approx(0.25, abs=0.05)
    assert 0.9 * ROTATION_DEGREES < np.abs(angles).max() <= ROTATION_DEGREES
    assert angles.mean() == pytest.approx(0, abs=1)
    assert max(abs(change.brightness) for change in changes) <= LIGHTING
    assert all(1 / (1 + LIGHTING) <= c.contrast <= 1 + LIGHTING for c in changes)
    flips = [change.flip for change in changes]
    assert len(set(flips)) == (8 if augmentation is Augmentation.TOP_DOWN else 2)
    for flip in set(flips):
        assert abs(np.linalg.det(flip)) == 1
        assert flips.count(flip) == pytest.approx(1000 / len(set(flips)), rel=0.3)


def test_without_augmentation_nothing_but_the_window_changes() -> None:
    """NONE neither turns nor lights a photo."""
    for crop in CropType:
        for change, _ in drawn(stage(crop), 50, 40, 20):
            assert change == Change(change.window, UPRIGHT, 0.0, 0.0, 1.0)


@given(
    st.sampled_from(CropType),
    st.integers(1, 2000),
    st.integers(1, 2000),
    st.floats(1, 10),
    st.integers(0, 10**9),
)
def test_windows_are_inside_the_photo(
    crop: CropType, width: int, height: int, zoom: float, key: int
) -> None:
    """Whatever the photo's shape and the zoom, no window reaches over its border."""
    w = draw_change(stage(crop, zoom=zoom), width, height, (key,)).window
    assert 0 < w.half_x <= 0.5
    assert 0 < w.half_y <= 0.5
    assert w.half_x - 1e-9 <= w.x <= 1 - w.half_x + 1e-9
    assert w.half_y - 1e-9 <= w.y <= 1 - w.half_y + 1e-9


def test_googlenet_windows_have_the_area_and_aspect_ratio_of_the_paper() -> None:
    """Each has 8 to 100 % of the area and a ratio of 3:4 to 4:3, and both ends are reached."""
    width, height = 300, 280
    windows = [c.window for c, _ in drawn(stage(CropType.GOOGLENET), width, height, 1000)]
    areas = np.array([4 * w.half_x * w.half_y for w in windows])
    aspects = np.array([w.half_x * width / (w.half_y * height) for w in windows])
    assert GOOGLENET_AREA[0] <= areas.min() < 0.12
    assert 0.85 < areas.max() <= GOOGLENET_AREA[1] + 1e-9
    assert GOOGLENET_ASPECT[0] <= aspects.min() + 1e-9 < 0.8
    assert 1.25 < aspects.max() <= GOOGLENET_ASPECT[1] + 1e-9


def test_googlenet_falls_back_to_the_centre() -> None:
    """A photo too narrow for any such window gives its central square."""
    change = draw_change(stage(CropType.GOOGLENET), 1000, 9, (0,))
    assert change.window == Window(0.5, 0.5, 0.0045, 0.5)


@pytest.mark.parametrize(("width", "height"), [(50, 40), (40, 50), (1000, 9)])
def test_zoom_bounds(width: int, height: int) -> None:
    """A window's side is the short side over 1 to max_zoom; CENTER centres it, RANDOM does not."""
    for crop in (CropType.CENTER, CropType.RANDOM):
        sides = []
        for change, (left, top, right, bottom) in drawn(stage(crop, zoom=1.5), width, height):
            side = (right - left) * width
            assert side == pytest.approx((bottom - top) * height)
            sides.append(side / min(width, height))
            centred = (change.window.x, change.window.y) == (0.5, 0.5)
            assert centred is (crop is CropType.CENTER)
        assert 1 / 1.5 <= min(sides) + 1e-9 < 0.7
        assert 0.95 < max(sides) <= 1 + 1e-9


@pytest.mark.parametrize("shape", [(1000, 9), (9, 1000), (1, 1), (2000, 1)])
@pytest.mark.parametrize("augmentation", Augmentation)
@pytest.mark.parametrize("crop", CropType)
def test_extreme_photos_give_squares(
    shape: tuple[int, int], crop: CropType, augmentation: Augmentation
) -> None:
    """However narrow or small a photo is, a square of values in 0..1 comes of it."""
    photo = noise(*shape)
    for change, _ in drawn(stage(crop, augmentation, zoom=1.3), *shape, 5):
        square = apply_change(photo, change, 32)
        assert square.shape == (3, 32, 32)
        assert ((square >= 0) & (square <= 1)).all()
