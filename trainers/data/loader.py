"""Batches of a stage: from decoded pixels, each photo changed by key, prepared one ahead."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.data.augment import (
    apply_changes,
    draw_changes,
    draw_numbers,
    draw_order,
    on_device,
)
from trainers.data.cache import Cache
from trainers.data.decoding import decoded, estimated_bytes
from trainers.data.manifest import Manifest, Split
from trainers.data.pixels import Pixels, in_memory
from trainers.data.scale import Scale, training_scale, validation_scale
from trainers.data.streaming import Decoders
from trainers.device import use_one_thread
from trainers.schedule import Stage

Batch = tuple[Tensor, Tensor]
"""What a network takes, such as squares of 0..1, float32 (B, 3, S, S); and labels, int64 (B,)."""

Indices = NDArray[np.int64]
T = TypeVar("T")

MEMORY_SHARE = 0.25
"""Of this machine's memory, or of what is free on its GPU: what decoded photos may take."""

CPU = torch.device("cpu")


class Photos:
    """A manifest's photos at the scales of its stages, made into squares on `device`.

    They lie in the `cache`; without one, or where it has no room, in memory; where that has no
    room either (`memory` bytes), worker processes decode them anew for each batch. On a GPU,
    memory is the GPU's. `sharers` processes share it. What comes out is the same.
    """

    def __init__(
        self,
        manifest: Manifest,
        cache: Cache | None = None,
        device: torch.device = CPU,
        *,
        memory: int | None = None,
        sharers: int = 1,
    ) -> None:
        self.manifest = manifest
        self.device = device
        self._cache = cache
        self._memory = (
            int(MEMORY_SHARE * _memory_of(device) / sharers) if memory is None else memory
        )
        self._held: dict[tuple[Split, Scale], _Held] = {}
        self._decoders: Decoders | None = None

    def batches(
        self, split: Split, scale: Scale, order: Sequence[Indices]
    ) -> Iterator[list[Tensor]]:
        """Give for each array of indices the photos, uint8 (H, W, 3) each."""
        held = self._find(split, scale)
        if held is not None:
            return ([held.photo(index) for index in indices.tolist()] for indices in order)
        self._decoders = self._decoders or Decoders()
        paths = [self.manifest.root / photo.path for photo in self.manifest.of_split(split)]
        requests = [[(paths[index], scale) for index in indices] for indices in order]
        return self._decoders.batches(requests)

    def _find(self, split: Split, scale: Scale) -> "_Held | None":
        if (split, scale) in self._held:
            return self._held[split, scale]
        mapped = self._cache.get(split, scale) if self._cache else None
        if mapped is not None and self.device.type != "cuda":
            return _Held(mapped)  # the system keeps in memory what it has room for
        size = mapped.values.nbytes if mapped else estimated_bytes(self.manifest, split, scale)
        if not self._has_room(size):
            return _Held(mapped) if mapped else None
        pixels = mapped or in_memory(photos[0] for photos in decoded(self.manifest, split, [scale]))
        self._held[split, scale] = _Held(pixels, self.device if self.device.type == "cuda" else CPU)
        return self._held[split, scale]

    def _has_room(self, size: int) -> bool:
        """Drop what was decoded first, until there is room, and say whether there is."""
        if size > self._memory:
            return False
        while self._used + size > self._memory:
            del self._held[next(iter(self._held))]
        return True

    @property
    def _used(self) -> int:
        return sum(held.values.nbytes for held in self._held.values())


class _Held:
    """Decoded photos in memory, in a mapped file or on a GPU."""

    def __init__(self, pixels: Pixels, device: torch.device = CPU) -> None:
        self.values = torch.from_numpy(pixels.values).to(device)
        self._starts, self._sizes = pixels.starts.tolist(), pixels.sizes.tolist()

    def photo(self, index: int) -> Tensor:
        """Give a photo (H, W, 3)."""
        height, width = self._sizes[index]
        return self.values[self._starts[index] : self._starts[index + 1]].view(height, width, 3)


def training_batches(
    photos: Photos, stage: Stage, *, seed: int, position: int, epoch: int
) -> Iterator[Batch]:
    """Yield an epoch's batches; order and changes depend on (seed, stage, epoch, photo) alone."""
    place = {"seed": seed, "position": position, "epoch": epoch}
    count = len(photos.manifest.of_split(Split.TRAIN))
    order = draw_order(count, **place)
    batches = [order[part] for part in slices(count, stage.batch_size)]
    return _changed(photos, stage, batches, draw_numbers(stage, count, **place))


def fixed_batches(photos: Photos, stage: Stage) -> Iterator[Batch]:
    """Yield the training photos in the order of the manifest, for a stage without chance."""
    count = len(photos.manifest.of_split(Split.TRAIN))
    numbers = draw_numbers(stage, count, seed=0, position=0, epoch=0)
    return _changed(photos, stage, _in_order(count, stage), numbers)


def _changed(
    photos: Photos, stage: Stage, batches: Sequence[Indices], numbers: NDArray[np.float32]
) -> Iterator[Batch]:
    labels = torch.from_numpy(photos.manifest.labels(Split.TRAIN))

    def prepare(indices: Indices, members: list[Tensor]) -> Batch:
        sizes = np.array([photo.shape[:2] for photo in members])
        changes = draw_changes(stage, sizes, numbers[indices])
        squares = apply_changes(members, changes, stage, photos.device)
        return squares, on_device(labels[indices], photos.device)

    return _prepared(photos.batches(Split.TRAIN, training_scale(stage), batches), batches, prepare)


def training_steps(photos: Photos, stage: Stage) -> int:
    """Count the batches of an epoch."""
    return len(slices(len(photos.manifest.of_split(Split.TRAIN)), stage.batch_size))


def validation_batches(photos: Photos, stage: Stage, split: Split = Split.VALID) -> Iterator[Batch]:
    """Yield the photos of a split in the order of the manifest, unchanged but for size."""
    labels = torch.from_numpy(photos.manifest.labels(split))
    batches = _in_order(len(labels), stage)

    def prepare(indices: Indices, members: list[Tensor]) -> Batch:
        squares = on_device(torch.stack(members), photos.device).permute(0, 3, 1, 2)
        return squares.float().div_(255), on_device(labels[indices], photos.device)

    scale = validation_scale(stage.image_size, stage.crop)
    return _prepared(photos.batches(split, scale, batches), batches, prepare)


def slices(count: int, size: int) -> list[slice]:
    """Cut `count` photos into batches."""
    # A lone last photo joins the batch before it: BatchNorm cannot learn from one sample.
    starts = [start for start in range(0, count, size) if start == 0 or count - start > 1]
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], count], strict=True)]


def _in_order(count: int, stage: Stage) -> list[Indices]:
    return [np.arange(count)[part] for part in slices(count, max(stage.batch_size, 64))]


def _prepared(
    members: Iterator[list[Tensor]],
    batches: Sequence[Indices],
    prepare: Callable[[Indices, list[Tensor]], Batch],
) -> Iterator[Batch]:
    """Prepare each batch while the one before it is in use."""
    coming = (prepare(indices, some) for indices, some in zip(batches, members, strict=True))
    with ThreadPoolExecutor(1, initializer=use_one_thread) as pool:
        following = pool.submit(next, coming, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, coming, None)
            yield batch


def _memory_of(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
