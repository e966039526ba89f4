"""Mixup and cutmix: a batch mixed with itself, its labels as shares of classes."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2

from trainers.data.loader import Batch
from trainers.schedule import Stage


@dataclass(frozen=True)
class Mixing:
    """Mixes each batch by one of torchvision's methods, chosen at random if there are several.

    Photos are mixed with their neighbours in the batch. The random generator is torch's global one:
    only for the thread that trains, which has seeded it by the epoch's position.
    """

    ways: tuple[v2.Transform, ...]

    @classmethod
    def of(cls, stage: Stage, n_classes: int) -> "Mixing | None":
        """Return a stage's mixing; None if it mixes nothing."""
        ways = []
        if stage.mixup:
            ways.append(v2.MixUp(alpha=stage.mixup, num_classes=n_classes))
        if stage.cutmix:
            ways.append(v2.CutMix(alpha=stage.cutmix, num_classes=n_classes))
        return cls(tuple(ways)) if ways else None

    def __call__(self, inputs: Tensor, labels: Tensor) -> Batch:
        """Mix squares, or activations of frozen blocks; soft labels are (B, classes)."""
        way = self.ways[int(torch.randint(len(self.ways), ()))]
        if inputs.ndim == 4:
            mixed, shares = way(inputs, labels)
            if inputs.is_contiguous(memory_format=torch.channels_last):
                mixed = mixed.contiguous(memory_format=torch.channels_last)
            return mixed, shares
        if isinstance(way, v2.CutMix):
            raise ValueError(
                f"cutmix needs inputs with a height and a width, got {tuple(inputs.shape)} for a "
                "batch; set cutmix or views to 0"
            )
        mixed, shares = way(inputs.flatten(1)[:, :, None, None], labels)
        return mixed.view_as(inputs), shares
