"""The moving average of weights: its arithmetic, and where it goes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.tiny_training import CPU, network_of, noise, numbers, same, schedule, stage, tensors
from trainers import finetuner
from trainers.averaging import Average
from trainers.backbone import build_network
from trainers.base import BEST, LAST, StageTask
from trainers.checkpoint import load_network_weights, read_weights
from trainers.checkpointing import Keeper
from trainers.data.loader import Photos, validation_batches
from trainers.data.manifest import Manifest
from trainers.finetuner import Finetuner
from trainers.loop import evaluate


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Make 12 photos to train on and 8 to validate."""
    return noise(tmp_path_factory.mktemp("photos"), 12, 8)


def moved(network: nn.Module) -> None:
    """Change weights, statistics and counters, as a step does."""
    for value in network.state_dict().values():
        value.add_(torch.randn_like(value.float()).to(value.dtype))


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.999])
def test_the_average_is_by_the_formula(decay: float) -> None:
    """Each step weighs 1 - min(decay, (1 + t) / (10 + t)), in BatchNorm's statistics as well."""
    network = network_of()
    average = Average(network, decay)
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    for step in range(20):
        moved(network)
        average.update(network, step)
        share = min(decay, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                value = share * expected[name] + (1 - share) * value
            expected[name] = value.clone()
    for name, value in average.network.state_dict().items():
        assert torch.allclose(value, expected[name], atol=1e-5), name
    assert not average.network.training


def test_late_in_a_stage_it_is_torch_s() -> None:
    """Once the decay is reached, a step is that of torch's `AveragedModel`."""
    network = network_of()
    ours = Average(network, 0.9)
    theirs = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.update_parameters(network)  # it begins with a copy
    for step in range(100, 105):
        moved(network)
        ours.update(network, step)
        theirs.update_parameters(network)
    for found, expected in zip(ours.network.parameters(), theirs.module.parameters(), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)


def begun(manifest: Manifest, folder: Path, **fields: Any) -> Any:
    """Begin a stage of two epochs with a tiny network."""
    folder.mkdir(exist_ok=True)
    mine = schedule(stage(cycle_len=2, crop="center", **fields))
    trainer = Finetuner(manifest, compute=CPU, checkpoint_seconds=0)
    return trainer.train(StageTask(schedule=mine, seed=3, folder=folder))


def test_the_average_is_what_is_validated_kept_and_handed_on(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in BEST and LAST; raw weights and optimizer are trained as if there was none."""
    raw: list[dict[str, Tensor]] = []

    class Watched(Keeper):
        def keep(self) -> None:
            state = self._state.network.state_dict()
            raw.append({name: value.clone() for name, value in state.items()})
            super().keep()

    monkeypatch.setattr(finetuner, "Keeper", Watched)
    list(begun(manifest, tmp_path / "plain"))
    epochs = list(begun(manifest, tmp_path / "averaged", ema=0.9))
    assert same(raw[1], raw[3])
    network = build_network(schedule(), 2, 0)
    load_network_weights(tmp_path / "averaged" / LAST, network)
    assert not same(network.state_dict(), raw[3])
    photos = validation_batches(Photos(manifest), stage(crop="center"))
    found, loss = evaluate(network.eval(), photos, CPU)
    assert loss == epochs[-1].valid_loss
    assert (found.probabilities == epochs[-1].evaluation.probabilities).all()
    best, card = read_weights(tmp_path / "averaged" / BEST)
    assert same(best, network.state_dict()) is (card.epoch == 2)
    assert not any(name.startswith("average.") for name in tensors(tmp_path / "averaged" / LAST))


def test_last_holds_both_while_the_stage_goes_on(manifest: Manifest, tmp_path: Path) -> None:
    """Raw weights to go on with, the average, and the optimizer; a new process goes on from it."""
    expected = [numbers(epoch) for epoch in begun(manifest, tmp_path / "whole", ema=0.9)]
    going = begun(manifest, tmp_path / "left", ema=0.9)
    next(going)
    going.close()
    held = tensors(tmp_path / "left" / LAST)
    names = [name.removeprefix("average.") for name in held if name.startswith("average.")]
    assert sorted(names) == sorted(network_of().state_dict())
    assert any(held[f"average.{name}"] != held[f"network.{name}"] for name in names)
    assert any(name.startswith("optimizer.") for name in held)
    assert [numbers(epoch) for epoch in begun(manifest, tmp_path / "left", ema=0.9)] == expected


@pytest.mark.long
def test_statistics_of_the_average_are_its_own(manifest: Manifest, tmp_path: Path) -> None:
    """Validated with them, the average of a short stage is about as sure as the raw weights."""
    losses = [
        list(begun(manifest, tmp_path / str(ema), ema=ema, min_steps=40))[-1].valid_loss
        for ema in (0.0, 0.9)
    ]
    assert losses[1] < losses[0] + 0.2
