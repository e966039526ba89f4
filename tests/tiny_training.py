"""Tiny trainings of a real network, and what came of them, to be compared to the last bit."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from PIL import Image
from torch import Tensor

from trainers.backbone import Network, build_network
from trainers.base import BEST, LAST
from trainers.card import WeightsCard, package_versions, read_card
from trainers.data.manifest import Manifest, build_manifest
from trainers.device import choose_compute
from trainers.metrics import EpochMetrics, Evaluation
from trainers.schedule import Schedule, Stage

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

CPU = choose_compute("cpu")

SEARCH: dict[str, Any] = {
    "backbone": "test_resnet",
    "weights": "random",
    "portfolio": False,
    "devices": "cpu",
    "strategy": "independent",
    "sampler": "random",
}
"""Settings of a search that trains suggestions of a tiny network, and nothing else."""


def noise(root: Path, train: int = 16, valid: int = 8) -> Manifest:
    """Make a manifest of photos of noise, a little lighter in one of two classes."""
    rng = np.random.default_rng(0)
    for index in range(train + valid):
        label = index % 2
        pixels = rng.integers(label * 20, 236 + label * 20, (30, 36, 3), dtype=np.uint8)
        path = root / ("train" if index < train else "valid") / "ab"[label] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return build_manifest(root)


def stage(**fields: Any) -> Stage:
    """Return a stage of one epoch on 24 pixels."""
    return Stage(**{"image_size": 24, "batch_size": 6, "lrs": 0.01, **fields})


def schedule(*stages: Stage, **fields: Any) -> Schedule:
    """Return a schedule of a tiny network."""
    given = {"backbone": "test_resnet", "hidden": (8,), "weights": "random", **fields}
    return Schedule(stages=stages or (stage(),), **given)


LABELS = np.array([0, 1, 0])


def network_of(seed: int = 0, **fields: Any) -> Network:
    """Build a tiny network with two classes."""
    return build_network(schedule(**fields), 2, seed)


def card_of(**fields: Any) -> WeightsCard:
    """Make the card of such a network."""
    plain: dict[str, Any] = {
        "backbone": "test_resnet",
        "hidden": (8,),
        "classes": ("roses", "tulips \u2740"),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "image_size": 24,
        "crop": "random",
        "schedule": schedule().to_dict(),
        "schedule_digest": schedule().digest,
        "manifest_digest": "0" * 64,
        "seed": 3,
        "stage": 0,
        "epoch": 2,
        "metrics": {"accuracy": 0.1 + 0.2},
        "packages": package_versions(),
    }
    return WeightsCard(**{**plain, **fields})


def metrics_of(number: int, hits: int = 2) -> EpochMetrics:
    """Make an epoch that knows some of three photos, with numbers that decimal text would round."""
    right = np.where(np.arange(3) < hits, 0.9, 0.1) + number / 1000
    table = np.stack([np.where(label == LABELS, right, 1 - right) for label in (0, 1)], 1)
    return EpochMetrics.of(
        Evaluation(LABELS, table.astype(np.float32)),
        stage=0,
        epoch=number,
        cycle=1,
        lrs=(0.1, 1 / 3, 2 / 3),
        train_loss=0.1 + 0.2,
        valid_loss=1 / 7,
        seconds=0.3,
        images_per_second=1e3 / 7,
    )


def in_last(network: Network) -> dict[str, Tensor]:
    """Return what LAST keeps of a network."""
    return {f"network.{name}": value for name, value in network.state_dict().items()}


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two states are equal to the last bit."""
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def numbers(epoch: EpochMetrics) -> dict[str, Any]:
    """Return all of an epoch that is kept and does not depend on the clock."""
    plain = asdict(epoch)
    for name in ("seconds", "images_per_second", "data_wait", "evaluation"):
        del plain[name]
    evaluation = epoch.evaluation
    halves = evaluation.probabilities.astype(np.float16).tolist()
    answers = {"predicted": evaluation.predicted.tolist(), "labels": evaluation.labels.tolist()}
    return plain | answers | {"p": halves}


def tensors(path: Path) -> dict[str, bytes]:
    """Return the tensors of a file, to be compared to the last bit."""
    with safetensors.safe_open(path, "np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def outcome(folder: Path) -> list[Any]:
    """Return what a task left in its folder, and check that nothing else is there."""
    assert sorted(path.name for path in folder.iterdir()) == sorted([LAST, BEST])
    return [tensors(folder / LAST), tensors(folder / BEST), epoch_of_best(folder)]


def epochs_in_last(folder: Path) -> int:
    """Count the epochs that LAST knows."""
    if not (folder / LAST).exists():
        return 0
    return sum(name.startswith("probabilities.") for name in tensors(folder / LAST))


def epoch_of_best(folder: Path) -> int:
    """Return the epoch that BEST says it is of."""
    with safetensors.safe_open(folder / BEST, "np") as file:
        metadata = file.metadata()
    return int(metadata["epochs"]) if "epochs" in metadata else read_card(folder / BEST).epoch
