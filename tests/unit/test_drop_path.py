"""Stochastic depth: where it acts, how often, and that it leaves no trace."""

from typing import Any

import pytest
import timm
import torch
from timm.layers.drop import DropPath
from torch import nn

from tests.tiny_training import same
from trainers.backbone import Network, build_network
from trainers.schedule import Schedule, Stage

STAGE = Stage(image_size=32, batch_size=8)


def build(backbone: str) -> Network:
    """Build a network of random weights with two classes."""
    return build_network(Schedule(backbone=backbone, weights="random", stages=(STAGE,)), 2, 0)


def rates(body: Any) -> list[float]:
    """Return the rates of a body's places of stochastic depth, as far as they are not 0."""
    return [m.drop_prob for m in body.modules() if isinstance(m, DropPath) and m.drop_prob]


@pytest.mark.parametrize(
    "backbone", ["test_vit", "test_convnext", "resnet18", "vit_tiny_patch16_224"]
)
def test_rates_are_those_of_timm(backbone: str) -> None:
    """From 0 at the first block to the rate at the last, as if the body was created with it."""
    network = build(backbone)
    network.set_drop_path(0.3)
    expected = rates(timm.create_model(backbone, num_classes=0, drop_path_rate=0.3))
    assert rates(network.body) == pytest.approx(expected)
    assert max(expected) == pytest.approx(0.3)


def test_lite0_ends_at_the_rate() -> None:
    """Its blocks are told apart by depth, all the way to the last, be they with a skip or not."""
    network = build("tf_efficientnet_lite0")
    network.set_drop_path(0.15)
    assert rates(network.body) == pytest.approx([0.01 * block for block in range(1, 16)])


@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext", "test_resnet"])
def test_it_acts_in_training_alone_and_can_be_taken_away(backbone: str) -> None:
    """Tensors keep their names; validation, and a later stage without it, see what was before."""
    network, squares = build(backbone).eval(), torch.rand(4, 3, 32, 32)
    for parameter in network.parameters():  # a new ResNet's residual paths give 0
        nn.init.normal_(parameter, std=0.1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    features = network.features(squares)
    network.set_drop_path(0.9)
    assert rates(network.body)
    assert same(network.state_dict(), before)
    assert torch.equal(network.features(squares), features)
    torch.manual_seed(0)
    passes = [network.train().features(squares) for _ in range(2)]
    assert not torch.equal(*passes)
    network.set_drop_path(0.0)
    assert not any(isinstance(module, DropPath) for module in network.modules())
    assert torch.equal(*[network.features(squares) for _ in range(2)])
    network.load_state_dict(before)  # training has moved statistics
    assert torch.equal(network.eval().features(squares), features)


def test_what_is_frozen_drops_nothing() -> None:
    """With all blocks frozen, features in training are those of validation."""
    network, squares = build("test_vit"), torch.rand(4, 3, 32, 32)
    features = network.eval().features(squares)
    network.set_drop_path(0.9)
    network.freeze(1.0)
    assert torch.equal(network.train().features(squares), features)
    network.set_drop_path(0.8)  # in whichever order
    assert torch.equal(network.features(squares), features)


@pytest.mark.long
def test_a_body_without_a_place_ignores_it() -> None:
    """A plain stack of convolutions has no path that could be dropped."""
    network = build("vgg11")
    network.set_drop_path(0.5)
    assert not rates(network.body)
