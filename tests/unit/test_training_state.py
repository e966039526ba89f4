"""The state that training goes on from: written, read and restored to the last bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from storage.predictions import encode
from tests.tiny_training import LABELS, card_of, in_last, metrics_of, network_of, same, stage
from trainers.checkpoint import (
    TrainingState,
    read_training_state,
    save_training_state,
    save_weights,
)
from trainers.device import choose_compute
from trainers.errors import NotOurWeights
from trainers.loop import make_optimizer
from trainers.metrics import EpochMetrics, Evaluation, Metric


def state_of(seed: int, optimizer: str = "adamw", precision: str = "fp16") -> TrainingState:
    """Make the state at the beginning of a stage; with FP16, its gradients are scaled."""
    mine = stage(optimizer=optimizer, weight_decay=0.1)
    network = network_of(seed).to(memory_format=torch.channels_last)
    scaler = choose_compute("cpu", precision).scaler()
    return TrainingState(network, make_optimizer(network, mine), scaler, history=[])


def step(state: TrainingState, squares: Tensor) -> None:
    """Take one step, whatever the loss means."""
    state.optimizer.zero_grad()
    torch.manual_seed(0)
    loss = state.network(squares).square().mean()
    state.scaler.scale(loss).backward()
    state.scaler.step(state.optimizer)
    state.scaler.update()


@pytest.mark.parametrize("best", [None, 7])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_training_state_comes_back_as_it_was(
    optimizer: str, precision: str, best: int | None, tmp_path: Path
) -> None:
    """Weights, optimizer, scaler, best weights and history are restored to the last bit."""
    states = [state_of(seed, optimizer, precision) for seed in (0, 1)]
    squares, path = torch.rand(4, 3, 24, 24), tmp_path / "last.safetensors"
    step(states[0], squares)
    history = [metrics_of(1), metrics_of(2)]
    best_weights = None if best is None else dict(network_of(best).state_dict())
    scaler = states[0].scaler.state_dict()
    save_training_state(path, states[0].tensors(), history, best=best_weights, scaler=scaler)
    states[1].adopt(read_training_state(path, states[1].network, LABELS))
    assert states[1].history == history
    for old, new in zip(history, states[1].history, strict=True):
        assert encode(old.evaluation) == encode(new.evaluation)
        assert old.calibrated(Metric.F1) == new.calibrated(Metric.F1)
    assert (states[1].best is None) is (best_weights is None)
    assert same(states[1].best or {}, best_weights or {})
    for _ in range(2):
        assert same(states[0].tensors(), states[1].tensors())
        assert states[0].scaler.state_dict() == states[1].scaler.state_dict()
        for state in states:
            step(state, squares)


def test_the_scaler_of_fp16_is_gone_on_with(tmp_path: Path) -> None:
    """A scale that overflow has made smaller is not begun with anew."""
    state, other = state_of(0), state_of(1)
    fresh = state.scaler.state_dict()
    step(state, torch.rand(4, 3, 24, 24))
    step(state, torch.full((4, 3, 24, 24), torch.inf))
    found = state.scaler.state_dict()
    assert found["scale"] == fresh["scale"] / 2
    path = tmp_path / "last.safetensors"
    save_training_state(path, state.tensors(), [metrics_of(1)], scaler=found)
    other.adopt(read_training_state(path, other.network, LABELS))
    assert other.scaler.state_dict() == found


def test_a_state_is_restored_from_a_copy() -> None:
    """Whatever has happened to network and optimizer since, they are as they were."""
    state, squares = state_of(0), torch.rand(4, 3, 24, 24)
    began = {name: value.clone() for name, value in state.tensors().items()}
    step(state, squares)
    once = {name: value.clone() for name, value in state.tensors().items()}
    assert once.keys() > began.keys()
    step(state, squares)
    state.restore(once)
    assert same(state.tensors(), once)
    state.restore(began)
    assert same(state.tensors(), began)
    step(state, squares)
    assert same(state.tensors(), once)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_step_that_has_failed_is_taken_again(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should memory end in the midst of FP16's step, nothing of it is in the step after it."""
    states, squares = [state_of(0, optimizer), state_of(0, optimizer)], torch.rand(4, 3, 24, 24)
    began = {name: value.clone() for name, value in states[0].tensors().items()}
    scaler = states[0].scaler.state_dict()

    def fail() -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(states[0].optimizer, "step", fail)
        with pytest.raises(MemoryError):
            step(states[0], squares)
    states[0].restore(began)
    states[0].scaler.load_state_dict(scaler)
    for state in states:
        step(state, squares)
    assert same(states[0].tensors(), states[1].tensors())


def test_a_training_state_of_something_else_is_refused(tmp_path: Path) -> None:
    """Weights without history, the state or the best weights of another network: no error else."""
    mine, other, one = network_of(), network_of(hidden=(9,)), [metrics_of(1)]
    last = tmp_path / "last.safetensors"
    save_weights(last, mine.state_dict(), card_of())
    with pytest.raises(NotOurWeights, match="holds no whole history"):
        read_training_state(last, mine, LABELS)
    for weights, best, history in (
        (other, None, one),
        (mine, other, one),
        (mine, None, []),
    ):
        more = None if best is None else best.state_dict()
        save_training_state(last, in_last(weights), history, best=more)
        with pytest.raises(NotOurWeights, match="holds no training state of this network"):
            read_training_state(last, mine, LABELS)
    save_training_state(last, in_last(mine), one)
    with pytest.raises(NotOurWeights, match="holds no whole history"):
        read_training_state(last, mine, np.zeros(9, np.int64))
    assert read_training_state(last, mine, LABELS).history == one


def ties() -> EpochMetrics:
    """Make an epoch whose answers float16 could not tell."""
    table = np.array([[0.5, 0.50001], [0.50001, 0.5], [0.2, 0.8]], np.float32)
    return replace(metrics_of(1), evaluation=Evaluation(LABELS, table))


def test_last_keeps_of_an_epoch_what_the_database_keeps(tmp_path: Path) -> None:
    """So a row that is written anew from it after a crash is the same row, in half the bytes."""
    path, network = tmp_path / "last.safetensors", network_of()
    save_training_state(path, in_last(network), [ties()])
    (found,) = read_training_state(path, network, LABELS).history
    assert found == ties()
    assert encode(found.evaluation) == encode(ties().evaluation)
    with safetensors.safe_open(path, "pt") as file:
        assert file.get_tensor("probabilities.1").dtype is torch.float16


def test_a_last_of_an_older_encore_is_gone_on_from(tmp_path: Path) -> None:
    """It kept probabilities in float32, and the answers in them."""
    path, network, epoch = tmp_path / "last.safetensors", network_of(), ties()
    save_training_state(path, in_last(network), [epoch])
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del tensors["predicted.1"]
    tensors["probabilities.1"] = torch.from_numpy(epoch.evaluation.probabilities)
    save_file(tensors, path, metadata)
    (found,) = read_training_state(path, network, LABELS).history
    assert found.evaluation.probabilities.tolist() == epoch.evaluation.probabilities.tolist()
    assert encode(found.evaluation) == encode(epoch.evaluation)
