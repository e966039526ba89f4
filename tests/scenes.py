"""Pictures that look like photos to a machine: coarse forms, fine detail, colours; by a seed."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def scene(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    """Draw noise of several scales, one over the other, the finer the fainter."""
    random = np.random.default_rng(seed)
    layers = np.zeros((height, width, 3), np.float32)
    for cells in (3, 6, 12, 24, 48, 96, 192):
        coarse = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        grown = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        layers += np.asarray(grown, np.float32) / cells**0.35
    low, high = layers.min(), layers.max()
    return Image.fromarray(((layers - low) / (high - low) * 255).astype(np.uint8))


def save(picture: Image.Image, path: Path, **how: Any) -> Path:
    """Write a picture, with the folders on its way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **how)
    return path
