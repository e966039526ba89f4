"""A soup of a real search on tiny photos: written where it is better, and only there."""

import hashlib
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import safetensors.torch
import torch

from storage.database import open_database
from storage.records import Checkpoint, Trial
from storage.store import Store
from storage.vault import Vault
from study.commands.exit_codes import exit_code, sentence
from study.errors import UnrelatedWeights
from study.searching.search import search
from study.selection.best import NothingToSelect
from study.selection.kept_weights import kept_weights
from study.selection.soup import soup
from tests.tiny_training import noise
from trainers.card import read_card
from trainers.checkpoint import read_weights, save_weights
from trainers.classifier import load
from trainers.data.manifest import DatasetError, Manifest, Split, build_manifest

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other
pytestmark = pytest.mark.long  # unit/test_soup.py has what needs no search

FIRST = "{ image_size = 24, batch_size = 8, lrs = 1e-5 }"
GRID = f"""
[[schedules]]
hidden = [8]
weights = "random"
backbone = "test_resnet"
stages = [{FIRST}, {{ image_size = 24, batch_size = 8, lrs = 0.01, cycle_len = 12 }}]

[[schedules]]
hidden = [8]
weights = "random"
backbone = "test_resnet"
stages = [{FIRST}, {{ image_size = 24, batch_size = 8, lrs = 0.005, cycle_len = 12 }}]

[[schedules]]
hidden = [8]
weights = "random"
backbone = "test_resnet"
stages = [{{ image_size = 32, batch_size = 8, lrs = 1e-6 }}]
"""
"""Two that begin alike, and a stranger that learns nothing.

After fewer steps BatchNorm would remember its beginning, and estimating it anew would be better.
"""


class Place:
    """A searched study that a test may change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder / 'runs' / 'encore.db'}"
        self.vault = Vault(folder / "runs" / "photos")

    @property
    def manifest(self) -> Manifest:
        """Return the photos."""
        return build_manifest(self.folder / "photos")

    def kept(self) -> list[tuple[Trial, Checkpoint]]:
        """Return the trials with weights, the best first."""
        with closing(Store(open_database(self.url))) as store:
            return kept_weights(store, self.vault, store.study("photos"))[0]

    def spoil(self) -> None:
        """Make the siblings' files so that each names one class alone, but their mean is good."""
        siblings = [each for each in self.kept() if each[0].number < 2]
        good, _ = read_weights(self.vault.path(siblings[0][1].path))
        bias = next(name for name in reversed(good) if name.endswith(f"{_last(good)}.bias"))
        for (_, file), sign in zip(siblings, (1, -1), strict=True):
            spoilt = {**good, bias: good[bias] + sign * torch.tensor([40.0, -40.0])}
            path = self.vault.path(file.path)
            save_weights(path, spoilt, read_card(path))  # its own: the size must stay
            stored = self.vault.seal(path, file.path)
            self.change("encore_checkpoints", "sha256", stored.sha256, path=file.path)

    def change(self, table: str, column: str, value: str, **where: str) -> None:
        """Write into the database, past all of ours."""
        ((key, known),) = where.items()
        query = f"UPDATE {table} SET {column} = ? WHERE {key} = ?"  # noqa: S608
        with closing(sqlite3.connect(self.folder / "runs" / "encore.db")) as connection:
            assert connection.execute(query, (value, known)).rowcount == 1
            connection.commit()


