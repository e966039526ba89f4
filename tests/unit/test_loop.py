"""One epoch, one validation: parts of batches, what is frozen, when the device is waited for."""

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.tiny_training import CPU, network_of, stage
from trainers import loop
from trainers.backbone import Network, blocks_of, build_network, frozen_blocks
from trainers.checkpoint import TrainingState
from trainers.data.loader import Batch
from trainers.device import Compute, choose_compute
from trainers.errors import TrainingDiverged
from trainers.loop import Step, Waited, evaluate, make_optimizer, train_epoch
from trainers.schedule import Schedule


def plain_network() -> nn.Sequential:
    """Build a network without BatchNorm, so that photos do not depend on each other."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))


def plain_batches(*counts: int) -> list[Batch]:
    """Make batches of tiny squares with one of three labels."""
    torch.manual_seed(1)
    return [(torch.rand(count, 3, 2, 2), torch.arange(count) % 3) for count in counts]


def plain_optimizer(network: nn.Module) -> torch.optim.Optimizer:
    """Make an optimizer whose steps are the gradients."""
    groups = [{"params": list(network.parameters()), "lr": 1.0, "peak_lr": 1.0}]
    return torch.optim.SGD(groups)


def squares_and_labels(count: int = 6) -> Batch:
    """Make a batch of photos for a tiny network with two classes."""
    torch.manual_seed(2)
    return torch.rand(count, 3, 24, 24), torch.arange(count) % 2


def train(
    network: nn.Module,
    batches: list[Batch],
    optimizer: torch.optim.Optimizer | None = None,
    compute: Compute = CPU,
    **options: Any,
) -> float:
    """Train one epoch at full learning rate; return the loss."""
    optimizer, how = optimizer or plain_optimizer(network), Step(**options)
    return train_epoch(network, batches, optimizer, compute.scaler(), lambda _: 1.0, compute, how)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("count", "micro_batch"), [(7, 3), (8, 4), (9, 2), (5, 4), (6, 6), (4, 9)])
def test_parts_give_the_step_of_the_whole_batch(
    count: int, micro_batch: int, smoothing: float
) -> None:
    """Their gradients add up to those of the mean over the batch, also where parts are uneven."""
    networks = [plain_network(), plain_network()]
    batches = plain_batches(count, count)
    losses = [
        train(network, batches, micro_batch=size, label_smoothing=smoothing)
        for network, size in zip(networks, (None, micro_batch), strict=True)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    began = plain_network().state_dict()
    for name, whole in networks[0].state_dict().items():
        assert not torch.allclose(whole, began[name], atol=1e-4), name
        assert torch.allclose(whole, networks[1].state_dict()[name], atol=1e-6), name


def test_no_part_is_a_lone_photo() -> None:
    """Whatever the batch, its parts are as small as was asked for, or hold at most three photos."""
    network, sizes = plain_network(), list[int]()
    network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    for count in range(2, 30):
        for micro_batch in range(2, 12):
            sizes.clear()
            train(network, plain_batches(count), micro_batch=micro_batch)
            assert sum(sizes) == count
            assert min(sizes) >= 2
            assert max(sizes) <= max(micro_batch, 3)
            assert max(sizes) - min(sizes) <= 1


def test_batch_norm_learns_from_parts() -> None:
    """A batch that does not divide by its parts trains a network that refuses a lone photo."""
    network = network_of()
    loss = train(network, [squares_and_labels(7)], make_optimizer(network, stage()), micro_batch=3)
    assert math.isfinite(loss)


def test_the_loss_is_the_mean_over_photos() -> None:
    """A small last batch counts by its photos, with learning rates of 0 as in validation."""
    network, batches = plain_network(), plain_batches(5, 2)
    optimizer = plain_optimizer(network)
    loss = train_epoch(network, batches, optimizer, CPU.scaler(), lambda _: 0.0, CPU)
    _, expected = evaluate(network, batches, CPU)
    assert loss == pytest.approx(expected, abs=1e-6)


def test_each_step_has_its_learning_rate() -> None:
    """Each group's own one, times what the step's number is mapped to."""
    network, seen = plain_network(), list[list[float]]()
    optimizer = plain_optimizer(network)
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 3.0, "peak_lr": 3.0})
    network.register_forward_pre_hook(
        lambda *_: seen.append([group["lr"] for group in optimizer.param_groups])
    )
    batches = plain_batches(2, 2, 2)
    train_epoch(network, batches, optimizer, CPU.scaler(), lambda step: 0.5**step, CPU)
    assert seen == [[1.0, 3.0], [0.5, 1.5], [0.25, 0.75]]


@pytest.mark.parametrize("micro_batch", [2, 3, 4, 100])
def test_parts_predict_as_the_whole_batch(micro_batch: int) -> None:
    """Validation in parts gives the same probabilities and the same loss."""
    network, batches = network_of().eval(), [squares_and_labels(7), squares_and_labels(4)]
    whole, whole_loss = evaluate(network, batches, CPU)
    parts, parts_loss = evaluate(network, batches, CPU, micro_batch=micro_batch)
    assert parts.labels.tolist() == whole.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 0, 1, 0, 1]
    assert parts.probabilities == pytest.approx(whole.probabilities, abs=1e-6)
    assert parts.probabilities.dtype == np.float32
    assert parts_loss == pytest.approx(whole_loss, abs=1e-6)


@pytest.mark.parametrize("frozen", [0.0, 0.5, 1.0])
def test_what_is_frozen_builds_no_graph(frozen: float) -> None:
    """Nothing is kept for a backward pass through frozen blocks, and they get no gradient."""
    network, graphs = network_of(), list[bool]()
    network.freeze(frozen)
    blocks, still = blocks_of(network.body), len(frozen_blocks(network.body, frozen))
    for part in (*blocks, network.head):
        part.register_forward_hook(lambda *given: graphs.append(given[2].requires_grad))
    train(network, [squares_and_labels()], make_optimizer(network, stage()))
    assert graphs == [index >= still for index in range(len(blocks) + 1)]
    for index, part in enumerate((*blocks, network.head)):
        assert all((p.grad is not None) is (index >= still) for p in part.parameters())


class Waits(TorchDispatchMode):
    """Counts what makes a program wait for its device: numbers and tensors brought to the host."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.count = 0
        for name in ("cpu", "numpy", "tolist"):
            monkeypatch.setattr(Tensor, name, self._counting(getattr(Tensor, name)))

    def _counting(self, method: Any) -> Any:
        def counted(tensor: Tensor, *args: Any, **options: Any) -> Any:
            self.count += 1
            return method(tensor, *args, **options)

        return counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at each operation before it is done."""
        waits = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select")
        self.count += func.overloadpacket.__name__ in waits
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("precision", "optimizer", "micro_batch"),
    [
        *(("fp32", optimizer, parts) for optimizer in ("adamw", "sgd") for parts in (None, 3)),
        ("bf16", "sgd", None),
        ("fp16", "adamw", 3),
        pytest.param("fp16", "sgd", None, marks=pytest.mark.long),
    ],
)
def test_an_epoch_waits_for_its_device_once(
    monkeypatch: pytest.MonkeyPatch, precision: str, optimizer: str, micro_batch: int | None
) -> None:
    """However many batches it has, only the loss at the end is waited for."""
    network, compute = network_of(), choose_compute("cpu", precision)
    of_stage = make_optimizer(network, stage(optimizer=optimizer, weight_decay=0.1))
    for batches in (1, 4):
        with Waits(monkeypatch) as waits:
            train(
                network,
                [squares_and_labels()] * batches,
                of_stage,
                compute,
                label_smoothing=0.1,
                micro_batch=micro_batch,
            )
        monkeypatch.undo()
        assert waits.count == 1


def test_validation_waits_for_its_device_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """More batches are not more to wait for."""
    network, counts = network_of().eval(), []
    for batches in (1, 5):
        with Waits(monkeypatch) as waits:
            evaluate(network, [squares_and_labels()] * batches, CPU, micro_batch=3)
        monkeypatch.undo()
        counts.append(waits.count)
    assert counts[0] == counts[1] <= 6


class Named(TorchDispatchMode):
    """Lists what is computed, by name and type: each a launch on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note one."""
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and not func.is_view:
            self.found.append((func.name(), made.dtype))
        return made


@pytest.mark.parametrize(("micro_batch", "passes"), [(None, 3), (3, 6)])
def test_batches_of_batch_norm_are_counted_once_an_epoch(
    micro_batch: int | None, passes: int
) -> None:
    """Not layer by layer in each step; the count is torch's, and frozen layers count nothing."""
    own, torchs = network_of(seed=0).train(), network_of(seed=0).train()
    for network in (own, torchs):
        network.freeze(0.5)
    batches, listed = [squares_and_labels()] * 3, []
    for network, then in ((own, None), (torchs, lambda _: None)):
        torch.manual_seed(3)
        with Named() as named:
            optimizer = make_optimizer(network, stage())
            train(network, batches, optimizer, micro_batch=micro_batch, then=then)
        listed.append(sum(kind is torch.int64 and "add_" in name for name, kind in named.found))
    assert listed[0] == 0 < listed[1]
    mine, theirs = own.state_dict(), torchs.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    counts = {int(mine[name]) for name in mine if name.endswith("num_batches_tracked")}
    assert counts == {0, passes}


