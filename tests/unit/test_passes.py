"""Passes over the training photos: how many, in which order, and of classes made alike."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.tiny_training import noise
from trainers.data.augment import draw_numbers, draw_order
from trainers.data.batches import passes_of
from trainers.data.loader import Photos, training_batches, training_steps
from trainers.data.passes import Pass, draw_passes
from trainers.schedule import Augmentation, Balance, Stage

PLACE = {"seed": 3, "position": 1, "epoch": 2}
UNEVEN = np.repeat(np.arange(3), (20, 3, 7))


def stage(**fields: Any) -> Stage:
    """Return a stage of 16 pixels in batches of 4."""
    return Stage(**{"image_size": 16, "batch_size": 4, **fields})


def shown(found: Pass) -> NDArray[np.int64]:
    """Return the photos of a pass, in their order."""
    return np.concatenate(found.photos)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    """Make 10 photos to train on and 4 to validate."""
    return Photos(noise(tmp_path_factory.mktemp("photos"), 10, 4))


@pytest.mark.parametrize(
    ("count", "min_steps", "passes"),
    [(10, 1, 1), (10, 3, 1), (10, 4, 2), (10, 6, 2), (10, 7, 3), (9, 4, 2), (2, 5, 5)],
)
def test_an_epoch_takes_at_least_so_many_steps(count: int, min_steps: int, passes: int) -> None:
    """With as few passes as are enough, of batches in which no photo is alone."""
    mine = stage(min_steps=min_steps)
    found = draw_passes(np.zeros(count, np.int64), mine, **PLACE)
    assert passes_of(mine, count) == len(found) == passes
    assert sum(len(each.photos) for each in found) >= min_steps
    assert sum(len(each.photos) for each in found[:-1]) < min_steps
    for each in found:
        assert sorted(shown(each)) == list(range(count))
        assert min(len(batch) for batch in each.photos) > 1


def test_the_first_pass_is_an_epoch_of_one_pass() -> None:
    """Whatever `min_steps` is, an epoch begins with the order and the numbers of its place."""
    one, *_ = draw_passes(UNEVEN, stage(), **PLACE)
    first, *others = draw_passes(UNEVEN, stage(min_steps=20), **PLACE)
    assert shown(one).tolist() == shown(first).tolist() == draw_order(30, **PLACE).tolist()
    orders = {shown(each).tobytes() for each in (first, *others)}
    assert len(orders) == len(others) + 1 == 3
    tables = [draw_numbers(stage(), 30, **PLACE, nth=nth) for nth in range(3)]
    assert (tables[0] == draw_numbers(stage(), 30, **PLACE)).all()
    assert len(np.unique(tables)) > 0.99 * np.size(tables)


def test_passes_are_numbered_through_the_stage() -> None:
    """Epoch after epoch, without a gap: which view of a photo is shown goes by it."""
    epochs = [draw_passes(UNEVEN, stage(min_steps=20), seed=0, position=0, epoch=e) for e in (0, 1)]
    passes = [each for epoch in epochs for each in epoch]
    assert [each.number for each in passes] == list(range(6))
    assert [each.nth for each in passes] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("balance", Balance)
def test_all_passes_are_seen_and_counted(photos: Photos, balance: Balance) -> None:
    """So many batches come out as were promised, and no square comes twice."""
    mine = stage(min_steps=7, augmentation=Augmentation.SIDE_ON, balance=balance)
    batches = list(training_batches(photos, mine, **PLACE))
    assert len(batches) == training_steps(photos, mine) == 9
    squares = torch.cat([batch for batch, _ in batches])
    assert len({square.numpy().tobytes() for square in squares}) == 30


@pytest.mark.parametrize("balance", Balance)
def test_the_size_of_batches_changes_no_draw(photos: Photos, balance: Balance) -> None:
    """In batches of another size, each pass shows the same squares with the same labels."""
    fields = {"augmentation": Augmentation.TOP_DOWN, "max_zoom": 1.2, "balance": balance}
    epochs = []
    for batch_size in (10, 5, 4, 2):
        mine = stage(batch_size=batch_size, min_steps=2 * -(-10 // batch_size), **fields)
        batches = list(training_batches(photos, mine, **PLACE))
        epochs.append([torch.cat(part) for part in zip(*batches, strict=True)])
    for squares, labels in epochs[1:]:
        assert torch.equal(squares, epochs[0][0])
        assert torch.equal(labels, epochs[0][1])


def test_classes_are_shown_equally_often() -> None:
    """In each pass as many photos as there are, of each class a third."""
    for epoch in range(5):
        (found,) = draw_passes(UNEVEN, balanced(), seed=0, position=0, epoch=epoch)
        assert np.bincount(UNEVEN[shown(found)]).tolist() == [10, 10, 10]
        assert sorted(np.concatenate(found.rows)) == list(range(30))


def balanced(**fields: Any) -> Stage:
    """Return a stage that samples its classes equally often."""
    return stage(balance="sampling", **fields)


@pytest.mark.parametrize("counts", [(20, 3, 7), (1, 1, 5), (4, 4, 4), (2, 9, 0)])
def test_a_class_s_photos_are_used_as_evenly_as_can_be(counts: tuple[int, ...]) -> None:
    """After any number of passes, classes and a class's photos differ by one at most."""
    labels = np.repeat(np.arange(3), counts)
    np.random.default_rng(0).shuffle(labels)
    seen = np.zeros(len(labels), int)
    for epoch in range(6):
        for each in draw_passes(labels, balanced(min_steps=6), seed=0, position=0, epoch=epoch):
            assert len(shown(each)) == len(labels)
            seen += np.bincount(shown(each), minlength=len(labels))
            classes = [seen[labels == label] for label in np.unique(labels)]
            assert all(np.ptp(members) <= 1 for members in classes)
            assert np.ptp([members.sum() for members in classes]) <= 1


def test_sampling_depends_on_its_place_alone() -> None:
    """Seed, stage and epoch each draw other photos; the same place draws the same."""
    places = list(itertools.product(range(2), repeat=3))
    orders = [
        shown(draw_passes(UNEVEN, balanced(), seed=s, position=p, epoch=e)[0]).tobytes()
        for s, p, e in (*places, *places)
    ]
    assert orders[:8] == orders[8:]
    assert len(set(orders)) == 8


def test_no_balance_but_sampling_changes_the_order() -> None:
    """Class weights in the loss leave each photo at its place."""
    one, other = (draw_passes(UNEVEN, stage(balance=b), **PLACE)[0] for b in ("none", "loss"))
    assert shown(one).tolist() == shown(other).tolist()
