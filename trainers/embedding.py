"""Features of a pretrained backbone, for comparing photos. Imports torch."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import normalize

from trainers.backbone import build_network, features_of
from trainers.packaged import BACKBONE
from trainers.schedule import Schedule, Stage

SIDE = 128
"""Image size: copies are as similar as with 224, in a third of the time."""

_BATCH = 16  # half the time per photo of 64, as activations stay in the CPU's cache


def embed(
    photos: Iterable[NDArray[np.uint8]],
    count: int,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> NDArray[np.float32]:
    """Return the pooled features of `count` photos, each RGB (H, W, 3), as rows of length 1.

    The whole photo is squeezed into a square, as its edges matter as well. Returns (n, F);
    `progress` gets (photos done, of). On the CPU, so that a search's GPUs stay free.
    """
    stages = (Stage(image_size=SIDE, batch_size=_BATCH),)
    with torch.random.fork_rng(devices=[]):  # the head, which is not used, is drawn at random
        network = build_network(Schedule(backbone=BACKBONE, stages=stages), 2, seed=0)
    body = network.eval().to(memory_format=torch.channels_last)
    rows = np.empty((count, features_of(body.body)), np.float32)  # not twice
    done = 0
    with torch.inference_mode():
        for batch in _batches(photos):
            squares = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
            rows[done : done + len(batch)] = normalize(body.features(squares)).numpy()
            done += len(batch)
            progress(done, count)
    return rows


def _batches(photos: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    squares = (
        np.asarray(Image.fromarray(photo).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        for photo in photos
    )
    while batch := list(islice(squares, _BATCH)):
        yield np.stack(batch)