def test_activations_that_need_their_input_do_not_copy_it() -> None:
    """In place, torch would copy it first: one launch more for each."""
    schedule = Schedule(backbone="tf_efficientnet_lite0", stages=(stage(),), weights="random")
    network = build_network(schedule, 2, 0).train()
    with Named() as named:
        network(torch.rand(2, 3, 32, 32))
    assert "aten::hardtanh" in {name for name, _ in named.found}
    assert "aten::clone" not in {name for name, _ in named.found}


class Looked(nn.Module):
    """Notes whether a network is applied for inference alone, and what of it has a gradient."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.inference: list[bool] = []
        self.gradients: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        """Note, and apply it."""
        self.inference.append(torch.is_inference_mode_enabled())
        self.gradients.append(sum(p.grad is not None for p in self.network.parameters()))
        found: Tensor = self.network(inputs)
        return found


def test_validation_keeps_nothing_for_gradients() -> None:
    """It is inference alone, in each of its batches."""
    looked = Looked(plain_network().eval())
    evaluate(looked, plain_batches(4, 4), CPU, micro_batch=2)
    assert looked.inference == [True] * 4


def test_gradients_are_added_up_over_parts_alone() -> None:
    """Each step begins without any: only what passes in parts adds to what lies there."""
    looked = Looked(plain_network())
    train(looked, plain_batches(4, 4), plain_optimizer(looked.network))
    assert looked.gradients == [0, 0]
    looked.gradients.clear()
    optimizer = plain_optimizer(looked.network)
    train(looked, plain_batches(4, 4), optimizer, micro_batch=2)
    assert looked.gradients == [0, 4, 0, 4]


def test_what_makes_a_program_wait_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two tests before this one would notice a loss that is looked at in each step."""
    with Waits(monkeypatch) as waits:
        value = torch.ones(2).sum()
        assert waits.count == 0
        value.item()
        value.cpu()
        bool(value > 0)
    assert waits.count == 3