def _last(state: dict[str, torch.Tensor]) -> str:
    """Name the last layer of the head."""
    return "head." + str(max(int(name.split(".")[1]) for name in state if name.startswith("head.")))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Search once, by the real trainer."""
    folder = tmp_path_factory.mktemp("soup")
    noise(folder / "photos", 32, 40)
    (folder / "grid.toml").write_text(GRID)
    search(
        data=folder / "photos",
        storage=f"sqlite:///{folder / 'runs' / 'encore.db'}",
        strategy="grid",
        grid=folder / "grid.toml",
        trials=3,
        devices="cpu",
        study="photos",
        weights="random",
        portfolio=False,
        backbone="test_resnet",
    )
    return folder


@pytest.fixture
def place(searched: Path, tmp_path: Path) -> Place:
    """Return that study, to be changed, on the photos where they were."""
    shutil.copytree(searched / "runs", tmp_path / "runs")
    (tmp_path / "photos").symlink_to(searched / "photos")
    return Place(tmp_path)


def test_a_soup_that_is_better_is_written(place: Place, tmp_path: Path) -> None:
    """What is written predicts as was said, says what it is made of, and holds no stranger."""
    place.spoil()
    said: list[str] = []
    folder = tmp_path / "chosen"
    found = soup(storage=place.url, copy_to=folder, device="cpu", say=said.append)
    assert {each.trial for each in found.ingredients if each.used} == {0, 1}
    assert len(found.ingredients) == 2
    assert found.better
    assert found.p_value < 0.05
    assert found.cross.gain_interval[0] > 0
    assert found.single_score == 0.5
    assert found.file is not None
    assert [path.name for path in folder.iterdir()] == [Path(found.file).name]

    manifest = place.manifest
    photos = [manifest.root / photo.path for photo in manifest.of_split(Split.VALID)]
    predicted = load(found.file).predict(photos).argmax(axis=1)
    wrong = int((predicted != manifest.labels(Split.VALID)).sum())
    assert found.errors == wrong < found.single_errors
    _, card = read_weights(Path(found.file))
    assert card.metrics["accuracy"] == found.score == 1 - wrong / len(photos)
    for each in found.ingredients:
        assert f"trial {each.trial} {each.sha256}" in card.made_by["soup_of"]
    assert "soup of trials" in " ".join(said)


def test_a_soup_that_is_not_better_is_not_written(place: Place, tmp_path: Path) -> None:
    """Siblings that are as good as their mean give two figures and no file, not even a folder."""
    found = soup(storage=place.url, copy_to=tmp_path / "chosen", device="cpu")
    assert {each.trial for each in found.ingredients} == {0, 1}
    assert (found.better, found.file) == (False, None)
    assert found.p_value >= 0.05
    assert not (tmp_path / "chosen").exists()
    best = place.kept()[0][0]
    assert (found.single_trial, found.single_score) == (best.number, best.score)


def test_a_soup_is_written_whole_or_not_at_all(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where writing breaks off, no file is left, under whatever name."""
    place.spoil()

    def breaks_off(_: object, path: Path, *__: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainers.checkpoint.save_file", breaks_off)
    with pytest.raises(OSError, match="No space left"):
        soup(storage=place.url, copy_to=tmp_path / "chosen", device="cpu")
    assert list((tmp_path / "chosen").iterdir()) == []


def test_strangers_end_in_a_sentence(place: Place) -> None:
    """A trial of another first stage is refused with what differs, exit code 1."""
    with pytest.raises(UnrelatedWeights, match="differ in image_size") as error:
        soup(storage=place.url, trials=[0, 2])
    assert exit_code(error.value) == 1
    assert sentence(error.value).startswith("trials 0 and 2 share no first stage")


def _lone(place: Place) -> None:
    place.vault.path(place.kept()[1][1].path).unlink()


def _damaged(place: Place) -> None:
    for _, file in place.kept()[1:]:
        place.vault.path(file.path).write_bytes(b"x")


@pytest.mark.parametrize("harm", [_lone, _damaged])
def test_one_file_makes_no_soup(place: Place, harm: Callable[[Place], None]) -> None:
    """With less than two whole files of one beginning there is nothing to select."""
    harm(place)
    with pytest.raises(NothingToSelect, match="at least 2 weights files that share the best"):
        soup(storage=place.url)


def test_a_file_that_goes_meanwhile_is_told(place: Place) -> None:
    """A search that runs on may delete weights: that is a sentence, and no crash."""

    def gone(_: str) -> None:
        for _, file in place.kept():
            place.vault.path(file.path).unlink()

    with pytest.raises(NothingToSelect, match="were deleted meanwhile; let the search end first"):
        soup(storage=place.url, say=gone, device="cpu")


def test_weights_of_another_trainer_make_no_soup(place: Place) -> None:
    """Files that are no networks of Encore's are refused in a sentence."""
    for _, file in place.kept():
        path = place.vault.path(file.path)
        safetensors.torch.save_file({"x": torch.zeros(1)}, path)
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        place.change("encore_checkpoints", "sha256", content, path=file.path)
        place.change("encore_checkpoints", "size", path.stat().st_size, path=file.path)
    with pytest.raises(NothingToSelect, match="Encore's own trainer"):
        soup(storage=place.url)


def test_changed_photos_make_no_soup(place: Place) -> None:
    """The data of the study are checked first: gone photos are a refusal of data, exit code 4."""
    elsewhere, digest = str(place.folder / "elsewhere"), place.manifest.digest
    place.change("encore_manifests", "root", elsewhere, digest=digest)
    with pytest.raises(DatasetError, match="72 photos of study 'photos' are missing") as error:
        soup(storage=place.url)
    assert exit_code(error.value) == 4
