"""Bodies of LayerNorm (ConvNeXt, ViT): all that a stage can ask of a body works on them."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trainers.backbone import Network, blocks_of, build_network, features_of, frozen_blocks
from trainers.loop import make_optimizer
from trainers.schedule import BatchNorm, Schedule, Stage

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

STAGE = Stage(image_size=64, batch_size=4, lrs=(0.01, 0.02, 0.1), batch_norm=BatchNorm.FROZEN)
BODIES = [
    *("test_vit", "test_convnext"),
    *(
        pytest.param(each, marks=pytest.mark.long)
        for each in ("convnext_atto", "vit_tiny_patch16_224")
    ),
]
"""Two of timm's for tests, and two that people use; all with random weights here."""


def build(backbone: str) -> Network:
    """Build a network with two classes and a linear head."""
    schedule = Schedule(backbone=backbone, stages=(STAGE,), hidden=(), weights="random")
    return build_network(schedule, 2, 0)


def trained(network: Network, size: int, share: float, batch_norm: BatchNorm) -> Network:
    """Take two steps on noise of an image size."""
    network.freeze(share, batch_norm)
    network.train()
    squares = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    optimizer = make_optimizer(network, STAGE)
    torch.manual_seed(0)  # dropout draws here
    for _ in range(2):
        optimizer.zero_grad()
        functional.cross_entropy(network(squares), torch.tensor([0, 1, 0, 1])).backward()
        optimizer.step()
    return network


def weights(network: Network) -> dict[str, Tensor]:
    """Copy a network's tensors."""
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("size", [64, 96])
@pytest.mark.parametrize("backbone", BODIES)
def test_a_stage_trains_at_any_image_size(backbone: str, size: int) -> None:
    """None of the two is the native one of the names that people use; each block learns."""
    network = build(backbone)
    before = weights(network)
    after = weights(trained(network, size, 0.0, BatchNorm.FROZEN))
    assert all(bool(torch.isfinite(value).all()) for value in after.values())
    for block in blocks_of(network.body):
        own = {id(p) for p in block.parameters()}
        names = [name for name, p in network.named_parameters() if id(p) in own]
        assert any(not torch.equal(before[name], after[name]) for name in names)


@pytest.mark.parametrize("backbone", BODIES)
def test_frozen_batch_norm_changes_nothing_where_a_body_has_none(backbone: str) -> None:
    """Two networks trained with it and without it are the same to the last bit."""
    frozen, usual = (weights(trained(build(backbone), 64, 0.0, how)) for how in BatchNorm)
    assert all(torch.equal(frozen[name], usual[name]) for name in usual)


@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("backbone", BODIES)
def test_a_frozen_share_stays_and_the_rest_learns(backbone: str, share: float) -> None:
    """The first blocks, and what lies before them such as positions, keep every bit."""
    network = build(backbone)
    before = weights(network)
    still = {id(p) for block in frozen_blocks(network.body, share) for p in block.parameters()}
    blocks = {id(p) for block in blocks_of(network.body) for p in block.parameters()}
    names = {
        name
        for name, p in network.body.named_parameters(prefix="body")
        if id(p) in still or id(p) not in blocks
    }
    after = weights(trained(network, 64, share, BatchNorm.TRAIN))
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert names
    assert not names & changed
    assert changed


@pytest.mark.parametrize("backbone", BODIES)
def test_learning_rates_rise_with_the_layer_groups(backbone: str) -> None:
    """Each group has parameters of its own, and the rate that the stage gives it."""
    network = build(backbone)
    network.freeze(0.0)
    groups = [{id(p) for p in group} for group in network.layer_groups()]
    assert all(groups)
    assert all(not one & other for one, other in pairwise(groups))
    for group in make_optimizer(network, STAGE).param_groups:
        (place,) = {i for i, ids in enumerate(groups) if {id(p) for p in group["params"]} <= ids}
        assert group["lr"] == STAGE.lrs[place]


@pytest.mark.long
def test_a_body_of_siglip_gives_what_its_attention_pools() -> None:
    """Without its text half, its head is the pooling by attention that its features come from."""
    network = build("vit_base_patch16_siglip_224")
    network.eval()
    assert network.body.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    assert network.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    with torch.inference_mode():
        features = network.features(torch.rand(1, 3, 64, 64))
    assert features.shape == (1, features_of(network.body)) == (1, 768)
    assert any("attn_pool" in name for name, _ in network.body.named_parameters())
