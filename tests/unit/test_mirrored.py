"""Mirror images as part of what weights are: validated with them, and judged so ever after."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.nn import functional

from tests.tiny_training import CPU, card_of, network_of, noise, schedule, stage
from trainers import inputs
from trainers.base import BEST, StageTask
from trainers.card import copy_with
from trainers.checkpoint import save_weights
from trainers.classifier import load
from trainers.data.manifest import Manifest, Split
from trainers.decision import Decision
from trainers.finetuner import Finetuner
from trainers.loop import evaluate
from trainers.metrics import EpochMetrics
from trainers.mirrored import MirroredPairs, judging
from trainers.schedule import Stage, Train


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Make 10 photos to train on and 6 to validate."""
    return noise(tmp_path_factory.mktemp("photos"), 10, 6)


class LeftIsFirst(nn.Module):
    """Says that a square is of the first class by how much lighter its left half is."""

    def forward(self, squares: Tensor) -> Tensor:
        """Return logits of two classes."""
        half = squares.shape[3] // 2
        lighter = squares[..., :half].mean((1, 2, 3)) - squares[..., half:].mean((1, 2, 3))
        return torch.stack([10 * lighter, torch.zeros_like(lighter)], 1)


KINDS: dict[str, dict[str, Any]] = {
    "all trained": {},
    "half frozen": {"frozen": 0.5},
    "a frozen body": {"frozen": 1.0},
    "views at an inner cut": {"frozen": 0.5, "views": 2},
    "views of a frozen body": {"frozen": 1.0, "views": 2},
    "averaged weights": {"ema": 0.5, "drop_path": 0.3, "mixup": 0.4, "min_steps": 4},
    "a probe": {"train": "probe"},
}
"""Stages that come by their predictions in different ways."""


def train(manifest: Manifest, folder: Path, mine: Stage) -> list[EpochMetrics]:
    """Train a schedule of one stage; a probe has no hidden layers."""
    folder.mkdir()
    hidden = () if mine.train is Train.PROBE else (8,)
    task = StageTask(schedule=schedule(mine, hidden=hidden), seed=3, folder=folder)
    return list(Finetuner(manifest, compute=CPU).train(task))


def valid(manifest: Manifest) -> list[Path]:
    """Return the paths of the photos for validation."""
    return [manifest.root / photo.path for photo in manifest.of_split(Split.VALID)]


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_probabilities_and_loss_are_those_of_the_mean(micro_batch: int | None) -> None:
    """Of squares light on the left, where the plain network is sure of what its mirror denies."""
    squares, labels = torch.zeros(3, 3, 4, 4), torch.tensor([0, 1, 0])
    squares[..., :2] = torch.tensor([0.2, 0.5, 0.9]).view(3, 1, 1, 1)
    one, other = LeftIsFirst()(squares).softmax(1), LeftIsFirst()(squares.flip(3)).softmax(1)
    assert (one - other).abs().min() > 0.5
    model = judging(LeftIsFirst(), tta=True)
    found, loss = evaluate(model, [(squares, labels)], CPU, micro_batch=micro_batch)
    mean = (one + other) / 2
    assert found.probabilities == pytest.approx(mean.numpy(), abs=1e-6)
    assert loss == pytest.approx(functional.nll_loss(mean.log(), labels).item(), abs=1e-6)
    plain, _ = evaluate(judging(LeftIsFirst(), tta=False), [(squares, labels)], CPU)
    assert plain.probabilities == pytest.approx(one.numpy(), abs=1e-6)


def test_the_surest_answers_stay_finite() -> None:
    """A class to which both views leave less probability than float32 holds has a finite logit."""
    pairs = torch.tensor([[[200.0, -200.0], [300.0, 0.0]]])
    logits = MirroredPairs(nn.Identity())(pairs)
    assert logits.isfinite().all()
    assert logits.softmax(1).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tta", [True, pytest.param(False, marks=pytest.mark.long)])
def test_predict_gives_what_validation_gave(
    tta: bool, kind: str, manifest: Manifest, tmp_path: Path
) -> None:
    """Without any flag, and as the card says; the other way gives other numbers."""
    mine = stage(**KINDS[kind], tta=tta, crop="no")
    (epoch,) = train(manifest, tmp_path / "run", mine)
    classifier, photos = load(tmp_path / "run" / BEST), valid(manifest)
    assert classifier.card.tta is tta
    recorded = epoch.evaluation.probabilities
    assert np.allclose(classifier.predict(photos), recorded, atol=1e-5)
    assert np.allclose(classifier.predict(photos, augment=tta), recorded, atol=1e-5)
    other = classifier.predict(photos, augment=not tta)
    assert np.abs(other - recorded).max() > 1e-4
    truth = np.log(recorded[np.arange(len(photos)), manifest.labels(Split.VALID)])
    assert epoch.valid_loss == pytest.approx(-truth.mean(), abs=1e-5)


def test_features_of_mirror_images_give_what_mirrored_squares_give(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen body's numbers, epoch for epoch, are those of running it each time."""
    mine = stage(tta=True, frozen=1.0, crop="no", cycle_len=3)
    quick = train(manifest, tmp_path / "quick", mine)
    monkeypatch.setattr(inputs, "cut_of", lambda *_: None)
    for one, other in zip(quick, train(manifest, tmp_path / "slow", mine), strict=True):
        expected = other.evaluation.probabilities
        assert one.evaluation.probabilities == pytest.approx(expected, abs=1e-4)
        assert one.valid_loss == pytest.approx(other.valid_loss, abs=1e-4)


def test_mirror_images_do_not_change_what_is_learnt(manifest: Manifest, tmp_path: Path) -> None:
    """They are looked at in validation alone: training loses exactly what it lost without."""
    for frozen in (0.0, 1.0):
        runs = [
            train(
                manifest, tmp_path / f"{frozen} {tta}", stage(tta=tta, frozen=frozen, cycle_len=2)
            )
            for tta in (False, True)
        ]
        plain, mirrored = ([epoch.train_loss for epoch in run] for run in runs)
        assert plain == mirrored


def test_a_decision_leaves_mirror_images_as_they_are(tmp_path: Path) -> None:
    """Prices are set for probabilities: those of the copy are those of the file it was made of."""
    for tta in (False, True):
        file, copy = tmp_path / f"{tta}.safetensors", tmp_path / f"{tta} copy.safetensors"
        save_weights(file, network_of().state_dict(), card_of(tta=tta))
        copy_with(file, copy, {"decision": Decision.plain(2).to_dict()})
        assert (load(copy).card.tta, load(copy).card.rule) == (tta, Decision.plain(2))


def test_older_files_are_judged_without(tmp_path: Path, manifest: Manifest) -> None:
    """A card that was written before there were mirror images says that there are none."""
    file, older = tmp_path / "now.safetensors", tmp_path / "then.safetensors"
    save_weights(file, network_of().state_dict(), card_of())
    with safetensors.safe_open(file, "np") as opened:
        card = json.loads(opened.metadata()["encore"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    del card["tta"]
    save_file(tensors, older, {"format": "pt", "encore": json.dumps(card)})
    photos = valid(manifest)
    assert load(older).card.tta is False
    assert (load(older).predict(photos) == load(file).predict(photos, augment=False)).all()
