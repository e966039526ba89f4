"""Crop, zoom, flip and rotation as one resampling, lighting as one pass; random by key alone.

A photo is changed by sampling it once along an affine map from the square that the network sees
to the photo, so nothing is resampled twice. The meanings are those of fast.ai 0.7.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as vision

from trainers.data.scale import training_scale
from trainers.data.trivial import trivially_changed
from trainers.schedule import Augmentation, CropType, Stage

ROTATION_DEGREES = 10.0
ROTATION_SHARE = 0.75  # of the photos; the others stay upright
LIGHTING = 0.05  # largest change of brightness (in shares of full white) and of contrast
GOOGLENET_AREA = (0.08, 1.0)
GOOGLENET_ASPECT = (3 / 4, 4 / 3)
GOOGLENET_TRIES = 10
ERASED_AREA = (0.02, 1 / 3)
ERASED_ASPECT = (0.3, 3.3)

_TURNS_AND_LIGHTS = (Augmentation.SIDE_ON, Augmentation.TOP_DOWN)

Floats = NDArray[np.float64]

_ZOOM, _X, _Y, _ROTATES, _ANGLE, _BRIGHTNESS, _CONTRAST, _MIRROR, _QUARTERS, _TRIES = range(10)
_WHAT, _HOW_MUCH, _EITHER_WAY, _ERASES, _AREA, _ASPECT, _LEFT, _TOP = range(-8, 0)
"""Columns of random numbers: from the first one on, and from the last one back."""

_ORDER, _CHANGES, _MORE_CHANGES, _VIEWS = 0, 1, 2, 5  # others are in `passes` and `mixing`
"""Streams of random numbers that one (seed, stage, epoch) has."""


@dataclass(frozen=True)
class Changes:
    """The changes of n photos.

    `matrix` (n, 2, 3) maps the square (u, v in -1..1, and 1) to x and y in the photo, in pixels
    from its upper left corner. `brightness` is added in shares of full white, `contrast` multiplies
    differences from the square's mean; both (n,). `trivial` are the numbers (n, 3) of
    `trivially_changed`; `erased` is a rectangle of the square (n, 4): its left and upper border,
    its width and its height in shares of the square's; 0 for none.
    """

    matrix: Floats
    brightness: Floats
    contrast: Floats
    trivial: Floats | None = None
    erased: Floats | None = None


def draw_order(
    count: int, *, seed: int, position: int, epoch: int, nth: int = 0
) -> NDArray[np.int64]:
    """Return the order of the photos in the `nth` pass of an epoch; a pure function."""
    return _random(_ORDER, seed, position, epoch, nth).permutation(count)


def draw_numbers(
    stage: Stage, count: int, *, seed: int, position: int, epoch: int, nth: int = 0
) -> NDArray[np.float32]:
    """Draw the random numbers for `draw_changes` for each photo of a pass: `count` rows.

    Row i is a pure function of (seed, position, epoch, nth, i): it does not depend on `count`.
    """
    width = _TRIES + (2 * GOOGLENET_TRIES if stage.crop is CropType.GOOGLENET else 0)
    random = _random(_CHANGES, seed, position, epoch, nth)
    numbers = random.random((count, width), dtype=np.float32)
    if not (stage.erasing or stage.augmentation is Augmentation.TRIVIAL):
        return numbers
    # From a separate stream, so that older numbers stay the same.
    random = _random(_MORE_CHANGES, seed, position, epoch, nth)
    return np.concatenate([numbers, random.random((count, 8), dtype=np.float32)], 1)


def draw_view(stage: Stage, count: int, view: int) -> NDArray[np.float32]:
    """Draw the random numbers for `draw_changes` for one view of each photo.

    Row i is a pure function of (view, i): all seeds and trials share their views.
    """
    return draw_numbers(stage, count, seed=0, position=0, epoch=view)


def draw_first_views(count: int, views: int, *, seed: int, position: int) -> NDArray[np.int64]:
    """Draw the first view that a stage shows of each photo; each pass shows the next one."""
    return (views * _random(_VIEWS, seed, position, 0, 0).random(count)).astype(np.int64)


def draw_changes(stage: Stage, sizes: NDArray[np.int64], numbers: NDArray[np.float32]) -> Changes:
    """Turn rows of `draw_numbers` into changes of photos whose (height, width) are in `sizes`."""
    drawn = numbers.astype(np.float64)
    height, width = sizes.T.astype(np.float64)
    x, y, half_x, half_y = _windows(stage, width, height, drawn)
    flips = _flips(stage.augmentation, drawn)
    angle = np.zeros(len(drawn))
    brightness, contrast = np.zeros(len(drawn)), np.ones(len(drawn))
    if stage.augmentation in _TURNS_AND_LIGHTS:
        most = math.radians(ROTATION_DEGREES)
        rotates = drawn[:, _ROTATES] < ROTATION_SHARE
        angle = _between(-most, most, drawn[:, _ANGLE]) * rotates
        brightness = _between(-LIGHTING, LIGHTING, drawn[:, _BRIGHTNESS])
        change = _between(-LIGHTING, LIGHTING, drawn[:, _CONTRAST])
        contrast = np.where(change >= 0, 1 + change, 1 / (1 - change))
    # The square is flipped, stretched to the window, and only then rotated, in pixels: so a
    # window that is not square does not shear, and a quarter turn does not reach over the photo.
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)], 1)
    stretch = np.stack([half_x, half_y], 1)[:, :, None]
    matrix = np.concatenate([turn @ (stretch * flips), np.stack([x, y], 1)[:, :, None]], 2)
    trivial = stage.augmentation is Augmentation.TRIVIAL
    return Changes(
        matrix,
        brightness,
        contrast,
        trivial=drawn[:, [_WHAT, _HOW_MUCH, _EITHER_WAY]] if trivial else None,
        erased=_erased(stage.erasing, drawn) if stage.erasing else None,
    )


def apply_changes(
    photos: Sequence[Tensor], changes: Changes, stage: Stage, device: torch.device
) -> Tensor:
    """Sample n uint8 photos (H, W, 3) into float squares (n, 3, S, S) of 0..1, channels last.

    Beyond its border the photo is reflected.
    """
    sides = np.array([[photo.shape[1], photo.shape[0]] for photo in photos])
    reach = np.abs(changes.matrix[:, :, :2]).sum(2) + 1  # and a neighbour to interpolate with
    corners = np.maximum(np.floor(changes.matrix[:, :, 2] - reach), 0)
    ends = np.ceil(changes.matrix[:, :, 2] + reach)
    canvas = _canvas(photos, corners.astype(int), ends.astype(int), _canvas_side(stage))
    canvas = on_device(canvas, device)
    at = _reflected(_at(_on(device, changes.matrix), stage.image_size), _on(device, sides))
    unit = 2 / canvas.shape[1]  # of a grid from -1 to 1
    grid = at.mul_(unit).sub_((_on(device, corners) * unit + 1)[:, :, None, None])
    squares = functional.grid_sample(
        canvas.permute(0, 3, 1, 2).float(), grid.permute(0, 2, 3, 1), align_corners=False
    )
    if stage.augmentation not in _TURNS_AND_LIGHTS:
        squares.mul_(1 / 255)
    else:
        contrast, brightness = (_on(device, v) for v in (changes.contrast, changes.brightness))
        offset = squares.mean((1, 2, 3)) * (1 - contrast) / 255 + brightness
        squares.mul_((contrast / 255)[:, None, None, None]).add_(offset[:, None, None, None])
        squares.clamp_(0, 1)
    if changes.trivial is not None:
        for square, numbers in zip(squares, changes.trivial.tolist(), strict=True):
            square.copy_(trivially_changed(square, *numbers))
    if changes.erased is not None:
        for square, box in zip(squares, changes.erased, strict=True):
            _erase(square, box)
    return squares.contiguous(memory_format=torch.channels_last)


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """Move a tensor to a device, asynchronously for CUDA.

    Only from pinned memory: otherwise the copy may be made after the tensor's memory is reused, as
    happens silently on MPS.
    """
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def _random(stream: int, seed: int, position: int, epoch: int, nth: int) -> np.random.Generator:
    # An epoch's first pass draws the same as an epoch with one pass.
    return np.random.default_rng((seed, position, epoch, stream, *([nth] if nth else ())))


def _canvas(
    photos: Sequence[Tensor], corners: NDArray[np.int64], ends: NDArray[np.int64], side: int
) -> Tensor:
    """Copy the visible part of each photo into the upper left corner of its (side, side, 3)."""
    if photos[0].device.type != "cpu":
        return _gathered(photos, corners, ends, side)
    # Zeros, as neighbouring pixels count with a weight of about 1e-5.
    canvas = torch.zeros(len(photos), side, side, 3, dtype=torch.uint8, device=photos[0].device)
    for room, photo, (left, top), (right, bottom) in zip(
        canvas, photos, corners.tolist(), ends.tolist(), strict=True
    ):
        seen = photo[top:bottom, left:right]
        room[: seen.shape[0], : seen.shape[1]] = seen
    return canvas


def _gathered(
    photos: Sequence[Tensor], corners: NDArray[np.int64], ends: NDArray[np.int64], side: int
) -> Tensor:
    """Make the same canvas by one gather, of photos in one block of memory.

    On a GPU, launching a copy per photo takes longer than a small network's step.
    """
    memory, device = photos[0].untyped_storage(), photos[0].device
    pixels = torch.empty(0, dtype=torch.uint8, device=device).set_(memory).view(-1, 3)
    starts = np.array([photo.storage_offset() // 3 for photo in photos])
    sides = np.array([[photo.shape[1], photo.shape[0]] for photo in photos])
    seen = np.minimum(ends, sides) - corners
    numbers = np.concatenate([starts[:, None], sides[:, :1], corners, seen], axis=1)
    columns = on_device(torch.from_numpy(numbers), device).T[..., None, None]
    start, width, left, top, across, down = columns
    line = torch.arange(side, device=device)
    column, row = line, line[:, None]
    inside = (column < across) & (row < down)
    at = start + (top + row) * width + left + column
    return pixels[torch.where(inside, at, 0)].mul_(inside[..., None])


def _canvas_side(stage: Stage) -> int:
    """Bound the extent of a stage's windows, independent of the batch so that rounding is."""
    longest = GOOGLENET_ASPECT[1] if stage.crop is CropType.GOOGLENET else 1.0
    angle = math.radians(ROTATION_DEGREES) * (stage.augmentation in _TURNS_AND_LIGHTS)
    reach = longest * math.cos(angle) + math.sin(angle)
    return math.ceil(training_scale(stage).edge * reach) + 4


