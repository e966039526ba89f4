"""For any photo and any stage: windows lie inside, and all that they see is copied."""

import math
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainers.data import augment
from trainers.data.augment import Changes, apply_changes, draw_changes, draw_numbers, draw_order
from trainers.data.scale import training_scale
from trainers.schedule import Augmentation, CropType, Stage

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

CPU = torch.device("cpu")
SIZE = 16
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def stages(draw: st.DrawFn, most_zoom: float = 10.0) -> Stage:
    """Draw the settings that change photos."""
    return Stage(
        image_size=SIZE,
        batch_size=8,
        crop=draw(st.sampled_from(CropType)),
        augmentation=draw(st.sampled_from(Augmentation)),
        max_zoom=draw(st.floats(1.0, most_zoom)),
    )


@st.composite
def shapes(draw: st.DrawFn, stage: Stage) -> tuple[int, int]:
    """Draw the height and width of a photo at its stage's scale: squares, strips, panoramas."""
    edge = training_scale(stage).edge
    short = draw(st.one_of(st.integers(1, edge), st.just(edge)))
    long = edge if stage.crop is CropType.NO else 40 * short
    both = short, draw(st.integers(short, max(short, long)))
    return both if draw(st.booleans()) else both[::-1]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Stage, Tensor, Changes]:
    """Draw a stage, a photo of noise at its scale, and eight changes of it."""
    stage = draw(stages(most_zoom=2.5))
    height, width = draw(shapes(stage))
    seed = draw(SEEDS)
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    numbers = draw_numbers(stage, 8, seed=seed, position=0, epoch=0)
    if draw(st.booleans()):  # the ends of the ranges, where windows and angles are extreme
        numbers = np.round(numbers) * np.float32(1 - 2**-24)
    changes = draw_changes(stage, np.tile([height, width], (8, 1)), numbers)
    # Operations such as solarizing make much of the last bit of what was sampled.
    return stage, torch.from_numpy(noise), replace(changes, trivial=None)


@settings(deadline=None)
@given(cases())
def test_the_canvas_holds_all_that_is_seen(case: tuple[Stage, Tensor, Changes]) -> None:
    """A canvas four times as large gives the same pixels, so no window reaches out of its own."""
    stage, photo, changes = case
    found = apply_changes([photo] * 8, changes, stage, CPU)
    side = augment._canvas_side(stage)
    with patch.object(augment, "_canvas_side", lambda _: 4 * side):
        roomy = apply_changes([photo] * 8, changes, stage, CPU)
    assert (found - roomy).abs().max() < 1e-3
    assert 0 <= found.min() <= found.max() <= 1


@settings(deadline=None)
@given(cases())
def test_all_pixels_are_mixed_of_the_photo_alone(case: tuple[Stage, Tensor, Changes]) -> None:
    """What is copied of a photo is enough: made of ones, it gives ones, whatever is reflected."""
    stage, photo, changes = case
    plain = Changes(changes.matrix, np.zeros(8), np.ones(8))
    found = apply_changes([torch.full_like(photo, 255)] * 8, plain, stage, CPU)
    assert (found - 1).abs().max() < 1e-3


@given(st.data(), stages(), SEEDS)
def test_windows_lie_inside_the_photo(data: st.DataObject, stage: Stage, seed: int) -> None:
    """Before it is rotated, no window reaches over a border; its middle is never outside."""
    height, width = data.draw(shapes(stage))
    numbers = draw_numbers(stage, 50, seed=seed, position=0, epoch=0)
    changes = draw_changes(stage, np.tile([height, width], (50, 1)), numbers)
    linear, centre = changes.matrix[:, :, :2], changes.matrix[:, :, 2]
    angle = np.zeros(50)
    if stage.augmentation is not Augmentation.NONE:
        # Free of mirrors, quarter turns and stretching, what is left of the map is its angle.
        column = linear[:, :, 0] / np.linalg.norm(linear[:, :, 0], axis=1, keepdims=True)
        angle = (np.arctan2(column[:, 1], column[:, 0]) + math.pi / 4) % (math.pi / 2)
        angle -= math.pi / 4
        assert np.abs(angle).max() <= math.radians(10) + 1e-9
    cos, sin = np.cos(angle), np.sin(angle)
    back = np.stack([np.stack([cos, sin], 1), np.stack([-sin, cos], 1)], 1)
    half = np.abs(back @ linear).sum(2)
    assert (half > 0).all()
    assert (half <= centre + 1e-6).all()
    assert (centre + half <= np.array([width, height]) + 1e-6).all()


@given(stages(), SEEDS, st.integers(0, 50), st.integers(0, 10**5), st.integers(1, 60))
def test_order_and_numbers_are_functions_of_the_place(
    stage: Stage, seed: int, position: int, epoch: int, count: int
) -> None:
    """Any seed, stage and epoch give the same again, and a photo's row whatever the count."""
    place = {"seed": seed, "position": position, "epoch": epoch}
    order = draw_order(count, **place)
    assert sorted(order) == list(range(count))
    assert (order == draw_order(count, **place)).all()
    numbers = draw_numbers(stage, count, **place)
    assert (draw_numbers(stage, 2 * count, **place)[:count] == numbers).all()
    later = {**place, "epoch": epoch + 1}
    assert not (draw_numbers(stage, count, **later) == numbers).all()
