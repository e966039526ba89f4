"""Weights say what made them, and the same weights come again: a real search on tiny photos."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import save_file

import cli
from storage.database import open_database
from storage.records import Kind
from storage.store import Store
from study.provenance.lookup import FileState
from study.provenance.reproduce import reproduce, what_made
from study.searching.search import search
from tests.tiny_training import SEARCH, noise
from trainers.base import StageTask
from trainers.card import read_card
from trainers.checkpoint import read_weights, save_weights
from trainers.data.manifest import DatasetError
from trainers.errors import NotOurWeights
from trainers.finetuner import Finetuner

SPACE: dict[str, Any] = {
    "n_stages": [2],
    "image_size": [24],
    "batch_size": [8],
    "n_cycles": [2],
    "cycle_mult": [1],
    "dropout": [0.3],
    "lrs": [0.01, 0.02],
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Search once: two trials of two stages with two epochs each."""
    folder = tmp_path_factory.mktemp("searched")
    noise(folder / "photos")
    search(
        data=folder / "photos",
        storage=url(folder),
        **SEARCH,
        trials=2,
        space=SPACE,
    )
    return folder


@pytest.fixture
def folder(searched: Path, tmp_path: Path) -> Iterator[Path]:
    """Yield the searched folder, to be damaged: it is put back afterwards."""
    shutil.copytree(searched, tmp_path / "before")
    yield searched
    shutil.rmtree(searched)
    shutil.copytree(tmp_path / "before", searched)


def url(folder: Path) -> str:
    """Return the URL of the database."""
    return f"sqlite:///{folder / 'runs' / 'encore.db'}"


def weights(folder: Path, trial: int = 0) -> Path:
    """Return the best weights of a trial: which stage they are of, chance decides."""
    return Path(what_made(str(trial), storage=url(folder)).file or "")


def everything(folder: Path) -> dict[str, bytes]:
    """Return all files beside the database with their contents."""
    files = (path for path in (folder / "runs").rglob("*") if path.is_file())
    return {str(p): p.read_bytes() for p in files if "encore.db" not in p.name}


def rows(folder: Path) -> list[Any]:
    """Return all that the database says of the study."""
    store = Store(open_database(url(folder)))
    try:
        study = store.study("photos")
        runs = store.stage_runs(study.id)
        kept = store.checkpoints(study.id), store.deletions(study.id)
        return [study, store.trials(study.id), runs, store.epochs_of_study(study.id), *kept]
    finally:
        store.close()


def rewrite(file: Path, to: Path, **fields: Any) -> Path:
    """Copy a weights file with another card."""
    state, card = read_weights(file)
    save_weights(to, state, type(card)(**{**vars(card), **fields}))
    return to


def retire(folder: Path, kind: Kind = Kind.BEST) -> None:
    """Delete the weights of one kind on purpose, as `gc` does."""
    store = Store(open_database(url(folder)))
    for file in store.checkpoints(store.study("photos").id):
        if file.kind is kind:
            store.retire_checkpoint(file, "not among [bold]the best[/]")
            (folder / "runs" / "photos" / file.path).unlink()
    store.close()


def run(folder: Path, *words: str) -> int:
    """Run the command in this process; return its exit code."""
    return cli.run(["reproduce", *words, "--storage", url(folder)])


def test_weights_come_again_bit_identical_and_nothing_is_left(searched: Path) -> None:
    """All stages are trained again to the same bits; vault, rows and folders stay as they were."""
    files, known, threads = everything(searched), rows(searched), torch.get_num_threads()
    told: list[Any] = []
    again = reproduce("1", storage=url(searched), listener=told.append)
    assert again.reproduced
    assert (again.identical, again.largest_difference) == (True, 0.0)
    assert (again.other_predictions, again.photos, again.as_recorded) == (0, 8, True)
    assert (again.score, again.loss) == (again.recorded_score, again.recorded_loss)
    assert again.provenance.state is FileState.WHOLE
    assert again.provenance.drift == ()
    assert any("epoch 1 of 2: accuracy" in str(news) for news in told)
    assert everything(searched) == files
    assert rows(searched) == known
    assert sorted(path.name for path in (searched / "runs").glob(".*")) == [".cache"]
    assert torch.get_num_threads() == threads


