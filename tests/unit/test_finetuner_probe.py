"""A probe as a stage of a real network: what it sees, what it keeps, and what trains on from it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny_training import CPU, noise, numbers, outcome, schedule, stage
from trainers.backbone import Network, build_network, empty_network
from trainers.base import BEST, LAST, StageTask
from trainers.checkpoint import load_network_weights
from trainers.classifier import load
from trainers.cut import Cut
from trainers.data import cache, loader
from trainers.data.cache import Cache
from trainers.data.loader import Photos, validation_batches
from trainers.data.manifest import Manifest, Split
from trainers.finetuner import Finetuner
from trainers.metrics import EpochMetrics
from trainers.probe import fit_probe
from trainers.schedule import Balance, Stage

PROBE = stage(train="probe")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Make 12 photos to train on and 8 to validate."""
    return noise(tmp_path_factory.mktemp("photos"), 12, 8)


def train(
    photos: Manifest, folder: Path, *stages: Stage, start: Path | None = None, **options: Any
) -> list[EpochMetrics]:
    """Train the last of some stages, with a head without hidden layers, under seed 3."""
    folder.mkdir()
    mine = schedule(*stages, hidden=())
    task = StageTask(schedule=mine, seed=3, folder=folder, start=start)
    return list(Finetuner(photos, compute=CPU, **options).train(task))


@pytest.fixture(scope="module")
def probed(photos: Manifest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EpochMetrics]:
    """Train a probe of the network as the seed made it; return its folder and its epoch."""
    folder = tmp_path_factory.mktemp("probed") / "a"
    (epoch,) = train(photos, folder, PROBE)
    return folder, epoch


@pytest.fixture(scope="module")
def later(photos: Manifest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EpochMetrics]:
    """Train a probe after a stage in which the body's BatchNorm has seen photos."""
    root = tmp_path_factory.mktemp("later")
    train(photos, root / "tuned", stage())
    (epoch,) = train(photos, root / "probe", stage(), PROBE, start=root / "tuned" / LAST)
    return root / "probe", epoch


def network_in(path: Path) -> Network:
    """Return the network in LAST or BEST, to be applied."""
    network = empty_network("test_resnet", (), 2)
    load_network_weights(path, network)
    return network.eval()


def squares_of(photos: Manifest, split: Split) -> tuple[Tensor, Tensor]:
    """Return a split's photos as validation shows them, and their labels."""
    (batch,) = validation_batches(Photos(photos), PROBE, split)
    return batch


def statistics(network: Network) -> dict[str, Tensor]:
    """Return what BatchNorm normalises by, in body and head."""
    return {name: value for name, value in network.state_dict().items() if "running" in name}


@torch.no_grad()
def test_it_is_fitted_to_the_body_s_features(
    photos: Manifest, probed: tuple[Path, EpochMetrics]
) -> None:
    """Its head is that of the features of photos and mirror images, computed by hand."""
    _, epoch = probed
    network = build_network(schedule(hidden=()), 2, 3).eval()
    squares, labels = squares_of(photos, Split.TRAIN)
    seen, mirrored = (network.features(each) for each in (squares, squares.flip(3)))
    with torch.enable_grad():
        loss = fit_probe(network.head, seen, mirrored, labels, Balance.NONE)
    assert epoch.train_loss == pytest.approx(loss, abs=1e-5)
    expected = network(squares_of(photos, Split.VALID)[0]).softmax(1).numpy()
    assert epoch.evaluation.probabilities == pytest.approx(expected, abs=1e-4)
    assert epoch.lrs == (0, 0, 0)
    assert epoch.micro_batch is None
    assert epoch.images_per_second * epoch.seconds > len(labels)


