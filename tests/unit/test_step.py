"""What a step may do beside plain descent: clip, weigh classes, tell others."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.data.loader import Batch
from trainers.device import choose_compute
from trainers.errors import TrainingDiverged
from trainers.loop import Step, train_epoch

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other


def network() -> nn.Sequential:
    """Build a network without BatchNorm, so that photos do not depend on each other."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))


def batches(*counts: int) -> list[Batch]:
    """Make batches of tiny squares with one of three labels, of which the last is rare."""
    torch.manual_seed(1)
    return [(torch.rand(n, 3, 2, 2), (torch.arange(n) % 5).clamp(max=2)) for n in counts]


def step(found: nn.Module, given: list[Batch], precision: str = "fp32", **options: Any) -> float:
    """Train by plain gradients, one step a batch, and return the loss."""
    compute = choose_compute("cpu", precision)
    groups = [{"params": list(found.parameters()), "lr": 1.0, "peak_lr": 1.0}]
    optimizer, scaler = torch.optim.SGD(groups), compute.scaler()
    return train_epoch(found, given, optimizer, scaler, lambda _: 1.0, compute, Step(**options))


def change(before: nn.Module, after: nn.Module) -> Tensor:
    """Return by how much all weights have changed, as one row."""
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    return torch.cat([(one - other).detach().flatten() for one, other in pairs])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_the_gradient_s_norm_is_bounded(precision: str, micro_batch: int | None) -> None:
    """A large one is scaled down to the bound, whole, under FP16's scale too; a small one stays."""
    free, clipped, loose = network(), network(), network()
    given: dict[str, Any] = {"precision": precision, "micro_batch": micro_batch}
    step(free, batches(6), **given)
    whole = change(network(), free)
    step(clipped, batches(6), clip_grad=0.01, **given)
    step(loose, batches(6), clip_grad=100.0, **given)
    assert whole.norm() > 0.1
    assert change(network(), clipped).norm() == pytest.approx(0.01, rel=1e-3)
    assert torch.allclose(change(network(), clipped), whole * (0.01 / whole.norm()), atol=1e-5)
    assert torch.allclose(change(network(), loose), whole, atol=1e-5)


def test_a_clipped_step_that_overflows_is_left_out() -> None:
    """An infinite gradient clips nothing to nothing: FP16's step is not taken."""
    found = network()
    with torch.no_grad():
        found[3].weight.mul_(1e30)
    before = {name: value.clone() for name, value in found.state_dict().items()}
    with pytest.raises(TrainingDiverged, match="loss is"):
        step(found, batches(6), "fp16", clip_grad=1.0)
    assert all(torch.equal(value, before[name]) for name, value in found.state_dict().items())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("micro_batch", [None, 2, 3])
def test_classes_count_by_their_weights(smoothing: float, micro_batch: int | None) -> None:
    """The loss is the mean of each photo's times the weight of its class, however it is split."""
    weights, given = torch.tensor([0.5, 2.0, 3.0]), batches(8)
    (squares, labels), found = given[0], network()
    single = [
        functional.cross_entropy(logits, label, label_smoothing=smoothing, reduction="sum")
        for logits, label in zip(found(squares), labels, strict=True)
    ]
    losses = torch.stack(single) * weights[labels]
    if smoothing:  # torch weighs the share of each class by that class
        log = functional.log_softmax(found(squares), 1)
        even = smoothing / 3 * (log * weights).sum(1)
        losses = -(1 - smoothing) * weights[labels] * log[range(8), labels] - even
    options = {"label_smoothing": smoothing, "micro_batch": micro_batch, "class_weights": weights}
    assert step(found, given, **options) == pytest.approx(losses.mean().item(), rel=1e-5)
    soft = network()
    hot = [(squares, functional.one_hot(labels, 3).float())]
    assert step(soft, hot, **options) == pytest.approx(losses.mean().item(), rel=1e-5)
    assert torch.allclose(change(network(), soft), change(network(), found), atol=1e-6)


def test_equal_weights_change_nothing() -> None:
    """Weights of 1 are the plain mean."""
    plain, weighted = network(), network()
    losses = [
        step(plain, batches(6, 4)),
        step(weighted, batches(6, 4), class_weights=torch.ones(3)),
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert torch.allclose(change(network(), plain), change(network(), weighted), atol=1e-6)


def test_each_step_is_told_once_it_was_taken() -> None:
    """In order, with the weights after it."""
    found, told = network(), list[tuple[int, float]]()

    def then(number: int) -> None:
        told.append((number, change(network(), found).norm().item()))

    assert math.isfinite(step(found, batches(4, 4, 4), then=then))
    assert [number for number, _ in told] == [0, 1, 2]
    assert 0 < told[0][1] < told[1][1] < told[2][1]
