"""What the trainer of real networks promises beside the contract of all trainers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny_training import CPU, noise, outcome, schedule, stage
from trainers.backbone import build_network, file_digest
from trainers.base import BEST, LAST, StageTask
from trainers.checkpoint import load_network_weights, read_weights
from trainers.classifier import load
from trainers.data import cache, loader
from trainers.data.cache import Cache
from trainers.data.manifest import Manifest, Split
from trainers.finetuner import Finetuner
from trainers.metrics import EpochMetrics
from trainers.schedule import Schedule, Train


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Make 12 photos to train on and 8 to validate."""
    return noise(tmp_path_factory.mktemp("photos"), 12, 8)


def train(
    manifest: Manifest, folder: Path, mine: Schedule, start: Path | None = None, **options: Any
) -> list[EpochMetrics]:
    """Train the last stage of a schedule under seed 3."""
    folder.mkdir()
    task = StageTask(schedule=mine, seed=3, folder=folder, start=start)
    return list(Finetuner(manifest, compute=CPU, **options).train(task))


def parameters_of(path: Path) -> dict[str, Tensor]:
    """Return the network's weights in LAST or BEST."""
    network = build_network(schedule(), 2, 0)
    load_network_weights(path, network)
    return dict(network.named_parameters())


def test_a_stage_starts_from_its_parent_s_weights(manifest: Manifest, tmp_path: Path) -> None:
    """With learning rates of 0 it ends with the weights of the very file that it was given."""
    train(manifest, tmp_path / "parent", schedule(stage(cycle_len=2, lrs=0.1)))
    for name in (LAST, BEST):
        start = tmp_path / "parent" / name
        train(manifest, tmp_path / f"from {name}", schedule(stage(), stage(lrs=0.0)), start)
        found, given = parameters_of(tmp_path / f"from {name}" / LAST), parameters_of(start)
        assert all(torch.equal(found[key], given[key]) for key in given)


PLAIN = [(1, 3), (2, 3), (3, 3)]
"""Of batches of 6, 6 and 8 photos."""


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 2 * PLAIN),
        ({"frozen": 0.5, "augmentation": "side-on"}, [*PLAIN[:2], (3, 4), (4, 4), *PLAIN]),
        ({"frozen": 0.5}, [(1, 4), (2, 4), (3, 4), (4, 5), (5, 5), *PLAIN]),
        ({"train": "probe", "cycle_len": 1}, PLAIN),
    ],
)
def test_batches_are_told_while_an_epoch_trains(
    manifest: Manifest, tmp_path: Path, fields: dict[str, Any], expected: list[tuple[int, int]]
) -> None:
    """Those of training and of validation, and those that frozen layers are shown before."""
    found: list[tuple[int, int]] = []
    mine = stage(**{"cycle_len": 2, "crop": "no", "augmentation": "none", **fields})
    task = StageTask(
        schedule=schedule(mine, hidden=() if mine.train is Train.PROBE else (8,)),
        seed=3,
        folder=tmp_path,
        progress=lambda done, total: found.append((done, total)),
    )
    list(Finetuner(manifest, compute=CPU).train(task))
    assert found == expected


def test_frozen_groups_keep_the_weights_they_start_from(manifest: Manifest, tmp_path: Path) -> None:
    """What is frozen in a stage is in its files as the seed made it; all else has learnt."""
    train(manifest, tmp_path / "a", schedule(stage(frozen=0.5)))
    network = build_network(schedule(), 2, 3)
    early = {id(parameter) for parameter in network.layer_groups()[0]}
    found = parameters_of(tmp_path / "a" / LAST)
    for name, parameter in network.named_parameters():
        assert torch.equal(found[name], parameter) is (id(parameter) in early), name


