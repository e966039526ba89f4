"""`best --refit` through the command line: a real search, and its winner trained on more photos."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import cli
from study.deployment.refit import _numbers, refit
from study.provenance.retrain import Compared, compare_files
from study.searching.search import search
from study.selection.best import best
from tests.tiny_training import SEARCH, noise
from trainers.card import read_card
from trainers.classifier import load
from trainers.data.manifest import DatasetError, Split, build_manifest
from trainers.schedule import Stage, Train

PHOTOS = "photos"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Search once: a trial of two stages with two epochs each."""
    folder = tmp_path_factory.mktemp("searched")
    noise(folder / PHOTOS)
    noise(folder / "others", train=16, valid=16)
    for label in "ab":
        own = folder / PHOTOS / "test" / label
        own.mkdir(parents=True)
        for photo in (folder / "others" / "valid" / label).glob("2[4-9].png"):
            photo.rename(own / photo.name)
    search(
        data=folder / PHOTOS,
        storage=url(folder),
        **SEARCH,
        trials=1,
        space={
            "n_stages": [2],
            "image_size": [24],
            "batch_size": [8],
            "n_cycles": [2],
            "cycle_mult": [1],
        },
    )
    return folder


def url(folder: Path) -> str:
    """Return the URL of the database."""
    return f"sqlite:///{folder / 'runs' / 'encore.db'}"


def test_the_choice_is_trained_again_on_more_photos(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other weights of the same schedule and seed, whose card tells no score; the study stays."""
    asked = ["best", "--storage", url(searched), "--refit", "--copy-to", str(tmp_path / "made")]
    assert cli.run([*asked, "--final-test"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    chosen, manifest = best(storage=url(searched)), build_manifest(searched / PHOTOS)
    photos = [len(manifest.of_split(split)) for split in Split]
    [file] = (tmp_path / "made").glob("refit_*")
    assert file.name == f"refit_test_resnet_t{chosen.trial:04d}_s{chosen.seed}.safetensors"
    assert said.count(str(file)) == 1
    assert f"on {photos[0] + photos[1]} photos, those of validation among them" in said
    assert f"on {photos[2]} test photos" in said
    card, own = read_card(file), read_card(Path(chosen.file))
    assert (card.seed, card.stage, card.epoch) == (own.seed, own.stage, own.epoch)
    assert card.schedule == own.schedule
    assert card.metrics == {}
    assert card.made_by["trained on"] == "train and validation photos"
    assert compare_files(Path(chosen.file), file) != Compared(identical=True, largest_difference=0)
    assert "on the validation photos" not in said
    some = [manifest.root / photo.path for photo in manifest.of_split(Split.TEST)[:2]]
    assert load(file).predict(some).shape == (2, len(manifest.classes))
    assert not list((searched / "runs").glob(".again-*"))


def test_a_refit_has_the_validation_photos_in_train_and_no_test_photo(searched: Path) -> None:
    """They judge still, for there to be epochs; what is in test is there alone."""
    before = build_manifest(searched / PHOTOS)
    after = before.for_refit()
    paths = {split: {photo.path for photo in after.of_split(split)} for split in Split}
    assert paths[Split.VALID] == {photo.path for photo in before.of_split(Split.VALID)}
    assert paths[Split.TEST] == {photo.path for photo in before.of_split(Split.TEST)}
    assert paths[Split.VALID] < paths[Split.TRAIN]
    assert paths[Split.TRAIN].isdisjoint(paths[Split.TEST])
    assert after.digest != before.digest


@pytest.mark.long
def test_a_refit_is_the_same_each_time(searched: Path, tmp_path: Path) -> None:
    """Its tensors come out to the last bit, as those of all training do."""
    made = [
        refit(best(storage=url(searched)), storage=url(searched), folder=tmp_path / name)
        for name in ("one", "two")
    ]
    one, other = (Path(each.file) for each in made)
    assert compare_files(one, other) == Compared(identical=True, largest_difference=0)


@pytest.mark.long
def test_under_several_seeds_the_mean_of_their_weights_is_written(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its tensors lie in the middle of those of each seed; the first is the refit of one seed."""
    asked = ["best", "--storage", url(searched), "--refit", "2", "--copy-to", str(tmp_path)]
    assert cli.run(asked) == 0
    assert "under seeds 0-1, their weights averaged," in " ".join(capsys.readouterr().out.split())
    [file] = tmp_path.glob("refit_*_s0-1.safetensors")
    chosen = best(storage=url(searched))
    one = refit(chosen, storage=url(searched), folder=tmp_path / "one")
    under_1 = replace(chosen, seed=1)
    other = refit(under_1, storage=url(searched), folder=tmp_path / "other")
    mean, first, second = (load_file(each) for each in (file, one.file, other.file))
    weight = next(name for name, tensor in mean.items() if tensor.ndim == 4)
    assert not torch.equal(first[weight], second[weight])
    torch.testing.assert_close(mean[weight], (first[weight] + second[weight]) / 2)
    assert read_card(file).metrics == {}


@pytest.mark.parametrize(
    ("trains", "seeds"), [([Train.PROBE], [4]), ([Train.PROBE, Train.NETWORK], [4, 5, 6])]
)
def test_a_probe_is_trained_under_one_seed(trains: list[Train], seeds: list[int]) -> None:
    """It is the same network under each; what is trained further is not."""
    stages = [Stage(image_size=32, train=train) for train in trains]
    assert list(_numbers(stages, 4, 3)) == seeds


def test_changed_photos_are_refused(searched: Path, tmp_path: Path) -> None:
    """Before anything is trained or written."""
    chosen = best(storage=url(searched))
    photo = next((searched / PHOTOS).rglob("*.png"))
    before = photo.read_bytes()
    try:
        photo.write_bytes(before + b"more")
        with pytest.raises(DatasetError, match="have changed"):
            refit(chosen, storage=url(searched), folder=tmp_path / "made")
    finally:
        photo.write_bytes(before)
    assert not (tmp_path / "made").exists()
