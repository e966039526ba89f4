"""Measurements of a photo, independent of its content. Free of torch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainers.data.photo import photo_header

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as in JPEG
_GREY = 2.0
"""The largest mean difference between the channels of a grey photo, in levels."""


@dataclass(frozen=True)
class Facts:
    """A photo's numbers; those of its pixels are on the scale of 0..255.

    `width` and `height` are those of the file, before any turn; `colour` is the mean of red, green
    and blue; `contrast` the standard deviation of luminance; `sharpness` is the strength of its
    Laplacian (after Pech-Pacheco et al. 2000) in the sharpest hundredth of the photo, over the
    contrast: neither a soft background nor a pale subject makes a photo blurred.
    """

    width: int
    height: int
    format: str
    n_bytes: int
    grey: bool
    colour: tuple[float, float, float]
    contrast: float
    sharpness: float

    @property
    def short_side(self) -> int:
        """Return the shorter side, in pixels of the file."""
        return min(self.width, self.height)

    @property
    def elongation(self) -> float:
        """Return how many times longer the longer side is."""
        return max(self.width, self.height) / self.short_side


def facts_of(path: Path, n_bytes: int, pixels: NDArray[np.uint8]) -> Facts:
    """Measure a photo: by its file's header, and by its pixels, (H, W, 3), at any scale."""
    header = photo_header(path)
    luminance = pixels @ _LUMA
    spread = pixels.max(axis=2).astype(np.int16) - pixels.min(axis=2)
    red, green, blue = pixels.mean(axis=(0, 1)).tolist()
    return Facts(
        *header.size,
        format=header.format,
        n_bytes=n_bytes,
        grey=float(spread.mean()) < _GREY,
        colour=(red, green, blue),
        contrast=float(luminance.std()),
        sharpness=_sharpness(luminance),
    )


def _sharpness(luminance: NDArray[np.float32]) -> float:
    """Return the sharpness of its sharpest hundredth; 0 if nothing varies."""
    contrast = float(luminance.std())
    if min(luminance.shape) < 3 or contrast == 0:
        return 0.0
    laplacian = (
        luminance[:-2, 1:-1]
        + luminance[2:, 1:-1]
        + luminance[1:-1, :-2]
        + luminance[1:-1, 2:]
        - 4 * luminance[1:-1, 1:-1]
    )
    return float(np.quantile(np.abs(laplacian), 0.99)) / contrast
