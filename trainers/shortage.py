"""How to save memory on a device, and for how long."""

from dataclasses import dataclass, replace

import torch

from trainers.device import has_own_memory, memory_within_reach

Place = tuple[str, int]
"""A backbone and an image size."""

_MORE = 1.05
"""The factor by which available memory must grow before a failed way is tried again."""


@dataclass(frozen=True)
class Way:
    """How to train: with photos and features `kept` on the device, and `most` photos at a time."""

    kept: bool = True
    most: int | None = None

    def micro_batch(self, batch_size: int) -> int | None:
        """Return the micro-batch size; None for whole batches."""
        return self.most if self.most and self.most < batch_size else None


class Shortage:
    """The ways of training that did not fit into a device's memory, by backbone and image size.

    First, data stored on the device are dropped, which does not change results. Then batches are
    halved, which changes BatchNorm's statistics: so as soon as clearly more memory is available, as
    when another process has ended, failed ways are tried again.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._known: dict[Place, tuple[Way, int | None]] = {}

    def way(self, place: Place) -> Way:
        """Return how to train there, as far as known."""
        way, reach = self._known.get(place, (Way(), None))
        if reach is not None and (memory_within_reach(self._device) or 0) > _MORE * reach:
            del self._known[place]
            return Way()
        return way

    def note(self, place: Place, failed: Way, batch_size: int) -> bool:
        """Note that a way did not fit; False if there is no other."""
        most = failed.micro_batch(batch_size) or batch_size
        if failed.kept and has_own_memory(self._device):
            way = replace(failed, kept=False)
        elif most >= 4:
            way = replace(failed, most=most // 2)
        else:
            return False
        self._known[place] = way, memory_within_reach(self._device)
        return True