@pytest.fixture(scope="module")
def plain(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Return the parameters of a stage that says nothing special."""
    folder = tmp_path_factory.mktemp("plain") / "a"
    train(manifest, folder, schedule())
    return parameters_of(folder / LAST)


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
        {"frozen": 1.0},
        {"lrs": (0.001, 0.01, 0.01)},
        {"image_size": 32},
        {"batch_size": 4},
        {"min_steps": 3},
        {"warm_up": 0.9},
        {"layer_decay": 0.5},
        {"augmentation": "trivial"},
        {"erasing": 0.9},
        {"mixup": 0.4},
        {"cutmix": 1.0},
        {"drop_path": 0.5},
        {"clip_grad": 0.01},
        {"ema": 0.9},
        {"balance": "sampling"},
    ],
    ids=str,
)
def test_every_field_of_a_stage_counts(
    manifest: Manifest, plain: dict[str, Tensor], tmp_path: Path, change: dict[str, Any]
) -> None:
    """Whatever a stage says about training makes a difference to the weights."""
    train(manifest, tmp_path / "b", schedule(stage(**change)))
    other = parameters_of(tmp_path / "b" / LAST)
    assert not all(torch.equal(plain[name], other[name]) for name in plain)


def test_class_weights_are_inverse_to_counts(manifest: Manifest) -> None:
    """A class of two photos weighs three times one of six; over all photos, the mean is 1."""
    kept = [photo for photo in manifest.photos if photo.split is Split.VALID]
    training = manifest.of_split(Split.TRAIN)
    rare = [photo for photo in training if photo.label == 1][:2]
    often = [photo for photo in training if photo.label == 0]
    uneven = replace(manifest, photos=(*often, *rare, *kept))
    weights = Finetuner(uneven, compute=CPU)._class_weights()
    assert weights.tolist() == pytest.approx([8 / (2 * 6), 8 / (2 * 2)])
    assert weights[torch.from_numpy(uneven.labels(Split.TRAIN))].mean() == pytest.approx(1)


def test_where_decoded_photos_lie_does_not_matter(manifest: Manifest, tmp_path: Path) -> None:
    """In memory or in a cache's files: the weights are the same to the last bit."""
    mine = schedule(stage(augmentation="top-down", max_zoom=1.3, cycle_len=2))
    train(manifest, tmp_path / "memory", mine)
    for again in ("cache", "cache again"):
        train(manifest, tmp_path / again, mine, cache=Cache(tmp_path / "photos", manifest))
        assert outcome(tmp_path / again) == outcome(tmp_path / "memory")


def test_what_was_prepared_is_not_decoded_again(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All scales of all stages are decoded beforehand, told photo by photo, each split once."""
    mine = schedule(stage(crop="no"), stage(image_size=32, crop="googlenet"))
    trainer = Finetuner(manifest, compute=CPU, cache=Cache(tmp_path / "photos", manifest))
    told: list[tuple[int, int]] = []
    trainer.prepare(mine.stages, lambda done, total: told.append((done, total)))
    assert told == [(done, 20) for done in range(1, 21)]
    for module in (cache, loader):
        monkeypatch.setattr(module, "decoded", None)
    for prefix in mine.prefixes():
        folder = tmp_path / str(len(prefix.stages))
        start = tmp_path / "1" / BEST if len(prefix.stages) == 2 else None
        folder.mkdir()
        task = StageTask(schedule=prefix, seed=3, folder=folder, start=start)
        assert len(list(trainer.train(task))) == 1


def test_without_a_cache_nothing_is_prepared(manifest: Manifest) -> None:
    """There is nowhere to keep the photos, and nothing to tell."""
    told: list[tuple[int, int]] = []
    trainer = Finetuner(manifest, compute=CPU)
    trainer.prepare([stage()], lambda done, total: told.append((done, total)))
    assert told == []


def test_an_epoch_says_how_it_ran(manifest: Manifest, tmp_path: Path) -> None:
    """How long, how fast, which share of it waiting for photos, and that no batch was split."""
    for epoch in train(manifest, tmp_path / "a", schedule(stage(cycle_len=2))):
        assert epoch.seconds > 0
        assert epoch.images_per_second * epoch.seconds > len(manifest.of_split(Split.TRAIN))
        assert epoch.data_wait is not None
        assert 0 < epoch.data_wait < 1
        assert epoch.micro_batch is None


def test_best_says_what_it_is_and_predicts_what_was_measured(
    manifest: Manifest, tmp_path: Path
) -> None:
    """Its card is all of schedule, data, seed and scores; `load` gives the epoch's predictions."""
    mine = schedule(stage(cycle_len=2, crop="no"))
    epochs = train(manifest, tmp_path / "a", mine)
    _, card = read_weights(tmp_path / "a" / BEST)
    best = epochs[card.epoch - 1]
    assert card.classes == manifest.classes == ("a", "b")
    assert (card.schedule_digest, card.manifest_digest) == (mine.digest, manifest.digest)
    assert Schedule.from_dict(card.schedule) == mine
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
    body = build_network(schedule(), 2, 99).body.state_dict()
    torch.save(body, tmp_path / "mine.pth")
    mine = schedule(stage(frozen=1.0), weights=file_digest(tmp_path / "mine.pth"))
    train(manifest, tmp_path / "a", mine, weights_file=tmp_path / "mine.pth")
    tensors, _ = read_weights(tmp_path / "a" / BEST)
    assert all(torch.equal(tensors[f"body.{name}"], value) for name, value in body.items())
