"""Photos dealt into stratified folds, for choosing by some and scoring by the others. Pure."""

import numpy as np
from numpy.typing import NDArray

from study.statistics.groups import Groups, labels_of

Labels = NDArray[np.int64]
"""The true class of each photo, shape (n,)."""

Mask = NDArray[np.bool_]


def deal(labels: Labels, folds: int, seed: int, groups: Groups | None = None) -> NDArray[np.int64]:
    """Return each photo's fold, shape (n,): each class's photos are dealt out evenly, shuffled.

    Classes take turns by their first photo in the shuffle, so that their order does not matter.
    Groups are dealt as wholes, each by the majority class of its photos.
    """
    if groups is not None:
        return deal(labels_of(labels, groups), folds, seed)[groups]
    counts = np.bincount(labels)
    folds = min(folds, max(2, int(counts[counts > 0].min())))
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    names, first = np.unique(labels[shuffled], return_index=True)
    turn = np.zeros(len(counts), np.int64)
    turn[names] = first
    order = shuffled[np.argsort(turn[labels[shuffled]], kind="stable")]
    dealt = np.empty(len(labels), np.int64)
    dealt[order] = np.arange(len(labels)) % folds
    return dealt


def folds_of(labels: Labels, folds: int, seed: int, groups: Groups | None = None) -> list[Mask]:
    """Split the photos into folds, each a mask (n,); see `deal`."""
    dealt = deal(labels, folds, seed, groups)
    return [dealt == fold for fold in np.unique(dealt)]


def deal_rounds(
    labels: Labels,
    rounds: int,
    folds: int,
    rng: np.random.Generator,
    groups: Groups | None = None,
) -> NDArray[np.int64]:
    """Return each photo's fold in each round, shape (rounds, n); all rounds are dealt at once."""
    if groups is not None:
        return deal_rounds(labels_of(labels, groups), rounds, folds, rng)[:, groups]
    found = np.empty((rounds, len(labels)), np.int64)
    dealt = 0
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        places = rng.permuted(np.tile(np.arange(len(mine)), (rounds, 1)), axis=1)
        found[:, mine] = (places + dealt) % folds
        dealt += len(mine)
    return found
