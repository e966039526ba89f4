"""Passes over the training photos of an epoch: which photos, in which order."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.data.augment import draw_first_views, draw_order
from trainers.data.batches import passes_of, slices
from trainers.schedule import Balance, Stage

Indices = NDArray[np.int64]

_SAMPLING = 3
"""The stream of random numbers of balanced sampling, beside those of `augment`."""


@dataclass(frozen=True)
class Pass:
    """One pass over the training photos.

    `number` counts the passes of the stage, `nth` those of the epoch. `photos` are indices of
    training photos, batch by batch, and `rows` their rows of `draw_numbers`: where balanced
    sampling shows a photo twice, each has changes of its own. `views` says which view of each
    photo is shown, where a stage has views.
    """

    number: int
    nth: int
    photos: list[Indices]
    rows: list[Indices]
    views: list[Indices]


def draw_passes(
    labels: NDArray[Any], stage: Stage, *, seed: int, position: int, epoch: int
) -> list[Pass]:
    """Return the passes of an epoch: a pure function of the arguments."""
    passes, found, views = passes_of(stage, len(labels)), [], max(stage.views, 1)
    first = draw_first_views(len(labels), views, seed=seed, position=position)
    for nth in range(passes):
        number = epoch * passes + nth
        rows = draw_order(len(labels), seed=seed, position=position, epoch=epoch, nth=nth)
        order = rows
        if stage.balance is Balance.SAMPLING:
            order = _balanced(labels, number, seed=seed, position=position)[rows]
        parts = slices(len(labels), stage.batch_size)
        shown = (first[rows] + number) % views
        found.append(
            Pass(number, nth, *([of[part] for part in parts] for of in (order, rows, shown)))
        )
    return found


def _balanced(labels: NDArray[np.int64], number: int, *, seed: int, position: int) -> Indices:
    """Choose as many photos as there are, equally many of each class, for a pass of the stage.

    Each class continues in a sequence of its photos, shuffled again each round: after every pass,
    all its photos have been shown equally often, plus or minus one.
    """
    classes, total = np.unique(labels).tolist(), len(labels)
    chosen: list[int] = []
    for index, label in enumerate(classes):
        # Rounded down, the classes' cumulative shares add up to the total.
        first, end = ((n * total + index) // len(classes) for n in (number, number + 1))
        members = np.flatnonzero(labels == label)
        begun, skipped = divmod(first, len(members))
        shuffled = _shuffled(members, begun, seed, position, label)
        chosen += islice(shuffled, skipped, skipped + end - first)
    return np.array(chosen, np.int64)


def _shuffled(members: Indices, begun: int, *place: int) -> Iterator[int]:
    """Yield all photos of a class in endless rounds, each in another order, from a round on."""
    for turn in count(begun):
        # Six numbers, so that no other stream has the same seed.
        random = np.random.default_rng((*place, turn, 0, _SAMPLING))
        yield from random.permutation(members).tolist()