def test_the_body_stays_as_it_is(
    photos: Manifest, probed: tuple[Path, EpochMetrics], tmp_path: Path
) -> None:
    """Its weights and statistics are those that the stage began with: the seed's, or a parent's."""
    tuned = stage(lrs=0.1)
    train(photos, tmp_path / "tuned", tuned)
    train(photos, tmp_path / "later", tuned, PROBE, start=tmp_path / "tuned" / LAST)
    seeds, found = build_network(schedule(hidden=()), 2, 3), network_in(probed[0] / LAST)
    parents, later = (network_in(tmp_path / name / LAST) for name in ("tuned", "later"))
    for before, after in ((seeds, found), (parents, later)):
        kept = after.body.state_dict()
        assert all(torch.equal(kept[k], v) for k, v in before.body.state_dict().items())
        assert not torch.equal(before.head[2].weight, after.head[2].weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("crop", ["center", "googlenet"])
def test_nothing_is_random(
    photos: Manifest, probed: tuple[Path, EpochMetrics], tmp_path: Path, crop: str
) -> None:
    """A crop with chance is for a probe the centre, as in validation."""
    assert PROBE.crop == "random"
    (found,) = train(photos, tmp_path / "b", stage(train="probe", crop=crop))
    assert numbers(found) == numbers(probed[1])
    assert outcome(tmp_path / "b") == outcome(probed[0])


@pytest.mark.parametrize("change", [{"image_size": 32}, {"crop": "no"}], ids=str)
def test_what_a_probe_sees_counts(
    photos: Manifest, probed: tuple[Path, EpochMetrics], tmp_path: Path, change: dict[str, Any]
) -> None:
    """Another size or crop gives another head."""
    _, found = probed
    (other,) = train(photos, tmp_path / "b", stage(train="probe", **change))
    assert found.train_loss != other.train_loss


@pytest.mark.long
def test_classes_may_count_alike(tmp_path: Path) -> None:
    """With `balance`, a rare class is not given up for a frequent one."""
    unlike = noise(tmp_path / "photos", 12, 8)
    photos = tuple(p for i, p in enumerate(unlike.photos) if p.label or i % 4 or p.split != "train")
    rare = Manifest(root=unlike.root, classes=unlike.classes, photos=photos)
    for balance in Balance:
        train(rare, tmp_path / balance, stage(train="probe", balance=balance))
    plain, loss, sampling = (outcome(tmp_path / balance)[0] for balance in Balance)
    assert plain != loss == sampling


def test_best_predicts_what_was_measured(
    photos: Manifest, probed: tuple[Path, EpochMetrics]
) -> None:
    """Its weights file is one like any other: `load` gives the predictions of its epoch."""
    folder, epoch = probed
    paths = [photos.root / photo.path for photo in photos.of_split(Split.VALID)]
    found = load(folder / BEST).predict(paths)
    assert found == pytest.approx(epoch.evaluation.probabilities, abs=1e-4)


def test_a_stage_starts_from_the_probe_s_head(
    photos: Manifest, later: tuple[Path, EpochMetrics], tmp_path: Path
) -> None:
    """With learning rates of 0 and frozen BatchNorm it predicts what the probe does."""
    folder, probe = later
    still = stage(lrs=0.0, batch_norm="frozen")
    start = folder / LAST
    (epoch,) = train(photos, tmp_path / "b", stage(), PROBE, still, start=start)
    expected = probe.evaluation.probabilities
    assert epoch.evaluation.probabilities == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("batch_norm", ["train", "frozen"])
def test_frozen_batch_norm_is_the_head_s_too(
    photos: Manifest, later: tuple[Path, EpochMetrics], tmp_path: Path, batch_norm: str
) -> None:
    """After a probe its statistics stay as they were; otherwise all go on being averaged."""
    start = later[0] / LAST
    last = stage(batch_norm=batch_norm)
    train(photos, tmp_path / "b", stage(), PROBE, last, start=start)
    before, network = statistics(network_in(start)), network_in(tmp_path / "b" / LAST)
    after = statistics(network)
    assert "head.0.running_mean" in after
    for name, value in before.items():
        assert torch.equal(after[name], value) is (batch_norm == "frozen"), name
    assert not torch.equal(network.head[2].weight, network_in(start).head[2].weight)  # type: ignore[arg-type]


@pytest.mark.long
def test_what_was_prepared_is_all_it_looks_at(
    photos: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its photos are decoded beforehand, at the scale of validation."""
    kept = Cache(tmp_path / "decoded", photos)
    Finetuner(photos, compute=CPU, cache=kept).prepare([PROBE], lambda *_: None)
    for module in (cache, loader):
        monkeypatch.setattr(module, "decoded", None)
    assert len(train(photos, tmp_path / "a", PROBE, cache=kept)) == 1


def test_features_are_computed_once(
    photos: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another trial's probe, and of a stage that trains the head alone, on the same photos."""
    shown, real = list[int](), Cut.rows

    def counting(cut: Cut, *rest: Any) -> Tensor:
        shown.append(1)
        return real(cut, *rest)

    monkeypatch.setattr(Cut, "rows", counting)
    trainer = Finetuner(photos, compute=CPU)
    for name, balance in (("a", "none"), ("b", "loss")):
        (tmp_path / name).mkdir()
        mine = schedule(stage(train="probe", balance=balance), hidden=())
        list(trainer.train(StageTask(schedule=mine, seed=3, folder=tmp_path / name)))
        assert len(shown) == 3  # training photos, their mirror images, and those to validate