@pytest.mark.long
def test_each_file_of_a_study_comes_again(searched: Path) -> None:
    """Both stages' weights, kept or not, and a `last`, which has no card, are made again."""
    *_, kept, deleted = rows(searched)
    stages = set()
    for row in (*kept, *deleted):
        again = reproduce(str(searched / "runs" / "photos" / row.path), storage=url(searched))
        made = again.provenance
        assert again.identical is (True if row in kept else None)
        assert again.as_recorded
        assert bool(made.made_by) == (row in kept and row.kind is Kind.BEST)
        stages.add((made.stage, row.kind))
    assert stages == {(0, Kind.BEST), (0, Kind.LAST), (1, Kind.BEST)}


def test_a_file_tells_what_made_it(searched: Path) -> None:
    """Trial, schedule, seed, score and circumstances are those of the search, by path or number."""
    file = weights(searched)
    made, card = what_made(str(file), storage=url(searched)), read_card(file)
    assert asdict(made) == asdict(what_made("0", storage=url(searched)))
    assert (made.study, made.trial, made.seed) == ("photos", 0, 0)
    assert (made.stage, made.epoch, made.metrics) == (card.stage, card.epoch, card.metrics)
    assert made.score == card.metrics["accuracy"]
    assert made.made_by["command"] == "search(...)"
    assert made.made_by["device"] == "cpu, fp32"
    assert made.made_by["threads"] == "1"
    assert made.made_by["processor"]
    assert made.packages["torch"] == version("torch")
    assert made.sha256 == made.recorded_sha256
    assert len(made.schedule["stages"]) == made.stage + 1
    (how,) = made.how
    assert how.startswith("encore reproduce --run 0 --study photos --storage sqlite:")


def test_a_changed_photo_is_named_and_refuses_to_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the photos were is shown as drift; training others would prove nothing: exit code 4."""
    photo = next((folder / "photos" / "train" / "a").iterdir())
    shutil.copy(next((folder / "photos" / "train" / "b").iterdir()), photo)
    (drift,) = what_made("0", storage=url(folder)).drift
    assert drift.what == "data"
    assert f"1 changed ('train/a/{photo.name}')" in drift.now
    with pytest.raises(DatasetError):
        reproduce("0", storage=url(folder))
    assert run(folder, "0", "--run") == 4
    assert f"1 changed ('train/a/{photo.name}')" in capsys.readouterr().err
    shutil.rmtree(folder / "photos")
    assert "does not exist" in what_made("0", storage=url(folder)).drift[0].now


def test_other_versions_and_devices_are_named(searched: Path, tmp_path: Path) -> None:
    """What differs from the card is drift, then and now; with a reason, other weights are none."""
    file = weights(searched)
    state, card = read_weights(file)
    packages = card.packages | {"torch": "1.0"}
    made_by = card.made_by | {"processor": "abacus", "device": "NVIDIA H200, fp32", "commit": "c0"}
    copy = rewrite(file, tmp_path / "copy.safetensors", packages=packages, made_by=made_by)
    made = what_made(str(copy), storage=url(searched), device="cpu")
    drift = {each.what: (each.then, each.now) for each in made.drift}
    assert drift.keys() == {"torch", "processor", "device", "commit"}
    assert drift["torch"] == ("1.0", version("torch"))
    assert drift["device"] == ("NVIDIA H200, fp32", "cpu, fp32")
    assert (made.trial, made.state) == (0, FileState.CHANGED)

    with torch.no_grad():
        state[next(iter(state))].view(-1)[0] += 0.5
    save_weights(copy, state, read_weights(copy)[1])
    again = reproduce(str(copy), storage=url(searched), device="cpu")
    assert again.identical is False
    assert again.largest_difference == pytest.approx(0.5)
    assert again.as_recorded
    assert again.reproduced


def test_other_weights_without_a_reason_are_a_failure(
    searched: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing has changed and yet other bits come, the exit code is 1, and 0 otherwise."""
    assert run(searched, "0", "--run") == 0
    assert "all tensors are bit-identical" in capsys.readouterr().out
    real = Finetuner.train

    def luckier(self: Finetuner, task: StageTask) -> Any:
        lucky = StageTask(schedule=task.schedule, seed=7, folder=task.folder, start=task.start)
        return real(self, lucky)

    monkeypatch.setattr(Finetuner, "train", luckier)
    assert run(searched, "0", "--run", "--json") == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["identical"], said["reproduced"], said["as_recorded"]) == (False, False, False)
    assert said["largest_difference"] > 0
    assert said["provenance"]["drift"] == []