def _at(matrix: Tensor, size: int) -> Tensor:
    """Map the square's pixels by matrices (n, 2, 3): x and y, (n, 2, size, size)."""
    line = (torch.arange(size, device=matrix.device) + 0.5) * (2 / size) - 1
    across = matrix[:, :, :1] * line
    down = matrix[:, :, 1:2] * line + matrix[:, :, 2:]
    return across[:, :, None, :] + down[:, :, :, None]


def _reflected(at: Tensor, sides: Tensor) -> Tensor:
    """Reflect x and y at both borders of a photo, and clamp them to the centres of its pixels."""
    side = sides[:, :, None, None]
    inside = at.abs_().sub_(side).abs_().neg_().add_(side)
    return torch.minimum(inside.clamp_(min=0.5), side - 0.5, out=inside)


def _on(device: torch.device, values: Floats) -> Tensor:
    return on_device(torch.from_numpy(values.astype(np.float32)), device)


def _windows(
    stage: Stage, width: Floats, height: Floats, drawn: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the centre and half sides, in pixels, of each photo's window."""
    middle = width / 2, height / 2
    if stage.crop is CropType.NO:
        return *middle, *middle
    side = np.minimum(width, height)
    if stage.crop is CropType.GOOGLENET:
        half_x, half_y = _googlenet_sides(
            width, height, drawn[:, _TRIES:][:, : 2 * GOOGLENET_TRIES]
        )
    else:
        half_x = half_y = side / _between(1.0, stage.max_zoom, drawn[:, _ZOOM]) / 2
    if stage.crop is CropType.CENTER:
        return *middle, half_x, half_y
    x = _between(half_x, width - half_x, drawn[:, _X])
    y = _between(half_y, height - half_y, drawn[:, _Y])
    return x, y, half_x, half_y


def _googlenet_sides(width: Floats, height: Floats, drawn: Floats) -> tuple[Floats, Floats]:
    """Return half sides of a random area at a random aspect ratio (Szegedy et al. 2015).

    The first of ten tries that fits into the photo, else the largest square.
    """
    area, aspect = drawn[:, :GOOGLENET_TRIES], drawn[:, GOOGLENET_TRIES:]
    area = _between(*GOOGLENET_AREA, area) * (width * height)[:, None]
    low, high = (math.log(bound) for bound in GOOGLENET_ASPECT)
    aspect = np.exp(_between(low, high, aspect))
    half_x, half_y = np.sqrt(area * aspect) / 2, np.sqrt(area / aspect) / 2
    fits = (half_x <= width[:, None] / 2) & (half_y <= height[:, None] / 2)
    first, any_fits = fits.argmax(1), fits.any(1)
    rows, square = np.arange(len(width)), np.minimum(width, height) / 2
    return (
        np.where(any_fits, half_x[rows, first], square),
        np.where(any_fits, half_y[rows, first], square),
    )


def _erased(share: float, drawn: Floats) -> Floats:
    """Return a rectangle for that share of the squares (Zhong et al. 2020); no side is over 1."""
    area = _between(*ERASED_AREA, drawn[:, _AREA])
    low, high = (math.log(bound) for bound in ERASED_ASPECT)
    aspect = np.exp(_between(low, high, drawn[:, _ASPECT]))
    width, height = np.minimum(np.sqrt([area * aspect, area / aspect]), 1)
    left, top = (1 - width) * drawn[:, _LEFT], (1 - height) * drawn[:, _TOP]
    return np.stack([left, top, width, height], 1) * (drawn[:, _ERASES] < share)[:, None]


def _erase(square: Tensor, box: Floats) -> None:
    """Fill a rectangle of a square with its mean colour.

    Not with noise, which would need random numbers for each pixel, nor with the mean of the
    network's normalisation, which is not known here.
    """
    left, top, width, height = np.round(box * square.shape[-1]).astype(int).tolist()
    if width and height:
        mean = square.mean((1, 2), keepdim=True)
        vision.erase(square, top, left, height, width, mean, inplace=True)


def _flips(augmentation: Augmentation, drawn: Floats) -> Floats:
    """Return maps of the square onto itself, (n, 2, 2): mirroring and quarter turns."""
    mirror = np.ones(len(drawn))
    quarters = np.zeros(len(drawn), int)
    if augmentation is not Augmentation.NONE:
        mirror = np.where(drawn[:, _MIRROR] < 0.5, -1.0, 1.0)
    if augmentation is Augmentation.TOP_DOWN:
        quarters = (4 * drawn[:, _QUARTERS]).astype(int)
    cos, sin = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)], float)[quarters].T
    return np.stack([np.stack([cos * mirror, -sin], 1), np.stack([sin * mirror, cos], 1)], 1)


def _between(low: Floats | float, high: Floats | float, share: Floats) -> Floats:
    return low + (high - low) * share
