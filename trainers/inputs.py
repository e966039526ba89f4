"""The inputs of an epoch and their model: squares, or activations of frozen layers."""

from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from trainers.allowance import usable_memory
from trainers.backbone import Network
from trainers.batch_count import BatchCount
from trainers.compiling import Compiler
from trainers.cut import Cut, cut_of
from trainers.data.arrays import Array, ArrayKind, filled
from trainers.data.augment import on_device
from trainers.data.batches import slices
from trainers.data.loader import (
    MEMORY_SHARE,
    Batch,
    FoldPhotos,
    Photos,
    judged_at_once,
    training_batches,
    validation_batches,
    view_batches,
)
from trainers.data.manifest import Split
from trainers.data.passes import Indices, draw_passes
from trainers.device import Compute, has_own_memory, processor
from trainers.mirrored import MirroredPairs, judging
from trainers.schedule import Augmentation, CropType, Stage, Train

_KEPT = 4
"""Cached arrays: of training and validation of two stages, for each fold."""

_TOGETHER = 16
"""Batch size of frozen layers, for which activations stay in a CPU's cache."""

_READ = 64
"""Rows, or squares, that are read at a time where nothing is trained."""

_VARYING = ("max_zoom", "augmentation", "erasing", "views")
"""Fields of a stage that make views, beside image size and crop."""

Model = nn.Module
"""A network, or its trained part."""

_CUTS: WeakKeyDictionary[Network, tuple[Any, Cut | None]] = WeakKeyDictionary()
"""Cut networks and their parts; not in `Inputs`, which are sent to other processes."""


