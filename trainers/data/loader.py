"""Batches of photos: each photo is decoded once a scale, kept in memory, and changed by key."""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trainers.data.augment import apply_change, draw_change
from trainers.data.manifest import Manifest, Photo, Split
from trainers.data.photo import read_photo
from trainers.schedule import CropType, Stage

Batch = tuple[Tensor, Tensor]
"""Squares of values in 0..1, float32 (B, 3, S, S), and labels, int64 (B,)."""

GOOGLENET_MARGIN = 2.0  # its windows are small: keep detail to sample from


@dataclass(frozen=True)
class Scale:
    """How a photo is kept: short side `edge`; squeezed into a square; cut to the square."""

    edge: int
    squeeze: bool
    cut: bool

    def fit(self, photo: Image.Image) -> Image.Image:
        """Scale a photo (antialiased). A small one is enlarged only where it is cut."""
        if self.cut and not self.squeeze:
            photo = _middle(photo)
        width, height = photo.size
        scale = self.edge / min(width, height)
        if scale > 1 and not self.cut:
            return photo
        sides = (self.edge, self.edge) if self.squeeze else (width * scale, height * scale)
        fitted = photo.resize((round(sides[0]), round(sides[1])), Image.Resampling.BILINEAR)
        if not self.cut:
            return fitted
        left, top = (fitted.width - self.edge) // 2, (fitted.height - self.edge) // 2
        return fitted.crop((left, top, left + self.edge, top + self.edge))


def _middle(photo: Image.Image) -> Image.Image:
    """Leave out the far ends of a narrow photo: a thin strip, enlarged, would fill the memory."""
    left, top = (max(0, side // 2 - 4 * min(photo.size)) for side in photo.size)
    if left == top == 0:
        return photo
    return photo.crop((left, top, photo.width - left, photo.height - top))


def training_scale(stage: Stage) -> Scale:
    """Give the scale that a stage's random windows are sampled from."""
    margin = GOOGLENET_MARGIN if stage.crop is CropType.GOOGLENET else stage.max_zoom
    return Scale(ceil(stage.image_size * margin), squeeze=stage.crop is CropType.NO, cut=False)


def validation_scale(image_size: int, crop: CropType) -> Scale:
    """Give the scale of the squares that validation and prediction show the network."""
    return Scale(image_size, squeeze=crop is CropType.NO, cut=True)


class Photos:
    """The photos of a manifest as uint8 (3, H, W), kept in memory up to `limit` bytes.

    What does not fit is decoded anew each time. Safe to use from several threads.
    """

    def __init__(self, manifest: Manifest, limit: int | None = None) -> None:
        self.manifest = manifest
        self.limit = _quarter_of_memory() if limit is None else limit
        self._kept: dict[Scale, dict[str, Tensor]] = {}
        self._used = 0
        self._lock = threading.Lock()

    def begin(self, stage: Stage) -> None:
        """Make room for a stage: drop what only other scales need, if memory is scarce."""
        if self._used <= self.limit / 2:
            return
        wanted = {training_scale(stage), validation_scale(stage.image_size, stage.crop)}
        self._kept = {scale: kept for scale, kept in self._kept.items() if scale in wanted}
        self._used = sum(photo.nbytes for kept in self._kept.values() for photo in kept.values())

    def get(self, photo: Photo, scale: Scale) -> Tensor:
        """Give one photo at a scale."""
        kept = self._kept.get(scale, {}).get(photo.path)
        if kept is not None:
            return kept
        fitted = scale.fit(read_photo(self.manifest.root / photo.path))
        pixels = torch.from_numpy(np.ascontiguousarray(np.array(fitted).transpose(2, 0, 1)))
        with self._lock:
            kept_here = self._kept.setdefault(scale, {})
            if photo.path not in kept_here and self._used + pixels.nbytes <= self.limit:
                kept_here[photo.path] = pixels
                self._used += pixels.nbytes
        return pixels


def training_batches(
    photos: Photos, stage: Stage, *, seed: int, position: int, epoch: int
) -> Iterator[Batch]:
    """Yield an epoch's batches; order and changes depend on (seed, stage, epoch, photo) alone."""
    members, scale = photos.manifest.of_split(Split.TRAIN), training_scale(stage)
    # A photo's index is below their number: no photo's changes draw from the order's stream.
    order = np.random.default_rng((seed, position, epoch, len(members))).permutation(len(members))
    batches = [order[batch] for batch in _slices(len(order), stage.batch_size)]
    for indices, pixels in _read_ahead(photos, members, scale, batches):
        squares = []
        for index, photo in zip(indices, pixels, strict=True):
            key = (seed, position, epoch, int(index))
            change = draw_change(stage, photo.shape[2], photo.shape[1], key)
            squares.append(apply_change(photo, change, stage.image_size))
        yield torch.stack(squares), torch.tensor([members[index].label for index in indices])


def training_steps(photos: Photos, stage: Stage) -> int:
    """Count the batches of an epoch."""
    return len(_slices(len(photos.manifest.of_split(Split.TRAIN)), stage.batch_size))


def validation_batches(photos: Photos, stage: Stage, split: Split = Split.VALID) -> Iterator[Batch]:
    """Yield the photos of a split in the order of the manifest, unchanged but for size."""
    members = photos.manifest.of_split(split)
    scale = validation_scale(stage.image_size, stage.crop)
    everything = np.arange(len(members))
    batches = [everything[batch] for batch in _slices(len(members), max(stage.batch_size, 64))]
    for indices, pixels in _read_ahead(photos, members, scale, batches):
        labels = torch.tensor([members[index].label for index in indices])
        yield torch.stack(pixels).float() / 255, labels


def _slices(count: int, size: int) -> list[slice]:
    # A lone last photo joins the batch before it: BatchNorm cannot learn from one sample.
    starts = [start for start in range(0, count, size) if start == 0 or count - start > 1]
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], count], strict=True)]


def _read_ahead(
    photos: Photos, members: Sequence[Photo], scale: Scale, batches: Sequence[NDArray[np.int64]]
) -> Iterator[tuple[NDArray[np.int64], list[Tensor]]]:
    """Give each batch of indices with its pixels, read while the batch before it is in use.

    The threads only read: were torch to compute in them, its own threads would fight for cores.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:

        def begin(indices: NDArray[np.int64]) -> list[Future[Tensor]]:
            return [pool.submit(photos.get, members[index], scale) for index in indices]

        coming = begin(batches[0])
        for place, indices in enumerate(batches):
            ready = coming
            coming = begin(batches[place + 1]) if place + 1 < len(batches) else []
            yield indices, [future.result() for future in ready]


def _quarter_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
