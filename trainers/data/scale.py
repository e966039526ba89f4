"""The size at which a photo is stored: no larger than its stage needs. Free of torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainers.data.photo import read_photo, reduction_of
from trainers.errors import UnreadablePhoto
from trainers.schedule import CropType, Stage, Train

GOOGLENET_MARGIN = 2.0  # its windows are small: they need more detail
DETAIL = 2
"""A JPEG is decoded at a reduced size that leaves this many times the pixels a scale keeps."""


@dataclass(frozen=True, order=True)
class Scale:
    """How a photo is stored: with short side `edge`, squeezed into a square, or cropped to it."""

    edge: int
    squeeze: bool
    cut: bool

    def fit(self, photo: Image.Image) -> Image.Image:
        """Scale a photo (antialiased). A small one is enlarged only where it is cut."""
        if self.cut and not self.squeeze:
            photo = _middle(photo)
        size = self._size(*photo.size)
        # Filtering at an unchanged size would only blur.
        fitted = photo.resize(size, Image.Resampling.BILINEAR) if size != photo.size else photo
        if not self.cut:
            return fitted
        left, top = (fitted.width - self.edge) // 2, (fitted.height - self.edge) // 2
        return fitted.crop((left, top, left + self.edge, top + self.edge))

    def n_bytes(self, width: int, height: int) -> int:
        """Return how many bytes a photo of that size takes at this scale."""
        fitted = (self.edge, self.edge) if self.cut else self._size(width, height)
        return 3 * fitted[0] * fitted[1]

    def _size(self, width: int, height: int) -> tuple[int, int]:
        if self.squeeze:
            if self.cut:
                return self.edge, self.edge
            return min(width, self.edge), min(height, self.edge)
        scale = self.edge / min(width, height)
        if scale > 1 and not self.cut:
            return width, height
        return round(width * scale), round(height * scale)


def training_scale(stage: Stage) -> Scale:
    """Return the scale that a stage's random windows are sampled from; a probe has none."""
    if stage.train is Train.PROBE:
        return validation_scale(stage.image_size, stage.crop)
    if stage.crop is CropType.NO:  # the whole photo is shown, never a part of it enlarged
        return Scale(stage.image_size, squeeze=True, cut=False)
    margin = GOOGLENET_MARGIN if stage.crop is CropType.GOOGLENET else stage.max_zoom
    return Scale(ceil(stage.image_size * margin), squeeze=False, cut=False)


def validation_scale(image_size: int, crop: CropType) -> Scale:
    """Return the scale of the squares in validation and prediction."""
    return Scale(image_size, squeeze=crop is CropType.NO, cut=True)


def read_at(path: Path, scales: Sequence[Scale]) -> list[NDArray[np.uint8]]:
    """Read a photo at several scales, each RGB (H, W, 3), with as few decodings as possible."""
    decoded: dict[int, Image.Image] = {}
    fitted = []
    for scale in scales:
        reduction = reduction_of(path, DETAIL * scale.edge)
        if reduction not in decoded:
            decoded[reduction] = read_photo(path, reduction)
        try:
            fitted.append(np.asarray(scale.fit(decoded[reduction])))
        except MemoryError:
            raise UnreadablePhoto("too large for the memory") from None
    return fitted


def _middle(photo: Image.Image) -> Image.Image:
    """Leave out the far ends of a narrow photo: a thin strip, enlarged, would fill the memory."""
    left, top = (max(0, side // 2 - 4 * min(photo.size)) for side in photo.size)
    if left == top == 0:
        return photo
    return photo.crop((left, top, photo.width - left, photo.height - top))