class Inputs:
    """Each stage's batches, and the model for them.

    The activations of frozen layers are constant for validation photos, for training photos without
    random changes, and for a stage's `views`. They are computed once, and only the rest of the
    network is trained on them. They are stored in the photos' cache, for all trials and processes;
    without room there, in memory (`memory` bytes), and else recomputed in each epoch. The results
    are bit-identical.
    """

    def __init__(self, photos: Photos, compute: Compute, *, memory: int | None = None) -> None:
        self._photos = photos
        self._objective = photos.manifest.kind.objective
        self._compute = compute
        share = int(MEMORY_SHARE * usable_memory() / photos.sharers)
        self._memory = share if memory is None else memory
        self._kept: dict[ArrayKind, Tensor | None] = {}
        self._held: set[ArrayKind] = set()  # in memory
        self._on_device = True
        self._compiler = Compiler()
        self._whole = self  # computes and caches the arrays

    def of_fold(self, fold: int) -> "Inputs":
        """Return the same for a fold's photos; activations of all photos are computed once."""
        found = copy(self)
        found._photos = FoldPhotos(self._photos, fold)
        return found

    @property
    def photos(self) -> Photos:
        """The photos that are shown."""
        return self._photos

    def begin(self) -> None:
        """Begin a stage, whose networks are compiled again."""
        if self._compute.compiled:
            self._compiler.begin()

    @property
    def not_compiled(self) -> str:
        """Why networks of this stage could not be compiled; else ""."""
        return self._compiler.refused

    def keep_on_device(self, *, kept: bool) -> None:
        """Set whether photos and arrays may be stored on a GPU, or only in memory here."""
        self._photos.keep_on_device(kept=kept)
        if kept != self._on_device and has_own_memory(self._photos.device):
            self._kept.clear()
        self._on_device = kept

    def training(
        self,
        network: Network,
        stage: Stage,
        micro_batch: int | None,
        progress: BatchCount | None = None,
        **place: int,
    ) -> tuple[Model, Iterable[Batch]]:
        """Return an epoch of training: see `training_batches`.

        With a `micro_batch`, frozen layers process at most that many photos at once. Computing an
        array first counts in `progress`, but not among the returned batches.
        """
        cut = self._cut(network, stage)
        if cut is None or not (stage.views or _looks_the_same(stage)):
            return self._compiled(network), training_batches(self._photos, stage, **place)
        shown = self._shown(cut, stage, Split.TRAIN, _together(micro_batch), windows=True)
        values = self._whole._array(shown, progress)
        if values is None:
            batches = training_batches(self._photos, stage, **place)
            return self._tail(cut), self._anew(shown, batches)
        passes = draw_passes(self._photos.manifest.targets(Split.TRAIN), stage, **place)
        batch_rows = (
            (photos, views % shown.views)
            for each in passes
            for photos, views in zip(each.photos, each.views, strict=True)
        )
        return self._tail(cut), self._read(shown, Split.TRAIN, values, batch_rows)

    def validation(
        self,
        network: Network,
        stage: Stage,
        micro_batch: int | None,
        progress: BatchCount | None = None,
    ) -> tuple[Model, Iterable[Batch]]:
        """Return a pass of validation: see `validation_batches`, and `training`.

        With the stage's `tta`, photos are evaluated together with their mirror images.
        """
        cut = self._cut(network, stage)
        if cut is None:
            model = judging(self._compiled(network), tta=stage.tta, objective=self._objective)
            return model, validation_batches(self._photos, stage)
        plain = self._validated(cut, stage, micro_batch, progress)
        if not stage.tta:
            return self._tail(cut), plain
        mirrored = self._validated(cut, stage, micro_batch, progress, mirrored=True)
        pairs = (
            (torch.stack([values, other], 1), labels)
            for (values, labels), (other, _) in zip(plain, mirrored, strict=True)
        )
        return MirroredPairs(self._tail(cut), self._objective), pairs

    def _validated(
        self,
        cut: Cut,
        stage: Stage,
        micro_batch: int | None,
        progress: BatchCount | None,
        *,
        mirrored: bool = False,
    ) -> Iterator[Batch]:
        """Return the front's activations of the validation photos."""
        shown = self._shown(cut, stage, Split.VALID, _together(micro_batch), mirrored=mirrored)
        values = self._whole._array(shown, progress)  # not in the mode of the caller
        if values is None:
            return self._anew(shown, replace(shown, photos=self._photos).batches())
        every = np.arange(len(self._photos.manifest.of_split(Split.VALID)))
        in_order = ((every[part], 0 * every[part]) for part in slices(len(every), _READ))
        return self._read(shown, Split.VALID, values, in_order)

    def validation_steps(self, network: Network, stage: Stage) -> int:
        """Count the batches of a pass of validation."""
        if self._cut(network, stage):
            return self.blocks(Split.VALID)
        photos = len(self._photos.manifest.of_split(Split.VALID))
        return len(slices(photos, judged_at_once(stage)))

    def blocks(self, split: Split) -> int:
        """Count the batches in which frozen layers process a split."""
        return len(slices(len(self._photos.manifest.of_split(split)), _READ))

    def features(
        self,
        network: Network,
        stage: Stage,
        split: Split,
        micro_batch: int | None,
        progress: BatchCount | None = None,
        *,
        mirrored: bool = False,
    ) -> Batch:
        """Return a frozen body's features of photos as in validation, and their labels.

        `mirrored` gives those of their mirror images.
        """
        cut = self._cut(network, stage)
        if cut is None or not cut.pooled:
            raise ValueError("features are those of a body that is frozen as a whole")
        photos, device = self._photos, self._photos.device
        # Photos in folds are in both splits: the features of validation serve both.
        of = Split.VALID if photos.whole.manifest.folds else split
        shown = self._shown(cut, stage, of, _together(micro_batch), mirrored=mirrored)
        values = self._whole._array(shown, progress)
        if values is None:
            own = replace(shown, photos=photos, split=split)
            batches = own.counted(progress)
            values = torch.cat([own.rows(squares, self._compute) for squares, _ in batches])
        elif photos is not photos.whole:
            values = values[on_device(torch.from_numpy(photos.rows(split)), values.device)]
        labels = torch.from_numpy(photos.manifest.targets(split))
        return on_device(values, device), on_device(labels, device)

    def _shown(
        self,
        cut: Cut,
        stage: Stage,
        split: Split,
        together: int,
        *,
        windows: bool = False,
        mirrored: bool = False,
    ) -> "_Shown":
        """Return all photos of a split, of all folds, as a stage shows them."""
        return _Shown(
            self._photos.whole, cut, stage, split, together, windows=windows, mirrored=mirrored
        )

    def _cut(self, network: Network, stage: Stage) -> Cut | None:
        """Cut a network once per stage: each has its own network, with a constant front."""
        where = 1.0 if stage.train is Train.PROBE else stage.frozen, stage.image_size
        if _CUTS.get(network, (None, None))[0] != where:
            _CUTS[network] = where, cut_of(network, *where)
        return _CUTS[network][1]

    def _tail(self, cut: Cut) -> Model:
        return cut.tail if cut.pooled else self._compiled(cut.tail)

    def _compiled(self, model: Model) -> Model:
        return self._compiler.compiled(model) if self._compute.compiled else model

    def _read(
        self,
        shown: "_Shown",
        split: Split,
        values: Tensor,
        batches: Iterable[tuple[Indices, Indices]],
    ) -> Iterator[Batch]:
        """Yield the activations of photos, each in one of its views."""
        device, places = self._photos.device, self._photos.rows(split)
        labels = torch.from_numpy(self._photos.manifest.targets(split))
        for photos, views in batches:
            rows = torch.from_numpy(views * shown.count + places[photos])
            kept = values[on_device(rows, values.device)]
            yield shown.cut.restored(on_device(kept, device)), on_device(labels[photos], device)

    def _anew(self, shown: "_Shown", batches: Iterable[Batch]) -> Iterator[Batch]:
        for squares, labels in batches:
            yield shown.cut.restored(shown.rows(squares, self._compute)), labels

    def _array(self, shown: "_Shown", progress: BatchCount | None) -> Tensor | None:
        """Return all rows of a split, from the cache if possible; None without room for them."""
        kind = shown.kind(self._compute)
        if kind not in self._kept:
            while len(self._kept) >= _KEPT * max(1, self._photos.manifest.folds):
                del self._kept[next(iter(self._kept))]
            self._kept[kind] = self._made(kind, shown, progress)
        return self._kept[kind]

    def _made(self, kind: ArrayKind, shown: "_Shown", progress: BatchCount | None) -> Tensor | None:
        cache = self._photos.cache
        found = cache.array(kind, lambda: shown.blocks(self._compute, progress)) if cache else None
        if found is None:
            self._held.intersection_update(self._kept)
            if kind.n_bytes + sum(held.n_bytes for held in self._held) > self._memory:
                return None
            found = filled(kind, shown.blocks(self._compute, progress))
            self._held.add(kind)
        return self._on_gpu(torch.from_numpy(found))

    def _on_gpu(self, values: Tensor) -> Tensor:
        """Move an array to the GPU that uses it, if there is room."""
        device = self._photos.device
        if not (self._on_device and has_own_memory(device)):
            return values
        free = torch.cuda.mem_get_info(device)[0]
        fits = values.nbytes <= MEMORY_SHARE * free / self._photos.device_sharers
        return values.to(device) if fits else values


