"""Worker processes that decode photos batch by batch, if no cache has room for them."""

from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing import get_context
from multiprocessing.synchronize import Lock
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from trainers import signals
from trainers.allowance import usable_cpus
from trainers.data.room import ROOM
from trainers.data.scale import Scale, read_at
from trainers.spawning import without_main

Request = tuple[Path, Scale]


class Decoders:
    """Worker processes that decode photos on request, as long as this object exists.

    Their number is one of `sharers` parts of this machine's CPUs.
    """

    def __init__(self, sharers: int = 1) -> None:
        self._requests = _Requests()
        workers = max(1, usable_cpus() // sharers)
        begin = partial(_begin, workers * sharers, get_context("spawn").Lock())
        self._loader = DataLoader(
            _Decoded(),
            batch_sampler=self._requests,
            num_workers=workers,
            collate_fn=list,
            persistent_workers=True,
            multiprocessing_context="spawn",  # a fork of a process with threads may hang
            worker_init_fn=begin,
        )

    def batches(self, requests: Sequence[list[Request]]) -> Iterator[list[Tensor]]:
        """Yield the photos of each batch of requests, uint8 (H, W, 3) each."""
        self._requests.batches = requests
        with signals.held_back(), without_main():  # the first time, this starts the workers
            decoded = iter(self._loader)
        for photos in decoded:
            yield [torch.from_numpy(photo) for photo in photos]


def _begin(workers: int, lock: Lock, _worker: int) -> None:
    ROOM.share(workers, lock)
    signals.obey_the_parent_alone()  # an epoch may end even if a search is stopped


class _Decoded(Dataset[NDArray[np.uint8]]):
    def __getitem__(self, request: Request) -> NDArray[np.uint8]:
        path, scale = request
        return read_at(path, [scale])[0].copy()  # writable, as torch wants it


class _Requests(Sampler[list[Request]]):
    batches: Sequence[list[Request]] = ()

    def __iter__(self) -> Iterator[list[Request]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)
