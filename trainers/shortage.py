"""What to do without where a device's memory is short, and for how long."""

from dataclasses import dataclass, replace

import torch

from trainers.device import has_own_memory, memory_within_reach

Place = tuple[str, int]
"""A backbone and an image size."""

_MORE = 1.05
"""By how much more memory has to be within reach before what did not fit is tried again."""


@dataclass(frozen=True)
class Way:
    """How to train: with photos and features `kept` on the device, and `most` photos at a time."""

    kept: bool = True
    most: int | None = None

    def micro_batch(self, batch_size: int) -> int | None:
        """Return how many photos pass at a time; None for a batch as a whole."""
        return self.most if self.most and self.most < batch_size else None


class Shortage:
    """Which ways of training have not fitted into a device's memory, by place.

    First, what is kept on the device is dropped, which changes no number. Then batches pass in
    halves, which changes what BatchNorm sees: so as soon as clearly more memory is within reach, as
    when another process has ended, what did not fit is tried again.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._known: dict[Place, tuple[Way, int | None]] = {}

    def way(self, place: Place) -> Way:
        """Return how to train there, by what is known."""
        way, reach = self._known.get(place, (Way(), None))
        if reach is not None and (memory_within_reach(self._device) or 0) > _MORE * reach:
            del self._known[place]
            return Way()
        return way

    def note(self, place: Place, failed: Way, batch_size: int) -> bool:
        """Note that memory was too short for that way; False if there is no other."""
        most = failed.micro_batch(batch_size) or batch_size
        if failed.kept and has_own_memory(self._device):
            way = replace(failed, kept=False)
        elif most >= 4:
            way = replace(failed, most=most // 2)
        else:
            return False
        self._known[place] = way, memory_within_reach(self._device)
        return True
