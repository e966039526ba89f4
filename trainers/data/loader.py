"""Batches of a stage: decoded pixels, augmented by key, prepared one batch ahead."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.allowance import usable_memory
from trainers.data.augment import apply_changes, draw_changes, draw_numbers, draw_view, on_device
from trainers.data.batches import passes_of, slices
from trainers.data.cache import Cache, Wanted, wanted_by
from trainers.data.decode_workers import Decoders
from trainers.data.decoding import decoded, estimated_bytes
from trainers.data.manifest import Manifest, Split
from trainers.data.passes import Indices, draw_passes
from trainers.data.pixels import Pixels, in_memory
from trainers.data.scale import Scale, training_scale, validation_scale
from trainers.device import has_own_memory, use_one_thread
from trainers.schedule import Stage

Batch = tuple[Tensor, Tensor]
"""A network's inputs, such as squares of 0..1, float32 (B, 3, S, S); and labels, int64 (B,)."""

View = tuple[Split, Scale]
T = TypeVar("T")

MEMORY_SHARE = 0.25
"""The share of free memory, or of the GPU's, that decoded photos may take."""

CPU = torch.device("cpu")


class Photos:
    """A manifest's photos at the scales of its stages, made into squares on `device`.

    They are stored in the `cache`; without one, or without room there, in memory; if that has no
    room either (`memory` bytes), worker processes decode them for each batch. On a GPU, memory is
    the GPU's, unless they must not be stored there. `sharers` processes share the machine,
    `device_sharers` of them the device (by default all). The results are the same.
    """

    def __init__(
        self,
        manifest: Manifest,
        cache: Cache | None = None,
        device: torch.device = CPU,
        *,
        memory: int | None = None,
        sharers: int = 1,
        device_sharers: int | None = None,
    ) -> None:
        self.manifest = manifest
        self.device = device
        self.cache = cache
        self.sharers = sharers
        self.device_sharers = device_sharers or sharers
        self._given = memory
        self._on_device = has_own_memory(device)
        self._memory = {self._on_device: self._share()}
        self._held: dict[View, _Held] = {}
        self._sizes: dict[View, int] = {}
        self._decoders: Decoders | None = None

    def batches(
        self, split: Split, scale: Scale, order: Sequence[Indices], in_use: Wanted = ()
    ) -> Iterator[list[Tensor]]:
        """Return for each array of indices the photos, uint8 (H, W, 3) each.

        In memory, photos that are also `in_use` are dropped only for larger ones: otherwise two
        splits that fit singly but not together would both be decoded in each epoch.
        """
        held = self._find((split, scale), in_use)
        if held is not None:
            return ([held.photo(index) for index in indices.tolist()] for indices in order)
        self._decoders = self._decoders or Decoders(self.sharers)
        paths = [self.manifest.root / photo.path for photo in self.manifest.of_split(split)]
        requests = [[(paths[index], scale) for index in indices] for indices in order]
        return self._decoders.batches(requests)

    def rows(self, split: Split) -> Indices:
        """Return the indices of a split's photos in `whole`."""
        return np.arange(len(self.manifest.of_split(split)))

    @property
    def whole(self) -> "Photos":
        """The photos that these are part of: without folds, themselves."""
        return self

    def _find(self, view: View, in_use: Wanted) -> "_Held | None":
        if view in self._held:
            return self._held[view]
        mapped = self.cache.get(*view) if self.cache else None
        if mapped is not None and not self._on_device:
            return _Held(mapped)  # the system keeps in memory what it has room for
        if view not in self._sizes:
            known = mapped.values.nbytes if mapped else estimated_bytes(self.manifest, *view)
            self._sizes[view] = known
        if not self._make_room(self._sizes[view], in_use):
            return _Held(mapped) if mapped else None
        pixels = mapped or self._decoded(*view)
        self._held[view] = _Held(pixels, self.device if self._on_device else CPU)
        return self._held[view]

    def keep_on_device(self, *, kept: bool) -> None:
        """Set whether photos may be stored in a GPU's memory, or only in this machine's."""
        kept = kept and has_own_memory(self.device)
        if kept != self._on_device:
            self._held.clear()
            self._on_device = kept
            self._memory.setdefault(kept, self._share())

    def _share(self) -> int:
        """Return how many bytes photos may take where they are stored."""
        if self._given is not None:
            return self._given
        if self._on_device:
            free = torch.cuda.mem_get_info(self.device)[0]
            return int(MEMORY_SHARE * free / self.device_sharers)
        return int(MEMORY_SHARE * usable_memory() / self.sharers)

    def _decoded(self, split: Split, scale: Scale) -> Pixels:
        photos = decoded(self.manifest, split, [scale], sharers=self.sharers)
        return in_memory(each[0] for each in photos)

    def _make_room(self, size: int, in_use: Wanted) -> bool:
        """Drop the oldest photos that are not in use; return whether there is room."""
        stays = [view for view in self._held if view in in_use and self._sizes[view] >= size]
        memory = self._memory[self._on_device]
        if self._bytes(stays) + size > memory:
            return False
        goes = [view for view in self._held if view not in stays]
        goes.sort(key=lambda view: view in in_use)
        while self._bytes(self._held) + size > memory:
            del self._held[goes.pop(0)]
        return True

    def _bytes(self, views: Iterable[View]) -> int:
        return sum(self._held[view].values.nbytes for view in views)


