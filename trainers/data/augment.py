"""Crop, zoom, flip and rotation as one resampling, lighting as one pass; random by key alone.

A photo is changed by sampling it once along an affine map from the square that the network sees
to the photo, so nothing is resampled twice. The meanings are those of fast.ai 0.7.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trainers.schedule import Augmentation, CropType, Stage

ROTATION_DEGREES = 10.0
ROTATION_SHARE = 0.75  # of the photos; the others stay upright
LIGHTING = 0.05  # largest change of brightness (in shares of full white) and of contrast
GOOGLENET_AREA = (0.08, 1.0)
GOOGLENET_ASPECT = (3 / 4, 4 / 3)

Flip = tuple[tuple[int, int], tuple[int, int]]
"""A map of the square onto itself: mirroring and quarter turns."""


@dataclass(frozen=True)
class Window:
    """The part of a photo that is cut out: centre and half sides in shares of width and height."""

    x: float
    y: float
    half_x: float
    half_y: float


@dataclass(frozen=True)
class Change:
    """All that happens to one photo: a window, a flip, a rotation in radians, and lighting."""

    window: Window
    flip: Flip
    angle: float
    brightness: float
    contrast: float


def draw_change(stage: Stage, width: int, height: int, key: tuple[int, ...]) -> Change:
    """Draw what happens to a photo of `width` x `height`: a pure function of the arguments."""
    random = np.random.default_rng(key)
    window = _draw_window(stage, width, height, random)
    if stage.augmentation is Augmentation.NONE:
        return Change(window, ((1, 0), (0, 1)), 0.0, 0.0, 1.0)
    rotates = random.random() < ROTATION_SHARE
    angle = math.radians(random.uniform(-ROTATION_DEGREES, ROTATION_DEGREES)) * rotates
    brightness, contrast = random.uniform(-LIGHTING, LIGHTING, size=2)
    contrast = 1 + contrast if contrast >= 0 else 1 / (1 - contrast)
    return Change(window, _draw_flip(stage.augmentation, random), angle, brightness, contrast)


def apply_change(photo: Tensor, change: Change, size: int) -> Tensor:
    """Sample a uint8 photo (3, H, W) into a float square (3, size, size) of values in 0..1."""
    _, height, width = photo.shape
    window, cos, sin = change.window, math.cos(change.angle), math.sin(change.angle)
    (a, b), (c, d) = change.flip
    # The square is flipped, stretched to the window, and only then rotated, in pixels: so a
    # window that is not square does not shear, and a quarter turn does not reach over the photo.
    px, py = window.half_x * width, window.half_y * height
    ax, bx, cy, dy = a * px, b * px, c * py, d * py
    theta = torch.tensor(
        [
            [(cos * ax - sin * cy) / width, (cos * bx - sin * dy) / width, window.x - 0.5],
            [(sin * ax + cos * cy) / height, (sin * bx + cos * dy) / height, window.y - 0.5],
        ]
    )
    grid = functional.affine_grid(2 * theta[None], [1, 3, size, size], align_corners=False)
    square = functional.grid_sample(
        photo[None].float() / 255, grid, padding_mode="reflection", align_corners=False
    )[0]
    if change.brightness == 0 and change.contrast == 1:
        return square
    mean = square.mean()
    return ((square - mean) * change.contrast + mean + change.brightness).clamp_(0, 1)


def _draw_window(stage: Stage, width: int, height: int, random: np.random.Generator) -> Window:
    if stage.crop is CropType.NO:
        return Window(0.5, 0.5, 0.5, 0.5)
    if stage.crop is CropType.GOOGLENET:
        return _googlenet_window(width, height, random)
    side = min(width, height) / random.uniform(1.0, stage.max_zoom)
    half_x, half_y = side / width / 2, side / height / 2
    if stage.crop is CropType.CENTER:
        return Window(0.5, 0.5, half_x, half_y)
    x, y = random.uniform(half_x, 1 - half_x), random.uniform(half_y, 1 - half_y)
    return Window(x, y, half_x, half_y)


def _googlenet_window(width: int, height: int, random: np.random.Generator) -> Window:
    """Draw a random area at a random aspect ratio (Szegedy et al. 2015), or the centre."""
    for _ in range(10):
        area = random.uniform(*GOOGLENET_AREA) * width * height
        low, high = GOOGLENET_ASPECT
        aspect = math.exp(random.uniform(math.log(low), math.log(high)))
        half_x = math.sqrt(area * aspect) / width / 2
        half_y = math.sqrt(area / aspect) / height / 2
        if half_x <= 0.5 and half_y <= 0.5:
            x, y = random.uniform(half_x, 1 - half_x), random.uniform(half_y, 1 - half_y)
            return Window(x, y, half_x, half_y)
    side = min(width, height)
    return Window(0.5, 0.5, side / width / 2, side / height / 2)


def _draw_flip(augmentation: Augmentation, random: np.random.Generator) -> Flip:
    mirror = -1 if random.random() < 0.5 else 1
    quarters = int(random.integers(4)) if augmentation is Augmentation.TOP_DOWN else 0
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters]
    return ((cos * mirror, -sin), (sin * mirror, cos))
