"""TrivialAugment Wide (Müller & Hutter 2021) of single squares, by numbers that were drawn before.

torchvision's own `TrivialAugmentWide` draws from torch's global generator, which belongs to the
thread that trains; its operations and their strengths are taken from here on public functions.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as vision

BINS = 31


def _affine(square: Tensor, **changes: object) -> Tensor:
    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    options = {**still, **changes}
    moved: Tensor = vision.affine(square, interpolation=InterpolationMode.BILINEAR, **options)
    return moved


def _shear(strength: float) -> float:
    return math.degrees(math.atan(strength))


OPERATIONS: tuple[tuple[Callable[[Tensor, float], Tensor], float, bool], ...] = (
    (lambda square, _: square, 0.0, False),
    (lambda square, s: _affine(square, shear=[_shear(s), 0.0], center=[0, 0]), 0.99, True),
    (lambda square, s: _affine(square, shear=[0.0, _shear(s)], center=[0, 0]), 0.99, True),
    (lambda square, s: _affine(square, translate=[int(s), 0]), 32.0, True),
    (lambda square, s: _affine(square, translate=[0, int(s)]), 32.0, True),
    (lambda square, s: vision.rotate(square, s, InterpolationMode.BILINEAR), 135.0, True),
    (lambda square, s: vision.adjust_brightness(square, 1 + s), 0.99, True),
    (lambda square, s: vision.adjust_saturation(square, 1 + s), 0.99, True),
    (lambda square, s: vision.adjust_contrast(square, 1 + s), 0.99, True),
    (lambda square, s: vision.adjust_sharpness(square, 1 + s), 0.99, True),
    (lambda square, s: vision.posterize(square, 8 - round(s)), 6.0, False),
    (lambda square, s: vision.solarize(square, 1 - s), 1.0, False),
    (lambda square, _: vision.autocontrast(square), 0.0, False),
    (lambda square, _: vision.equalize(square), 0.0, False),
)
"""Each with its largest strength (the 31 bins begin at 0), and whether it goes either way."""


def trivially_changed(square: Tensor, operation: float, strength: float, sign: float) -> Tensor:
    """Change a square (3, S, S) of 0..1; three numbers of 0..1 choose operation and strength."""
    change, most, either_way = OPERATIONS[int(operation * len(OPERATIONS))]
    own = torch.linspace(0.0, most, BINS)[int(strength * BINS)].item()
    return change(square, -own if either_way and sign < 0.5 else own)
