"""Grad-CAM: the map lies where the class is, on any kind of backbone, and leaves no trace."""

from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tests.tiny_training import network_of
from trainers.attribution import MIN_SIDE, attribute
from trainers.backbone import Network, empty_network

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

KINDS = {
    "channels first": "test_resnet",
    "channels last inside of its blocks": "test_convnext",
    "channels last": "test_mambaout",
    "tokens after a class token": "test_vit",
}
SIZE, PATCH = 64, 20


def noise(count: int, size: int = SIZE, seed: int = 0) -> NDArray[np.uint8]:
    """Make squares of noise."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def planted(
    count: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Make dim noise with a red (class 0) or green (class 1) patch in a quarter of each square."""
    rng, squares = np.random.default_rng(seed), noise(count, seed=seed) // 4 + 60
    labels, quarters = rng.integers(0, 2, count), rng.integers(0, 4, count)
    for square, label, quarter in zip(squares, labels, quarters, strict=True):
        plant(square, int(label), int(quarter))
    return squares, labels, quarters


def plant(square: NDArray[np.uint8], label: int, quarter: int) -> None:
    """Put the patch of a class into a quarter (top left, top right, bottom left, bottom right)."""
    top, left = (SIZE // 2 * part + 6 for part in divmod(quarter, 2))
    square[top : top + PATCH, left : left + PATCH] = ((230, 20, 20), (20, 230, 20))[label]


@cache
def trained(backbone: str, steps: int = 30) -> Network:
    """Train a tiny network to tell red patches from green ones, wherever they are."""
    network = network_of(backbone=backbone, hidden=()).train()
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    for step in range(steps):
        squares, labels, _ = planted(16, 100 + step)
        pixels = torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255
        loss = nn.functional.cross_entropy(network(pixels), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def shares(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the share of each map's heat that lies in each quarter, (B, 4)."""
    half = SIZE // 2
    parts = maps.reshape(len(maps), 2, half, 2, half).sum(axis=(2, 4)).reshape(len(maps), 4)
    found: NDArray[np.float32] = parts / parts.sum(axis=1, keepdims=True)
    return found


@pytest.mark.long
@pytest.mark.parametrize("backbone", KINDS.values(), ids=KINDS)
def test_the_heat_lies_where_the_class_is(backbone: str) -> None:
    """Where only a planted patch tells the class, most heat lies in its quarter of the photo."""
    squares, labels, quarters = planted(32, seed=0)
    found = shares(attribute(trained(backbone), squares, labels.tolist()))
    assert (found.argmax(axis=1) == quarters).mean() > 0.9  # by chance a quarter of them
    assert found[np.arange(32), quarters].mean() > 0.5


@pytest.mark.parametrize("backbone", ["test_convnext", "test_vit"])
def test_the_map_is_of_the_class_asked_for(backbone: str) -> None:
    """Of a photo with a patch of each class, either class has its heat at its own patch."""
    squares = noise(2) // 4 + 60
    squares[1] = squares[0]
    for square in squares:
        plant(square, label=0, quarter=0)
        plant(square, label=1, quarter=3)
    found = shares(attribute(trained(backbone), squares, [0, 1]))
    assert found.argmax(axis=1).tolist() == [0, 3]


@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        ("test_resnet", 24),
        ("test_resnet", 96),
        ("test_efficientnet", 96),
        ("test_nfnet", 64),
        ("test_byobnet", 33),
        ("test_mambaout", 64),
        ("test_vit2", 48),
        ("test_vit_relpos", 160),
        ("test_coatnet", 160),
        ("deit_tiny_distilled_patch16_224", 96),
    ],
)
def test_each_map_is_as_large_as_its_photo_and_reaches_from_0_to_1(
    backbone: str, size: int
) -> None:
    """Any backbone and size give a float32 map a photo, whose hottest place is 1, or all is 0."""
    torch.manual_seed(0)
    network = empty_network(backbone, (8,), 3).eval()
    maps = attribute(network, noise(5, size), [0, 1, 2, 0, 1], batch_size=2)
    assert (maps.shape, maps.dtype) == ((5, size, size), np.float32)
    assert maps.min() >= 0
    assert set(maps.max(axis=(1, 2)).round(5).tolist()) <= {0.0, 1.0}
    assert maps.any()


def test_a_map_does_not_depend_on_its_neighbours() -> None:
    """In a batch and alone, a photo gets the same map; no photos get none."""
    network, squares = trained("test_convnext"), noise(3)
    together = attribute(network, squares, [0, 1, 0])
    alone = [attribute(network, squares[i : i + 1], [i % 2])[0] for i in range(3)]
    assert together == pytest.approx(np.stack(alone), abs=1e-4)
    assert attribute(network, squares[:0], []).shape == (0, SIZE, SIZE)


def test_what_nothing_speaks_for_stays_dark() -> None:
    """A network whose answer does not depend on the photo gives a map of noughts, not of noise."""
    network = network_of().eval()
    with torch.no_grad():
        for parameter in network.head.parameters():
            parameter.zero_()
    assert not attribute(network, noise(2), [0, 1]).any()


def test_small_photos_get_a_map_that_is_fine_enough() -> None:
    """A map is no coarser than `MIN_SIDE` places a side where a layer has them."""
    network, squares = trained("test_convnext"), noise(1)
    (found,) = attribute(network, squares, [0])
    # Bilinear: where the slope changes is where the places are.
    bends = np.abs(np.diff(found, n=2, axis=0)).sum(axis=1) > 1e-3
    assert bends.sum() >= MIN_SIDE


def test_the_network_is_left_as_it_was() -> None:
    """Modes, gradients, what needs them, weights, statistics and hooks: all as before."""
    network = network_of().train()
    network.freeze(1)
    next(network.head.parameters()).grad = torch.ones_like(next(network.head.parameters()))

    def state() -> list[object]:
        weights = [value.clone() for value in network.state_dict().values()]
        needs = [(p.requires_grad, p.grad is None) for p in network.parameters()]
        modules = [(m.training, len(m._forward_hooks)) for m in network.modules()]
        return [torch.cat([w.float().flatten() for w in weights]).tolist(), needs, modules]

    before = state()
    with torch.no_grad():
        attribute(network, noise(2), [0, 1])
        assert not torch.is_grad_enabled()
    assert state() == before
    with pytest.raises(IndexError):
        attribute(network, noise(1), [7])
    assert state() == before


def test_a_frozen_network_is_explained_alike() -> None:
    """No weight has to want a gradient for the map to be there."""
    network, squares = trained("test_convnext"), noise(2)
    expected = attribute(network, squares, [0, 1])
    network.requires_grad_(False)
    try:
        assert attribute(network, squares, [0, 1]) == pytest.approx(expected)
    finally:
        network.requires_grad_(True)


def test_a_backbone_without_places_is_refused() -> None:
    """A body that gives no grid at any layer is named, in a sentence."""
    network = network_of().eval()
    network.body = nn.Sequential(nn.Flatten(), nn.LazyLinear(96))
    with pytest.raises(ValueError, match="must have a spatial layer to be explained, got Seq"):
        attribute(network, noise(1, 24), [0])