@dataclass(frozen=True)
class _Shown:
    """The photos of a split as a stage shows them to frozen layers, in batches of `together`.

    They are those of validation, or the `windows` of training.
    """

    photos: Photos
    cut: Cut
    stage: Stage
    split: Split
    together: int
    windows: bool = False
    mirrored: bool = False

    @property
    def count(self) -> int:
        return len(self.photos.manifest.of_split(self.split))

    @property
    def views(self) -> int:
        """Views of each photo: one if all are the same."""
        return self.stage.views if self._varies else 1

    @property
    def _varies(self) -> bool:
        return self.windows and not _looks_the_same(self.stage)

    def kind(self, compute: Compute) -> ArrayKind:
        """Return the array's kind, from everything that its bits depend on."""
        stage = self.stage
        computing = compute.name, compute.deterministic, processor(), torch.get_num_threads()
        content = {
            "manifest": self.photos.manifest.digest,
            "front": self.cut.digest,
            "split": self.split,
            "windows": self.windows,
            "mirrored": self.mirrored,
            "image_size": stage.image_size,
            "crop": stage.crop,
            "views": [getattr(stage, name) for name in _VARYING] if self._varies else [],
            "together": self.together,
            "computing": [*computing, torch.__version__],
        }
        shape = (self.views * self.count, *self.cut.shape)
        return ArrayKind.of(content, shape, self.cut.dtype)

    def blocks(self, compute: Compute, progress: BatchCount | None) -> Iterator[Array]:
        """Yield the array's rows, view by view, in the manifest's order."""
        for view in range(self.views):
            for squares, _ in self.counted(progress, view):
                yield self.rows(squares, compute).cpu().numpy()

    def counted(self, progress: BatchCount | None, view: int = 0) -> Iterator[Batch]:
        """Yield the squares of a view, counting batches in `progress`."""
        batches = self.batches(view)
        return progress.more(batches, len(slices(self.count, _READ))) if progress else batches

    def batches(self, view: int = 0) -> Iterator[Batch]:
        """Yield the squares of a view."""
        alike = replace(self.stage, batch_size=_READ)
        if self.windows:
            return view_batches(self.photos, alike, view)
        return validation_batches(self.photos, alike, self.split)

    def rows(self, squares: Tensor, compute: Compute) -> Tensor:
        """Apply the frozen layers."""
        return self.cut.rows(squares.flip(3) if self.mirrored else squares, compute, self.together)


def _together(micro_batch: int | None) -> int:
    return min(_TOGETHER, micro_batch or _TOGETHER)


def _looks_the_same(stage: Stage) -> bool:
    """Whether every epoch shows a photo with the same pixels."""
    window = stage.crop is CropType.NO or (stage.crop is CropType.CENTER and stage.max_zoom == 1)
    return window and stage.augmentation is Augmentation.NONE and not stage.erasing
