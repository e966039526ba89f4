"""A network cut in two: together its parts are the network, also in what they learn."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.tiny_training import CPU, network_of
from trainers.backbone import Network, blocks_of
from trainers.cut import Cut, cut_of

SIZE = 40
SHARES = (0.2, 0.35, 0.5, 0.8, 1.0)
TOGETHER = 4


def squares(count: int = TOGETHER) -> Tensor:
    """Make squares of noise."""
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def cut_and_network(backbone: str, share: float, *, training: bool = False) -> tuple[Cut, Network]:
    """Build a network, freeze a share of it, and cut it there."""
    network = network_of(backbone=backbone)
    network.train(training).freeze(share)
    found = cut_of(network, share, SIZE)
    assert found is not None
    return found, network


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "tf_efficientnet_lite0"])
def test_the_parts_one_after_the_other_are_the_network(backbone: str, share: float) -> None:
    """At any boundary between blocks, but for the rounding of what is kept."""
    cut, network = cut_and_network(backbone, share)
    with torch.no_grad():
        rows = cut.rows(squares(), CPU, TOGETHER)
        found, expected = cut.tail(cut.restored(rows)), network(squares())
    assert tuple(rows.shape[1:]) == cut.shape
    assert rows.dtype == (torch.float32 if share == 1 else torch.float16)
    assert torch.allclose(found, expected, atol=5e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("share", [0.35, 0.8])
@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext"])
def test_a_step_on_activations_learns_what_a_full_step_learns(backbone: str, share: float) -> None:
    """The gradients are those of the whole network with the same frozen front, in training mode."""
    cut, network = cut_and_network(backbone, share, training=True)
    truth = torch.arange(TOGETHER) % 2
    for dropout in network.head:
        if isinstance(dropout, nn.Dropout):
            dropout.p = 0.0
    functional.cross_entropy(network(squares()), truth).backward()  # type: ignore[no-untyped-call]
    expected = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    with torch.no_grad():
        inputs = cut._applied(squares())  # not rounded: BatchNorm enlarges what that changes
    functional.cross_entropy(cut.tail(inputs), truth).backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    whole = torch.cat([each.flatten() for each in expected.values()])
    difference = torch.cat([(found[name] - expected[name]).flatten() for name in expected])
    assert difference.norm() < 1e-4 * whole.norm()


def test_the_tail_shares_weights_and_the_mode_of_the_network() -> None:
    """It is no copy: a step changes the network, and the network's mode is the tail's."""
    cut, network = cut_and_network("test_resnet", 0.5)
    learning = {id(p) for p in network.parameters() if p.requires_grad}
    assert {id(parameter) for parameter in cut.tail.parameters()} == learning
    for mode in (True, False):
        network.train(mode)
        norms = [m for m in cut.tail.modules() if isinstance(m, nn.BatchNorm2d)]
        assert {norm.training for norm in norms if norm.weight.requires_grad} == {mode}


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_rows_do_not_depend_on_what_they_are_computed_with(share: float) -> None:
    """Alone, in any company and in any order: to the last bit the same."""
    cut, _ = cut_and_network("tf_efficientnet_lite0", share)
    every = cut.rows(squares(7), CPU, TOGETHER)
    order = torch.tensor([6, 0, 3, 5, 2])
    assert torch.equal(cut.rows(squares(7)[order], CPU, TOGETHER), every[order])
    assert torch.equal(cut.rows(squares(7)[4:5], CPU, TOGETHER), every[4:5])


def test_a_body_whose_blocks_do_not_follow_each_other_is_not_cut() -> None:
    """A transformer adds positions behind its first layer; where all is frozen, none is needed."""
    network = network_of(backbone="test_vit")
    assert len(blocks_of(network.body)) > 2
    assert cut_of(network, 0.5, 160) is None
    assert cut_of(network, 0.0, 160) is None
    whole = cut_of(network, 1.0, 160)
    assert whole is not None
    assert whole.pooled


def test_fronts_are_told_apart() -> None:
    """By where they end and by their weights; what comes after does not count."""
    cut, network = cut_and_network("test_resnet", 0.5)
    longer = cut_of(network, 0.8, SIZE)
    assert longer is not None
    with torch.no_grad():
        next(blocks_of(network.body)[-1].parameters()).add_(1)
    same = cut_of(network, 0.5, SIZE)
    with torch.no_grad():
        next(network.body.parameters()).add_(1)
    other = cut_of(network, 0.5, SIZE)
    assert same is not None
    assert other is not None
    assert cut.digest == same.digest
    assert len({cut.digest, longer.digest, other.digest}) == 3