def test_only_waiting_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time from asking for a batch to having it, not the time that it is in use."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    batches = plain_batches(2, 2, 2)

    def slow() -> Iterator[Batch]:
        for batch in batches:
            clock.now += 5
            yield batch
        clock.now += 2

    waited, found = Waited(slow()), []
    for batch in waited:
        clock.now += 100
        found.append(batch)
    assert [id(batch) for batch in found] == [id(batch) for batch in batches]
    assert waited.seconds == 17


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_told(value: float) -> None:
    """In training and in validation, be it in the first batch or in a later one."""
    batches = plain_batches(4, 4)
    batches[1][0][0] = value
    with pytest.raises(TrainingDiverged, match=r"the training loss is (nan|inf); lower the learn"):
        train(plain_network(), batches)
    with pytest.raises(TrainingDiverged, match=r"the validation loss is (nan|inf); lower the"):
        evaluate(plain_network(), batches, CPU)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_norms_and_biases_are_not_decayed(kind: str) -> None:
    """Only matrices are; each parameter that trains is in one group, with its group's rate."""
    network: Network = network_of()
    network.freeze(0.5)
    mine = stage(lrs=(0.1, 0.2, 0.4), weight_decay=0.5, optimizer=kind)
    optimizer = make_optimizer(network, mine)
    rates = {
        id(p): lr
        for lr, group in zip(mine.lrs, network.layer_groups(), strict=True)
        for p in group
        if p.requires_grad
    }
    found = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(id(p) for p, _ in found) == sorted(rates)
    for parameter, group in found:
        assert group["lr"] == group["peak_lr"] == rates[id(parameter)]
        assert group["weight_decay"] == (0.5 if parameter.ndim > 1 else 0.0)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
@pytest.mark.parametrize("steps", [0, 1])
def test_a_step_that_overflows_is_left_out(kind: str, steps: int) -> None:
    """FP16's scale is halved and nothing else happens, be it the first step or a later one."""
    torch.manual_seed(0)
    network, compute = network_of(), choose_compute("cpu", "fp16")
    optimizer, scaler = make_optimizer(network, stage(optimizer=kind)), compute.scaler()
    state = TrainingState(network, optimizer, scaler, history=[])
    weights = list(network.parameters())

    def step(gradient: float) -> None:
        scaler.scale(torch.ones(()))
        for parameter in weights:
            parameter.grad = torch.full_like(parameter, gradient)
        scaler.step(optimizer)
        scaler.update()

    for _ in range(steps):
        step(1.0)
    before, scale = {k: v.clone() for k, v in state.tensors().items()}, scaler.get_scale()
    junk = [torch.full_like(parameter, math.nan) for parameter in weights]
    del junk  # memory that an optimizer may get next
    step(math.inf)
    assert scaler.get_scale() == scale / 2
    after = state.tensors()
    for name, value in after.items():
        assert torch.equal(value, before.get(name, torch.zeros_like(value))), name
