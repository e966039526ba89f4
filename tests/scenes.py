"""Pictures as rich as photos, each unlike all others, and what becomes of them on their way."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainers.data.inspect.fingerprints import CHECK_SCALE, Fingerprint, fingerprint


def scene(number: int, width: int = 240, height: int = 180) -> Image.Image:
    """Draw coloured clouds, coarse and fine: the spectrum falls as that of photos does."""
    draw = np.random.default_rng(number)
    clouds = np.zeros((height, width, 3))
    for cells in (3, 6, 12, 24, 48, 96, 192):
        grid = draw.integers(0, 256, (cells, cells, 3), np.uint8)
        layer = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
        clouds += (np.asarray(layer) - 127.5) / cells**0.35
    return Image.fromarray((127.5 + clouds).clip(0, 255).astype(np.uint8))


def as_jpeg(photo: Image.Image, quality: int) -> Image.Image:
    """Save and open a photo as JPEG."""
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def print_of(photo: Image.Image) -> Fingerprint:
    """Take a photo's fingerprint at the scale that photos are checked at."""
    return fingerprint(np.asarray(CHECK_SCALE.fit(photo)))


def save(photo: Image.Image, path: Path, **how: Any) -> Path:
    """Write a photo, with the folders on its way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    photo.save(path, **how)
    return path
