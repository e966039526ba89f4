"""Layer groups: what is early and late, what is frozen, where dropout acts."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from trainers.backbone import Network, blocks_of, build_network
from trainers.device import choose_compute
from trainers.loop import make_optimizer, train_epoch
from trainers.schedule import Schedule, Stage

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

STAGE = Stage(image_size=32, batch_size=4, lrs=(0.1, 0.1, 0.1), weight_decay=0.1)
BODIES = ["tf_efficientnet_lite0", "resnext50_32x4d", "test_vit", "test_convnext", "test_resnet"]


def build(backbone: str = "test_resnet", hidden: tuple[int, ...] = (8,)) -> Network:
    """Build a network with two classes and random weights."""
    schedule = Schedule(backbone=backbone, stages=(STAGE,), hidden=hidden, weights="random")
    return build_network(schedule, 2, 0)


@pytest.mark.parametrize("backbone", BODIES)
def test_layer_groups_hold_each_parameter_once(backbone: str) -> None:
    """Body-early, body-late and head are disjoint, none is empty, and nothing is left out."""
    network = build(backbone)
    groups = [{id(p) for p in group} for group in network.layer_groups()]
    assert len(groups) == 3
    assert all(groups)
    assert sum(map(len, groups)) == len(groups[0] | groups[1] | groups[2])
    assert groups[0] | groups[1] | groups[2] == {id(p) for p in network.parameters()}
    assert groups[2] == {id(p) for p in network.head.parameters()}
    first = next(network.body.parameters())
    assert id(first) in groups[0]


def test_a_resnext_is_split_between_its_layers_2_and_3() -> None:
    """As in fast.ai, the first half of the blocks is the early group."""
    network = build("resnext50_32x4d")
    early = {id(parameter) for parameter in network.layer_groups()[0]}
    for name, parameter in network.body.named_parameters():
        assert (id(parameter) in early) is not name.startswith(("layer3", "layer4")), name


@pytest.mark.parametrize("frozen", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "test_vit", "test_resnet"])
def test_frozen_groups_stay_as_they_are(backbone: str, frozen: float) -> None:
    """A step changes no weight and no BatchNorm statistic of a frozen group, and all others."""
    network = build(backbone)
    network.freeze(frozen)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    squares, labels = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])
    optimizer, compute = make_optimizer(network, STAGE), choose_compute("cpu")
    train_epoch(
        network,
        [(squares, labels)] * 2,
        optimizer,
        compute.scaler(),
        lambda _: 1.0,
        compute,
    )
    still = {id(p) for group in network.layer_groups()[: int(2 * frozen)] for p in group}
    names = {name for name, p in network.named_parameters() if id(p) in still}
    stems = {name.rpartition(".")[0] for name in names}
    for name, value in network.state_dict().items():
        kept = name in names or (name.rpartition(".")[0] in stems and "running" in name)
        kept = kept or (name.rpartition(".")[0] in stems and "num_batches" in name)
        assert torch.equal(value, before[name]) is kept, name


def test_unfreezing_trains_again() -> None:
    """The next stage may freeze less: what was frozen learns, its statistics too."""
    network = build()
    network.freeze(1.0)
    assert not any(type(m).__name__ == "BatchNorm2d" and m.training for m in network.modules())
    network.freeze(0.0)
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(module.training for module in network.train().modules())


def test_dropout_is_set_site_by_site() -> None:
    """Rates are those of the head's sites in order; another number of rates is a mistake."""
    network = build(hidden=(8, 8))
    network.set_dropout((0.1, 0.2, 0.3))
    assert [m.p for m in network.head if isinstance(m, nn.Dropout)] == [0.1, 0.2, 0.3]
    with pytest.raises(ValueError, match="shorter"):
        network.set_dropout((0.1,))


@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext", "test_resnet"])
def test_any_image_size_goes_through(backbone: str) -> None:
    """Also a transformer, whose size is built in, takes the sizes of all stages."""
    network = build(backbone).eval()
    for size in (32, 48, 64, 160):
        assert network(torch.rand(2, 3, size, size)).shape == (2, 2)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "test_vit", "test_resnet"])
def test_learning_rates_fall_block_by_block(backbone: str, kind: str) -> None:
    """By `layer_decay` towards the input, times the group's own; the head has all of its own."""
    network = build(backbone)
    mine = replace(STAGE, lrs=(0.1, 0.2, 0.4), layer_decay=0.5, optimizer=kind, weight_decay=0.3)
    rate = {
        parameter: group["peak_lr"]
        for group in make_optimizer(network, mine).param_groups
        for parameter in group["params"]
    }
    assert rate.keys() == set(network.parameters())
    blocks, early = blocks_of(network.body), set(network.layer_groups()[0])
    inside = {parameter for block in blocks for parameter in block.parameters()}
    for depth, block in enumerate(blocks):
        for parameter in block.parameters():
            own = 0.1 if parameter in early else 0.2
            assert rate[parameter] == pytest.approx(own * 0.5 ** (len(blocks) - 1 - depth))
    first = 0.1 * 0.5 ** (len(blocks) - 1)
    outside = [parameter for parameter in network.body.parameters() if parameter not in inside]
    assert bool(outside) is (backbone == "test_vit")
    assert all(rate[parameter] == pytest.approx(first) for parameter in outside)
    assert {rate[parameter] for parameter in network.head.parameters()} == {0.4}


def test_without_layer_decay_groups_are_as_they_were() -> None:
    """Two of each layer group, in its order: so a state keeps its place in a file."""
    network = build()
    found = [group["params"] for group in make_optimizer(network, STAGE).param_groups]
    expected = [
        [parameter for parameter in group if (parameter.ndim > 1) is decayed]
        for group in network.layer_groups()
        for decayed in (True, False)
    ]
    assert [[id(p) for p in group] for group in found] == [[id(p) for p in g] for g in expected]
