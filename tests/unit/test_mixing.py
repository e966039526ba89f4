"""Mixup and cutmix: what is mixed with what, by which share, and what the loss is."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.data.loader import Batch
from trainers.device import choose_compute
from trainers.loop import Step, train_epoch
from trainers.mixing import Mixing
from trainers.schedule import Stage

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

LABELS = torch.arange(6) % 3


def mixing(**fields: Any) -> Mixing:
    """Return the mixing of a stage of three classes."""
    found = Mixing.of(Stage(image_size=16, **fields), 3)
    assert found
    return found


def plain(*shape: int) -> Tensor:
    """Make six inputs of one value each, which tells them apart."""
    return torch.arange(6.0).view(6, *[1] * len(shape)).expand(6, *shape).clone()


def test_without_an_alpha_nothing_is_mixed() -> None:
    """A stage that says neither has no mixing at all."""
    assert Mixing.of(Stage(image_size=16), 3) is None


@pytest.mark.parametrize("shape", [(3, 16, 16), (8, 4, 4), (10,), (5, 7)])
def test_mixup_mixes_neighbours_by_the_share_of_their_labels(shape: tuple[int, ...]) -> None:
    """Squares, activations, tokens and features alike; labels are mixed by the same share."""
    torch.manual_seed(0)
    for _ in range(10):
        mixed, shares = mixing(mixup=1.0)(plain(*shape), LABELS)
        assert mixed.shape == (6, *shape)
        values = mixed.flatten(1)
        assert torch.equal(values, values[:, :1].expand_as(values))
        # Photo 1 is mixed with photo 0, and so has its own share as its value.
        share = values[1, 0].item()
        own, other = functional.one_hot(LABELS, 3), functional.one_hot(LABELS.roll(1), 3)
        assert torch.allclose(shares, share * own + (1 - share) * other, atol=1e-6)
        before = plain(1).roll(1, 0)
        assert torch.allclose(values[:, :1], share * plain(1) + (1 - share) * before, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 16, 16), (8, 4, 4)])
def test_cutmix_puts_in_a_rectangle(shape: tuple[int, ...]) -> None:
    """All of a square is of one photo or its neighbour; labels go by the areas."""
    torch.manual_seed(0)
    for _ in range(10):
        mixed, shares = mixing(cutmix=1.0)(plain(*shape), LABELS)
        foreign = mixed[1, 0] == 0
        assert torch.equal(mixed[1], (~foreign).float().expand(shape))
        rows, columns = foreign.any(1), foreign.any(0)
        assert torch.equal(foreign, rows[:, None] & columns[None])
        assert shares[1, 1].item() == pytest.approx(1 - foreign.float().mean().item(), abs=1e-6)
        assert torch.allclose(shares.sum(1), torch.ones(6))


def test_of_both_each_batch_gets_one_by_chance() -> None:
    """Some batches are blended, some cut, about as many of each."""
    torch.manual_seed(0)
    both = mixing(mixup=1.0, cutmix=1.0)
    blended = []
    for _ in range(200):
        mixed, _ = both(plain(3, 16, 16), LABELS)
        blended.append(bool(((mixed[1] != 0) & (mixed[1] != 1)).any()))
    assert np.mean(blended) == pytest.approx(0.5, abs=0.1)


def test_the_seed_decides() -> None:
    """Seeded alike, batches are mixed alike; what was given is not changed in place."""
    found: list[Batch] = []
    given = plain(3, 16, 16)
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(mixing(mixup=0.5, cutmix=0.5)(given, LABELS))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][1], found[2][1])
    assert torch.equal(given, plain(3, 16, 16))


def test_squares_stay_in_their_layout() -> None:
    """Channels last goes in, channels last comes out."""
    given = torch.rand(6, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    for way in ({"mixup": 1.0}, {"cutmix": 1.0}):
        mixed, _ = mixing(**way)(given, LABELS)
        assert mixed.is_contiguous(memory_format=torch.channels_last)


def test_cutmix_of_what_has_no_rectangles_is_refused() -> None:
    """Of a wholly frozen body by the stage itself; of tokens, in a sentence."""
    with pytest.raises(ValueError, match="cutmix must be 0 where the whole body is frozen, got 1;"):
        Stage(image_size=16, frozen=1.0, cutmix=1.0)
    with pytest.raises(ValueError, match=r"cutmix needs inputs with a height and a width, got \(6"):
        mixing(cutmix=1.0)(plain(4, 8), LABELS)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("micro_batch", [None, 4])
def test_the_loss_is_of_the_mixed_labels(precision: str, micro_batch: int | None) -> None:
    """Mixed once for the whole batch, then split; smoothed on top."""
    torch.manual_seed(0)
    network, squares = nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), torch.rand(6, 3, 16, 16)
    how = Step(mix=mixing(mixup=1.0), label_smoothing=0.1, micro_batch=micro_batch)
    torch.manual_seed(1)
    mixed, shares = mixing(mixup=1.0)(squares, LABELS)
    expected = functional.cross_entropy(network(mixed), shares, label_smoothing=0.1).item()
    compute = choose_compute("cpu", precision)
    optimizer = torch.optim.SGD([{"params": list(network.parameters()), "peak_lr": 0.0}], lr=0.0)
    torch.manual_seed(1)
    loss = train_epoch(
        network, [(squares, LABELS)], optimizer, compute.scaler(), lambda _: 0.0, compute, how
    )
    assert loss == pytest.approx(expected, rel=1e-5 if precision == "fp32" else 0.02)
