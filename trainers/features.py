"""What an epoch passes through the network: squares, or the features of a body that is frozen."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from trainers.backbone import Network
from trainers.data.augment import draw_order
from trainers.data.loader import (
    Batch,
    Photos,
    fixed_batches,
    slices,
    training_batches,
    validation_batches,
)
from trainers.data.manifest import Split
from trainers.device import Compute
from trainers.schedule import Augmentation, CropType, Stage, Train

_KEPT = 4  # sets of features: training and validation of two stages
_BATCH_SIZE = 64

Model = nn.Module
"""A network, or its head alone."""


_DIGESTS: WeakKeyDictionary[Network, str] = WeakKeyDictionary()
"""Of frozen bodies: each stage has a network of its own, and no epoch changes such a body."""


class Inputs:
    """Gives each stage its batches, and what they are to pass through.

    While the whole body is frozen, validation photos always have the same features, and so have
    training photos that nothing changes at random: these are computed once, and the head alone
    trains on them. The latest sets are kept, as many trials begin with the same body.
    """

    def __init__(self, photos: Photos, compute: Compute) -> None:
        self._photos = photos
        self._compute = compute
        self._kept: dict[Any, Batch] = {}

    def training(
        self, network: Network, stage: Stage, micro_batch: int | None, **place: int
    ) -> tuple[Model, Iterable[Batch]]:
        """Give an epoch of training: see `training_batches`.

        With a `micro_batch`, a body that is frozen is shown that many photos at once.
        """
        if not (_body_is_frozen(stage) and _looks_the_same(stage)):
            return self._whole(network), training_batches(self._photos, stage, **place)
        features, labels = self._once(
            network, stage, micro_batch, "windows", lambda alike: fixed_batches(self._photos, alike)
        )
        order = torch.from_numpy(draw_order(len(labels), **place)).to(labels.device)
        batches = (order[part] for part in slices(len(order), stage.batch_size))
        return network.head, ((features[batch], labels[batch]) for batch in batches)

    def validation(
        self, network: Network, stage: Stage, micro_batch: int | None
    ) -> tuple[Model, Iterable[Batch]]:
        """Give a pass of validation: see `validation_batches`, and `training`."""
        if not _body_is_frozen(stage):
            return self._whole(network), validation_batches(self._photos, stage)
        return network.head, [self.features(network, stage, Split.VALID, micro_batch)]

    def features(
        self,
        network: Network,
        stage: Stage,
        split: Split,
        micro_batch: int | None,
        *,
        mirrored: bool = False,
    ) -> Batch:
        """Return what a frozen body makes of photos as validation shows them, and their labels.

        `mirrored` shows their mirror images instead.
        """

        def shown(alike: Stage) -> Iterator[Batch]:
            for squares, labels in validation_batches(self._photos, alike, split):
                yield (squares.flip(-1) if mirrored else squares), labels

        return self._once(network, stage, micro_batch, (split, mirrored), shown)

    def _whole(self, network: Network) -> Model:
        if not self._compute.compiled:
            return network
        return cast("Model", torch.compile(network))

    def _once(
        self,
        network: Network,
        stage: Stage,
        micro_batch: int | None,
        what: object,
        shown: Callable[[Stage], Iterator[Batch]],
    ) -> Batch:
        """Return the features of `what` is `shown`, computed if they are not among the kept."""
        if network not in _DIGESTS:
            _DIGESTS[network] = _digest(network)
        key = what, stage.image_size, stage.crop, _DIGESTS[network], micro_batch
        if key not in self._kept:
            # In batches of one size, as that may change the last bit: of whatever stage they were
            # computed for, features are the same.
            batches = shown(replace(stage, batch_size=_BATCH_SIZE))
            while len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = self._pooled(network, batches, micro_batch)
        return self._kept[key]

    # Not inference_mode: what it makes cannot be trained on.
    @torch.no_grad()
    def _pooled(self, network: Network, batches: Iterator[Batch], micro_batch: int | None) -> Batch:
        features, labels = [], []
        for squares, truth in batches:
            with self._compute.autocast():
                features += [
                    network.features(some).float()
                    for some in torch.split(squares, micro_batch or len(squares))
                ]
            labels.append(truth)
        return torch.cat(features), torch.cat(labels)


def _body_is_frozen(stage: Stage) -> bool:
    return stage.frozen == 1 or stage.train is Train.PROBE


def _looks_the_same(stage: Stage) -> bool:
    """Whether every epoch shows a photo with the same pixels."""
    window = stage.crop is CropType.NO or (stage.crop is CropType.CENTER and stage.max_zoom == 1)
    return window and stage.augmentation is Augmentation.NONE


def _digest(network: Network) -> str:
    """Give what stands for a body: its kind, for one's weights may fit another, and its weights."""
    kind: Any = network.body.pretrained_cfg
    digest = hashlib.sha256(f"{kind['architecture']} {kind['mean']} {kind['std']}".encode())
    for name, value in network.body.state_dict().items():
        digest.update(name.encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(value: Tensor) -> bytes:
    return bytes(value.detach().cpu().contiguous().numpy().tobytes())