def test_deleted_weights_are_made_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither their file nor a card is left: predictions and loss say that they are the same."""
    place = weights(folder)
    retire(folder)
    for target in ("0", str(place)):
        again = reproduce(target, storage=url(folder))
        assert again.provenance.state is FileState.DELETED
        assert again.identical is None
        assert again.as_recorded
        assert again.reproduced
    assert run(folder, "0") == 0
    assert "deleted (not among [bold]the best[/])" in capsys.readouterr().out
    assert not place.exists()


def test_missing_and_damaged_files_are_told_apart(folder: Path) -> None:
    """Half a file and no file are named as such, and made again all the same."""
    place = weights(folder)
    place.write_bytes(place.read_bytes()[:1000])
    again = reproduce(str(place), storage=url(folder))
    assert (again.provenance.state, again.identical) == (FileState.CHANGED, None)
    assert again.reproduced
    place.unlink()
    assert what_made("0", storage=url(folder)).state is FileState.MISSING


def test_a_copy_is_recognised_wherever_it_lies(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under another name it is known by its bytes, even when its original was deleted."""
    copy = Path(shutil.copy(weights(folder, 1), tmp_path / "chosen.safetensors"))
    retire(folder)
    monkeypatch.chdir(tmp_path)
    again = reproduce("chosen.safetensors", storage=url(folder))
    assert again.provenance.study == "photos"
    assert again.provenance.state is FileState.WHOLE
    assert again.identical
    assert copy.exists()


def test_a_file_unknown_here_says_what_its_card_says(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another database's weights are described by their card alone, and cannot be made again."""
    name = "\x1b[31m[red]a[/] [/] [bold"
    foreign = rewrite(
        weights(searched),
        tmp_path / "foreign.safetensors",
        seed=99,
        made_by={"command": name, "device": name},
        packages={name: name},
    )
    made = what_made(str(foreign), storage=url(searched))
    assert (made.study, made.trial, made.seed) == (None, None, 99)
    assert made.state is FileState.UNLISTED
    assert made.metrics.keys() >= {"accuracy", "valid_loss"}
    assert run(searched, str(foreign)) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "[31m[red]a[/] [/] [bold" in said
    assert run(searched, str(foreign), "--run") == 1
    assert "knows no trial that made" in capsys.readouterr().err


def hostile(file: Path, change: Callable[[dict[str, Any]], Any], to: Path) -> Path:
    """Copy a weights file with a card that a person has written."""
    with safetensors.safe_open(file, "pt") as opened:
        plain = json.loads(opened.metadata()["encore"])
    change(plain)
    save_file({"a": torch.zeros(1)}, to, {"encore": json.dumps(plain)})
    return to


CHANGES: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "a seed that is none": lambda card: card.update(seed="1"),
    "no schedule": lambda card: card.update(schedule={"backbone": "x"}),
    "versions that are none": lambda card: card.update(packages=[1]),
    "a digest that is none": lambda card: card.update(manifest_digest=None),
    "numbers that are none": lambda card: card.update(metrics=3),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_card_that_cannot_be_relied_on_is_refused(
    searched: Path, tmp_path: Path, what: str
) -> None:
    """Whatever a card contains, the answer is a sentence that names the file."""
    file = hostile(weights(searched), CHANGES[what], tmp_path / "hostile.safetensors")
    with pytest.raises(NotOurWeights, match=re.escape(str(file))):
        what_made(str(file), storage=url(searched))


def test_what_is_no_weights_of_ours_is_a_sentence(searched: Path, tmp_path: Path) -> None:
    """A text, another program's safetensors, a folder, a typo, and numbers that no trial has."""
    text, foreign = tmp_path / "notes.txt", tmp_path / "other.safetensors"
    text.write_text("accuracy 98 %")
    save_file({"weight": torch.zeros(2)}, foreign)
    for file in (text, foreign):
        with pytest.raises(NotOurWeights, match=re.escape(str(file))):
            what_made(str(file), storage=url(searched))
        assert run(searched, str(file)) == 1
    for nothing, why in ((tmp_path, "is a folder"), ("acc99", "neither a trial's number nor")):
        with pytest.raises(LookupError, match=why):
            what_made(str(nothing), storage=url(searched))
    with pytest.raises(LookupError, match="no trial 77"):
        what_made("77", storage=url(searched))
    assert run(searched, "0", "--device", "quantum") == 2


def test_ctrl_c_leaves_nothing_behind(searched: Path) -> None:
    """If it is stopped in the middle of a stage, no folder of it is left."""
    files = everything(searched)

    def interrupt(news: Any) -> None:
        if "epoch 1 of 2" in str(news):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce("0", storage=url(searched), listener=interrupt)
    assert everything(searched) == files
    assert sorted(path.name for path in (searched / "runs").glob(".*")) == [".cache"]
