"""Random erasing and TrivialAugment: drawn by place alone, within the bounds of their papers."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode

from trainers.data.augment import apply_changes, draw_changes, draw_numbers
from trainers.data.trivial import BINS, OPERATIONS, trivially_changed
from trainers.schedule import Augmentation, CropType, Stage

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

PLACE = {"seed": 3, "position": 1, "epoch": 2}
CPU = torch.device("cpu")
MORE: list[dict[str, Any]] = [
    {"erasing": 0.5},
    {"augmentation": "trivial"},
    {"augmentation": "trivial", "erasing": 1.0},
    {"augmentation": "side-on", "erasing": 0.3, "crop": "googlenet"},
]


def stage(**fields: Any) -> Stage:
    """Return a stage of 32 pixels."""
    return Stage(**{"image_size": 32, "crop": "center", **fields})


def photos(count: int) -> list[Tensor]:
    """Make photos of noise, of the size of the squares."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return list(torch.from_numpy(pixels))


def squares(mine: Stage, numbers: NDArray[np.float32], given: list[Tensor]) -> Tensor:
    """Return what a stage makes of photos by these numbers."""
    sizes = np.array([photo.shape[:2] for photo in given])
    return apply_changes(given, draw_changes(mine, sizes, numbers), mine, CPU)


@pytest.mark.parametrize("crop", CropType)
def test_new_numbers_move_no_old_ones(crop: CropType) -> None:
    """What was drawn before is drawn still, whatever else a stage wants."""
    plain = draw_numbers(stage(crop=crop), 20, **PLACE)
    for more in ({"erasing": 0.5}, {"augmentation": "trivial"}):
        numbers = draw_numbers(stage(crop=crop, **more), 20, **PLACE)
        assert (numbers[:, : plain.shape[1]] == plain).all()
        added = numbers[:, plain.shape[1] :]
        assert len(np.unique(added)) == added.size == 160
        assert not np.isin(added, plain).any()
        later = draw_numbers(stage(crop=crop, **more), 20, **{**PLACE, "epoch": 3})
        assert not np.isin(later, numbers).any()
        assert (draw_numbers(stage(crop=crop, **more), 7, **PLACE) == numbers[:7]).all()


@pytest.mark.parametrize("more", MORE, ids=str)
def test_a_square_does_not_depend_on_its_batch(more: dict[str, Any]) -> None:
    """Alone or among others, a photo comes out the same to the last bit."""
    mine, given = stage(**more), photos(12)
    numbers = draw_numbers(mine, 12, **PLACE)
    together = squares(mine, numbers, given)
    for part in (slice(0, 1), slice(3, 5), slice(5, 12)):
        assert torch.equal(squares(mine, numbers[part], given[part]), together[part])
    assert 0 <= together.min() <= together.max() <= 1
    assert together.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("more", MORE, ids=str)
def test_torch_s_generator_is_left_alone(more: dict[str, Any]) -> None:
    """It belongs to the thread that trains; squares are prepared in another one."""
    mine, given = stage(**more), photos(30)
    before = torch.random.get_rng_state()
    squares(mine, draw_numbers(mine, 30, **PLACE), given)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_rectangles_fill_their_bounds() -> None:
    """As many as were asked for, within the square, of the paper's areas and aspect ratios."""
    mine = stage(erasing=0.4)
    sizes = np.full((4000, 2), 32)
    boxes = draw_changes(mine, sizes, draw_numbers(mine, 4000, **PLACE)).erased
    assert boxes is not None
    erased = boxes[boxes.any(1)]
    assert len(erased) == pytest.approx(1600, abs=100)
    left, top, width, height = erased.T
    assert (left + width).max() <= 1 + 1e-9
    assert (top + height).max() <= 1 + 1e-9
    assert erased.min() >= 0
    area, aspect = width * height, np.log(width / height)
    assert 0.02 - 1e-9 <= area.min() < 0.03
    assert 0.32 < area.max() <= 1 / 3 + 1e-9
    assert math.log(0.3) - 1e-9 <= aspect.min() < math.log(0.32)
    assert math.log(3.1) < aspect.max() <= math.log(3.3) + 1e-9
    for start, side in ((left, width), (top, height)):
        inner = side < 1
        assert np.mean(start[inner] / (1 - side[inner])) == pytest.approx(0.5, abs=0.03)


def test_a_rectangle_is_of_the_square_s_mean() -> None:
    """Elsewhere, each pixel is the one that there would be without erasing."""
    plain, mine, given = stage(), stage(erasing=1.0), photos(20)
    numbers = draw_numbers(mine, 20, **PLACE)
    boxes = draw_changes(mine, np.full((20, 2), 32), numbers).erased
    assert boxes is not None
    before, after = squares(plain, numbers, given), squares(mine, numbers, given)
    for one, other, box in zip(before, after, boxes, strict=True):
        left, top, width, height = np.round(box * 32).astype(int).tolist()
        inside = torch.zeros(32, 32, dtype=torch.bool)
        inside[top : top + height, left : left + width] = True
        assert torch.equal(one[:, ~inside], other[:, ~inside])
        mean = one.mean((1, 2))[:, None].expand(3, int(inside.sum()))
        assert torch.allclose(other[:, inside], mean, atol=1e-6)


@pytest.mark.parametrize("number", range(len(OPERATIONS)))
def test_operations_are_those_of_torchvision(number: int) -> None:
    """Each of its operations at each of its strengths, in either direction, gives its squares."""
    theirs = v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)
    name, (magnitudes, signed) = list(theirs._AUGMENTATION_SPACE.items())[number]
    assert len(theirs._AUGMENTATION_SPACE) == len(OPERATIONS)
    assert theirs.num_magnitude_bins == BINS
    square = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))
    strengths = magnitudes(BINS, 40, 40)
    for index in range(BINS):
        strength = 0.0 if strengths is None else float(strengths[index])
        for sign in (0.25, 0.75) if signed else (0.25,):
            found = trivially_changed(
                square, (number + 0.5) / len(OPERATIONS), (index + 0.5) / BINS, sign
            )
            own = -strength if signed and sign < 0.5 else strength
            expected = theirs._apply_image_or_video_transform(
                square, name, own, interpolation=theirs.interpolation, fill=theirs._fill
            )
            assert torch.allclose(found, expected, atol=1e-5), (name, strength)


def test_every_operation_is_drawn_equally_often() -> None:
    """Operations and strengths come evenly, whatever the others are."""
    mine = stage(augmentation=Augmentation.TRIVIAL)
    trivial = draw_changes(mine, np.full((7000, 2), 32), draw_numbers(mine, 7000, **PLACE)).trivial
    assert trivial is not None
    for column, bins in ((0, len(OPERATIONS)), (1, BINS), (2, 2)):
        counts = np.bincount((trivial[:, column] * bins).astype(int), minlength=bins)
        assert counts == pytest.approx(np.full(bins, 7000 / bins), rel=0.25)
    assert np.abs(np.corrcoef(trivial.T) - np.eye(3)).max() < 0.05


def test_trivial_squares_are_mirrored_and_nothing_else_is_turned() -> None:
    """Half of them; rotation and lighting are among its own operations."""
    mine = stage(augmentation=Augmentation.TRIVIAL)
    changes = draw_changes(mine, np.full((1000, 2), 32), draw_numbers(mine, 1000, **PLACE))
    mirrored = changes.matrix[:, 0, 0] < 0
    assert mirrored.mean() == pytest.approx(0.5, abs=0.05)
    assert np.abs(changes.matrix[:, [0, 1], [1, 0]]).max() == 0
    assert not changes.brightness.any()
    assert (changes.contrast == 1).all()