class FoldPhotos(Photos):
    """A fold of photos: its own are for validation, those of all others for training.

    They are stored once for all folds.
    """

    def __init__(self, whole: Photos, fold: int) -> None:
        self.manifest = whole.manifest.fold(fold)
        self.device, self.cache = whole.device, whole.cache
        self.sharers, self.device_sharers = whole.sharers, whole.device_sharers
        self._whole = whole
        inside = whole.manifest.fold_of == fold
        self._rows = {Split.TRAIN: np.flatnonzero(~inside), Split.VALID: np.flatnonzero(inside)}

    def batches(
        self, split: Split, scale: Scale, order: Sequence[Indices], in_use: Wanted = ()
    ) -> Iterator[list[Tensor]]:
        """Return for each array of indices the photos; see `Photos.batches`."""
        rows = self._rows[split]
        return self._whole.batches(split, scale, [rows[indices] for indices in order], in_use)

    def keep_on_device(self, *, kept: bool) -> None:
        """Set where photos may be stored; see `Photos.keep_on_device`."""
        self._whole.keep_on_device(kept=kept)

    def rows(self, split: Split) -> Indices:
        """Return the indices of a split's photos in `whole`."""
        return self._rows[split]

    @property
    def whole(self) -> Photos:
        """The photos of all folds."""
        return self._whole


class _Held:
    """Decoded photos in memory, in a mapped file or on a GPU."""

    def __init__(self, pixels: Pixels, device: torch.device = CPU) -> None:
        self.values = torch.from_numpy(pixels.values).to(device)
        self._starts, self._sizes = pixels.starts.tolist(), pixels.sizes.tolist()

    def photo(self, index: int) -> Tensor:
        """Return a photo (H, W, 3)."""
        height, width = self._sizes[index]
        return self.values[self._starts[index] : self._starts[index + 1]].view(height, width, 3)


def training_batches(
    photos: Photos, stage: Stage, *, seed: int, position: int, epoch: int
) -> Iterator[Batch]:
    """Yield an epoch's batches; order and changes depend on (seed, stage, epoch, photo) alone."""
    place = {"seed": seed, "position": position, "epoch": epoch}
    labels = photos.manifest.targets(Split.TRAIN)
    passes = draw_passes(labels, stage, **place)
    batches = [indices for each in passes for indices in each.photos]

    def drawn() -> Iterator[NDArray[np.float32]]:
        # As in the views that arrays are made from, whatever the fold.
        count, rows = len(photos.whole.manifest.of_split(Split.TRAIN)), photos.rows(Split.TRAIN)
        views = [draw_view(stage, count, view)[rows] for view in range(stage.views)]
        every = np.stack(views) if views else None
        for each in passes:
            if every is not None:
                yield from (every[at] for at in zip(each.views, each.photos, strict=True))
            else:
                numbers = draw_numbers(stage, len(labels), **place, nth=each.nth)
                yield from (numbers[rows] for rows in each.rows)

    return _changed(photos, stage, batches, drawn())


def view_batches(photos: Photos, stage: Stage, view: int) -> Iterator[Batch]:
    """Yield one view of the training photos, in the order of the manifest."""
    count = len(photos.manifest.of_split(Split.TRAIN))
    numbers = draw_view(stage, count, view)
    batches = _in_order(count, stage)
    return _changed(photos, stage, batches, (numbers[indices] for indices in batches))


def _changed(
    photos: Photos,
    stage: Stage,
    batches: Sequence[Indices],
    numbers: Iterator[NDArray[np.float32]],
) -> Iterator[Batch]:
    labels = torch.from_numpy(photos.manifest.targets(Split.TRAIN))

    def prepare(indices: Indices, found: tuple[list[Tensor], NDArray[np.float32]]) -> Batch:
        members, drawn = found
        sizes = np.array([photo.shape[:2] for photo in members])
        squares = apply_changes(members, draw_changes(stage, sizes, drawn), stage, photos.device)
        return squares, on_device(labels[indices], photos.device)

    members = photos.batches(Split.TRAIN, training_scale(stage), batches, wanted_by([stage]))
    return _prepared(zip(members, numbers, strict=True), batches, prepare)


def training_steps(photos: Photos, stage: Stage) -> int:
    """Count the batches of an epoch."""
    count = len(photos.manifest.of_split(Split.TRAIN))
    return passes_of(stage, count) * len(slices(count, stage.batch_size))


def validation_batches(photos: Photos, stage: Stage, split: Split = Split.VALID) -> Iterator[Batch]:
    """Yield the photos of a split in the order of the manifest, unchanged but for size."""
    labels = torch.from_numpy(photos.manifest.targets(split))
    batches = _in_order(len(labels), stage)

    def prepare(indices: Indices, members: list[Tensor]) -> Batch:
        squares = on_device(torch.stack(members), photos.device).permute(0, 3, 1, 2)
        return squares.float().div_(255), on_device(labels[indices], photos.device)

    scale = validation_scale(stage.image_size, stage.crop)
    members = photos.batches(split, scale, batches, wanted_by([stage]))
    return _prepared(members, batches, prepare)


def _in_order(count: int, stage: Stage) -> list[Indices]:
    return [np.arange(count)[part] for part in slices(count, judged_at_once(stage))]


def judged_at_once(stage: Stage) -> int:
    """Return how many photos a batch of validation has."""
    return max(stage.batch_size, 64)


def _prepared(
    found: Iterator[T],
    batches: Sequence[Indices],
    prepare: Callable[[Indices, T], Batch],
) -> Iterator[Batch]:
    """Prepare each batch while the previous one is in use."""
    coming = (prepare(indices, some) for indices, some in zip(batches, found, strict=True))
    with ThreadPoolExecutor(1, initializer=use_one_thread) as pool:
        following = pool.submit(next, coming, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, coming, None)
            yield batch
