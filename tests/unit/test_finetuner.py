"""What the trainer of real networks promises beside the contract of all trainers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from trainers.backbone import build_network, file_digest
from trainers.base import BEST, LAST, StageTask
from trainers.checkpoint import load_network_weights, read_weights
from trainers.classifier import load
from trainers.data import loader
from trainers.data.manifest import Manifest, Split, build_manifest
from trainers.finetuner import Finetuner
from trainers.metrics import EpochMetrics
from trainers.schedule import Schedule, Stage

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other


def schedule_of(*stages: dict[str, Any], **fields: Any) -> Schedule:
    """Give a schedule of one stage or more; each is of one epoch on 24 pixels."""
    plain = {"image_size": 24, "batch_size": 6, "lrs": 0.01}
    made = tuple(Stage(**{**plain, **stage}) for stage in stages or ({},))
    given = {"backbone": "test_resnet", "hidden": (8,), "weights": "random", **fields}
    return Schedule(stages=made, **given)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Make 12 photos to train on and 8 to validate."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for index in range(20):
        pixels = random.integers(0, 256, (30, 36, 3), dtype=np.uint8)
        path = root / ("train" if index < 12 else "valid") / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return build_manifest(root)


def train(
    manifest: Manifest, folder: Path, schedule: Schedule, start: Path | None = None, **options: Any
) -> list[EpochMetrics]:
    """Train the last stage of a schedule under seed 3."""
    folder.mkdir()
    task = StageTask(schedule=schedule, seed=3, folder=folder, start=start)
    return list(Finetuner(manifest, device="cpu", **options).train(task))


def weights_of(path: Path) -> dict[str, Tensor]:
    """Give the network's weights in LAST or BEST."""
    network = build_network(schedule_of(), 2, 0)
    load_network_weights(path, network)
    return dict(network.named_parameters())


def test_a_stage_starts_from_its_parent_s_weights(manifest: Manifest, tmp_path: Path) -> None:
    """With learning rates of 0 it ends with the weights of the very file that it was given."""
    train(manifest, tmp_path / "parent", schedule_of({"cycle_len": 2, "lrs": 0.1}))
    for name in (LAST, BEST):
        start = tmp_path / "parent" / name
        train(manifest, tmp_path / f"from {name}", schedule_of({}, {"lrs": 0.0}), start)
        found, given = weights_of(tmp_path / f"from {name}" / LAST), weights_of(start)
        assert all(torch.equal(found[key], given[key]) for key in given)


def test_frozen_groups_keep_the_weights_they_start_from(manifest: Manifest, tmp_path: Path) -> None:
    """What is frozen in a stage is in its files as the seed made it; all else has learnt."""
    train(manifest, tmp_path / "a", schedule_of({"frozen_groups": 1}))
    network = build_network(schedule_of(), 2, 3)
    early = {id(parameter) for parameter in network.layer_groups()[0]}
    found = weights_of(tmp_path / "a" / LAST)
    for name, parameter in network.named_parameters():
        assert torch.equal(found[name], parameter) is (id(parameter) in early), name


@pytest.mark.parametrize(
    "change",
    [
        {"dropout": 0.5},
        {"dropout": (0.5, 0.0)},
        {"augmentation": "side-on"},
        {"crop": "center"},
        {"max_zoom": 1.5},
        {"optimizer": "sgd"},
        {"weight_decay": 0.5},
        {"label_smoothing": 0.2},
        {"frozen_groups": 2},
        {"lrs": (0.001, 0.01, 0.01)},
        {"image_size": 32},
        {"batch_size": 4},
    ],
    ids=str,
)
def test_every_field_of_a_stage_counts(
    manifest: Manifest, tmp_path: Path, change: dict[str, Any]
) -> None:
    """Whatever a stage says about training makes a difference to the weights."""
    train(manifest, tmp_path / "a", schedule_of({}))
    train(manifest, tmp_path / "b", schedule_of(change))
    found, other = weights_of(tmp_path / "a" / LAST), weights_of(tmp_path / "b" / LAST)
    assert not all(torch.equal(found[name], other[name]) for name in found)


def test_neither_threads_nor_memory_change_the_outcome(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos read by one thread and never kept train the same weights as by eight and kept."""
    schedule, found = schedule_of({"augmentation": "top-down", "cycle_len": 2}), []
    for count, limit in ((1, 0), (8, 10**9)):
        monkeypatch.setattr(loader.os, "cpu_count", lambda count=count: count)
        monkeypatch.setattr(loader, "_quarter_of_memory", lambda limit=limit: limit)
        train(manifest, tmp_path / str(count), schedule)
        found.append(weights_of(tmp_path / str(count) / LAST))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_best_says_what_it_is_and_predicts_what_was_measured(
    manifest: Manifest, tmp_path: Path
) -> None:
    """Its card is all of schedule, data, seed and scores; `load` gives the epoch's predictions."""
    schedule = schedule_of({"cycle_len": 2, "crop": "no"})
    epochs = train(manifest, tmp_path / "a", schedule)
    _, card = read_weights(tmp_path / "a" / BEST)
    best = epochs[card.epoch - 1]
    assert card.classes == manifest.classes == ("a", "b")
    assert (card.schedule_digest, card.manifest_digest) == (schedule.digest, manifest.digest)
    assert Schedule.from_dict(card.schedule) == schedule
    assert (card.seed, card.stage, card.image_size, card.crop) == (3, 0, 24, "no")
    assert (card.metrics["accuracy"], card.metrics["valid_loss"]) == (
        best.accuracy,
        best.valid_loss,
    )
    assert json.dumps(card.packages)
    paths = [manifest.root / photo.path for photo in manifest.of_split(Split.VALID)]
    found = load(tmp_path / "a" / BEST).predict(paths)
    assert found == pytest.approx(best.evaluation.probabilities, abs=1e-6)


def test_a_weights_file_is_where_training_starts(manifest: Manifest, tmp_path: Path) -> None:
    """With the body frozen, the body in LAST is the one of the file that the user gave."""
    body = build_network(schedule_of(), 2, 99).body.state_dict()
    torch.save(body, tmp_path / "mine.pth")
    schedule = schedule_of({"frozen_groups": 2}, weights=file_digest(tmp_path / "mine.pth"))
    train(manifest, tmp_path / "a", schedule, weights_file=tmp_path / "mine.pth")
    tensors, _ = read_weights(tmp_path / "a" / BEST)
    assert all(torch.equal(tensors[f"body.{name}"], value) for name, value in body.items())
