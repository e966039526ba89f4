"""Stages of photos in folds: a network without each fold, judged together, kept as one file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tiny_training import CPU, noise, numbers, outcome, schedule, stage
from trainers.base import BEST, LAST, StageTask
from trainers.checkpoint import read_weights
from trainers.classifier import load
from trainers.cut import Cut
from trainers.data.cache import Cache
from trainers.data.folds import in_folds
from trainers.data.manifest import Manifest, Split
from trainers.finetuner import Finetuner
from trainers.inputs import Inputs
from trainers.metrics import EpochMetrics
from trainers.schedule import Schedule


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Deal 20 photos, 12 of them of train, into 3 folds."""
    return in_folds(noise(tmp_path_factory.mktemp("photos"), 12, 8), 3, seed=0)


def train(
    photos: Manifest, folder: Path, mine: Schedule, start: Path | None = None, **options: Any
) -> list[EpochMetrics]:
    """Train the last stage of a schedule."""
    folder.mkdir(exist_ok=True)
    task = StageTask(schedule=mine, seed=3, folder=folder, start=start)
    return list(Finetuner(photos, compute=CPU, **options).train(task))


STAGES: list[dict[str, Any]] = [
    {"cycle_len": 2},
    {"cycle_len": 2, "frozen": 1.0, "views": 2, "augmentation": "side-on", "tta": True},
    {"train": "probe"},
]


@pytest.mark.parametrize(
    "fields", [STAGES[0], *(pytest.param(each, marks=pytest.mark.long) for each in STAGES[1:])]
)
def test_each_photo_is_judged_by_the_network_of_its_fold(
    photos: Manifest, tmp_path: Path, fields: dict[str, Any]
) -> None:
    """As if each fold's plain data had been trained by themselves, in one file for all folds."""
    mine = stage(**fields)
    made = schedule(mine, hidden=() if fields.get("train") else (8,))
    epoch = train(photos, tmp_path / "all", made, metric=None)[-1]
    weights, card = read_weights(tmp_path / "all" / BEST)
    assert card.folds == 3
    for number in range(3):
        own = photos.fold(number)
        alone = train(own, tmp_path / str(number), made, metric=None)[-1]
        inside = photos.fold_of == number
        assert np.array_equal(epoch.evaluation.labels[inside], own.labels(Split.VALID))
        found, expected = epoch.evaluation.probabilities[inside], alone.evaluation.probabilities
        if not fields.get("views"):  # views are drawn by a photo's place among all
            assert np.allclose(found, expected, atol=1e-5)
            plain, _ = read_weights(tmp_path / str(number) / BEST)
            same = {f"fold{number}.{name}": value for name, value in plain.items()}
            assert all(torch.allclose(weights[n], v, atol=1e-4) for n, v in same.items())


@pytest.mark.parametrize("fields", [STAGES[0], pytest.param(STAGES[1], marks=pytest.mark.long)])
def test_a_cut_costs_no_bit(photos: Manifest, tmp_path: Path, fields: dict[str, Any]) -> None:
    """Left after an epoch and gone on with, all folds' networks are the same to the last bit."""
    mine = schedule(stage(**fields))
    whole = train(photos, tmp_path / "whole", mine)
    (tmp_path / "cut").mkdir()
    task = StageTask(schedule=mine, seed=3, folder=tmp_path / "cut")
    leaving = Finetuner(photos, compute=CPU, checkpoint_seconds=0).train(task)
    next(leaving)
    leaving.close()
    again = train(photos, tmp_path / "cut", mine)
    assert [numbers(epoch) for epoch in again] == [numbers(epoch) for epoch in whole]
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("done", [2, pytest.param(5, marks=pytest.mark.long)])
def test_killed_between_two_folds_costs_no_bit(
    photos: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    """Dead when two folds have trained an epoch, the first or second, it goes on from `LAST`."""
    mine, trained = schedule(stage(**STAGES[0])), list[int]()
    whole = train(photos, tmp_path / "whole", mine)
    real = Finetuner._once

    def deadly(*given: Any) -> EpochMetrics:
        trained.append(1)
        if len(trained) > done:
            raise KeyboardInterrupt
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(Finetuner, "_once", deadly)
        with pytest.raises(KeyboardInterrupt):
            train(photos, tmp_path / "cut", mine, checkpoint_seconds=0)
    assert (tmp_path / "cut" / LAST).exists() == (done > 3)
    again = train(photos, tmp_path / "cut", mine)
    assert [numbers(epoch) for epoch in again] == [numbers(epoch) for epoch in whole]
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_a_stage_goes_on_from_all_folds_networks(photos: Manifest, tmp_path: Path) -> None:
    """With learning rates of 0, each fold's network stays what it was in the stage before."""
    train(photos, tmp_path / "first", schedule(stage()))
    mine = schedule(stage(), stage(lrs=0.0, batch_norm="frozen"))
    train(photos, tmp_path / "next", mine, tmp_path / "first" / LAST)
    (first, _), (then, _) = (read_weights(tmp_path / name / BEST) for name in ("first", "next"))
    assert all(torch.equal(first[name], then[name]) for name in first if "weight" in name)


@pytest.mark.parametrize(
    "kept", [pytest.param(True, marks=pytest.mark.long), False], ids=["in a cache", "in memory"]
)
@pytest.mark.parametrize(
    ("fields", "passes"),
    [
        pytest.param({"train": "probe", "tta": True}, 2, marks=pytest.mark.long),
        ({**STAGES[1], "frozen": 0.5}, 4),
    ],
    ids=["a probe", "half of the layers"],
)
def test_frozen_features_are_computed_once_for_all_folds(
    photos: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
    passes: int,
    kept: bool,
) -> None:
    """However many folds, each photo passes frozen layers as often as with one split.

    That is once as it is validated, once mirrored, and once for each view; of a cache, no more.
    """
    shown, real = list[int](), Cut.rows

    def counting(cut: Cut, squares: Tensor, *others: Any) -> Tensor:
        shown.append(len(squares))
        return real(cut, squares, *others)

    monkeypatch.setattr(Cut, "rows", counting)
    mine = schedule(stage(**fields), hidden=() if fields.get("train") else (8,))
    for folder in ("first", "again") if kept else ("first",):
        train(photos, tmp_path / folder, mine,
              cache=Cache(tmp_path / "cache", photos) if kept else None)  # fmt: skip
        assert sum(shown) == passes * len(photos.photos)


@pytest.mark.long
def test_without_room_for_features_it_is_the_same(
    photos: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is computed anew in each epoch gives the same predictions."""
    mine = schedule(stage(**STAGES[1]))
    kept = train(photos, tmp_path / "kept", mine)
    monkeypatch.setattr(Inputs, "_made", lambda *_: None)
    anew = train(photos, tmp_path / "anew", mine)
    assert [numbers(epoch) for epoch in anew] == [numbers(epoch) for epoch in kept]


def test_the_file_answers_by_the_mean_of_all_folds(photos: Manifest, tmp_path: Path) -> None:
    """`load` gives one classifier, whose probabilities are the mean of the folds' networks'."""
    train(photos, tmp_path / "all", schedule(stage()))
    classifier = load(tmp_path / "all" / BEST)
    paths = [photos.root / photo.path for photo in photos.photos[:5]]
    found, whole = classifier.predict(paths), classifier.network
    said = []
    for network in whole.networks:
        classifier.network = network
        said.append(classifier.predict(paths))
    assert np.allclose(found, np.mean(said, axis=0), atol=1e-6)
