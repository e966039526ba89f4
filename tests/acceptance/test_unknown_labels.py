"""Unknown photos, sets of labels and other shares of labels, by the command line."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cli
from storage.store import open_store
from study.selection.best import best
from study.studies import find_study, manifest_of
from tests.acceptance.test_several_labels import NAMES, write_photos
from tests.tiny_search import SETTINGS, copy_of
from trainers.card import copy_with, read_card
from trainers.classifier import load
from trainers.data.sources import Split

STUDY = SETTINGS.replace("[0.01, 0.02]", "[0.01]") + "tta = [true]\n"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Search over 60 photos of three labels, and make photos of something else: plain colours."""
    folder = tmp_path_factory.mktemp("labels")
    write_photos(folder, 60)
    (folder / "others").mkdir()
    for index in range(4):
        Image.new("RGB", (40, 40), (255, 60 * index, 0)).save(folder / "others" / f"{index}.png")
    (folder / "study.toml").write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        search = ("search", "--data", "list.csv", "--trials", "1", "--metric", "macro_f1")
        assert cli.run(search) == 0
        assert cli.run(("best", "--copy-to", "chosen", "--unknown", "20%")) == 0
    return folder


@pytest.fixture(autouse=True)
def _there(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_of(searched, tmp_path / "copy", monkeypatch)


def weights() -> Path:
    """Return the copied file."""
    (file,) = (path for path in Path("chosen").iterdir() if "reference" not in path.name)
    return file


def answered(
    capsys: pytest.CaptureFixture[str], *words: str, code: int = 0
) -> tuple[dict[str, Any], str]:
    """Run `predict --json`; return what it answers, and what it says."""
    capsys.readouterr()
    assert cli.run(("predict", *words, "--json")) == code
    said = capsys.readouterr()
    return json.loads(said.out) if said.out else {}, " ".join(said.err.split())


@pytest.mark.filterwarnings("ignore:.*torch.jit.load:FutureWarning")
def test_photos_of_something_else_have_no_labels(capsys: pytest.CaptureFixture[str]) -> None:
    """By the copied weights where no study is, and by the exported network, mirror images too."""
    shutil.rmtree("runs")
    file = str(weights())
    told, said = answered(capsys, "photos", "others", "--weights", file)
    each = {answer["path"]: answer for answer in told["predictions"]}
    far = {path: answer["unknown"] for path, answer in each.items()}
    assert all(far[f"others/{index}.png"] for index in range(4))
    assert 0 < sum(far.values()) - 4 < 15
    assert all((answer["label"] is None) == answer["unknown"] for answer in each.values())
    assert "at most 20 % of photos like the 12 validation photos are called unknown" in said
    assert f"{sum(far.values())} unknown" in said
    to = ("--to", "out", "--format", "torchscript")
    assert cli.run(("export", "--weights", file, *to)) == 0
    about = json.loads(Path("out/model.json").read_text())
    assert (about["unknown"]["rate"], about["unknown"]["photos"]) == (0.2, 12)
    assert "predict no label" in about["unknown"]["words"]
    card = " ".join(Path("out/MODEL_CARD.md").read_text().split())
    assert "some of them, or none, as well, unless it is farther than" in card
    pixels = np.stack([np.asarray(Image.open(path).resize((32, 32), 2)) for path in each])
    squares = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    logits, distances = torch.jit.load("out/model.pt")(squares)  # type: ignore[no-untyped-call]
    rows = np.array([list(answer["probabilities"].values()) for answer in each.values()])
    assert logits.sigmoid().detach().numpy() == pytest.approx(rows, abs=1e-4)
    assert (distances > about["unknown"]["threshold"]).tolist() == list(far.values())


def test_sets_hold_the_stated_share_of_labels(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the validation photos themselves; more coverage, more labels, and all that are named."""
    with open_store("sqlite:///runs/encore.db", create=False) as store:
        manifest = manifest_of(store, find_study(store, best().study))
    own = {
        photo.path: set(manifest.label_text(photo).split(";")) - {""}
        for photo in manifest.of_split(Split.VALID)
    }
    sizes = []
    for coverage in (0.6, 0.8, 0.9):
        told, said = answered(capsys, *own, "--coverage", f"{100 * coverage:g}%")
        sets = {answer["path"]: set(answer["classes"]) for answer in told["predictions"]}
        held = [len(sets[path] & labels) / len(labels) for path, labels in own.items() if labels]
        assert coverage <= np.mean(held)
        assert f"sets hold at least {100 * coverage:g} % of a photo's labels, on average" in said
        named = [set(answer["label"].split(";")) - {""} for answer in told["predictions"]]
        assert all(some <= more for some, more in zip(named, sets.values(), strict=True))
        sizes.append(sum(map(len, sets.values())))
        assert told["stated"]["labelled"] == len(held)
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert cli.run(("predict", "photos", "--coverage", "80%", "--csv")) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert list(rows[0]) == ["path", "label", "probability", "set", *sorted(NAMES)]
    _, said = answered(capsys, "photos", "--coverage", "99%", code=2)
    assert "needs at least 99 validation photos with labels" in said


def test_each_label_goes_by_its_stated_share(capsys: pytest.CaptureFixture[str]) -> None:
    """Of one label the odds change, and with them what is named; older weights are refused."""
    asked = ("photos", "--weights", str(weights()), "--unknown", "0")
    plain, _ = answered(capsys, *asked)
    told, _ = answered(capsys, *asked, "--prior", "red=0.01")
    prior = dict(zip(plain["classes"], load(weights()).card.prior or (), strict=True))
    ratio = 0.01 / 0.99 / (prior["red"] / (1 - prior["red"]))
    for before, after in zip(plain["predictions"], told["predictions"], strict=True):
        p, q = (each["probabilities"] for each in (before, after))
        assert q["red"] / (1 - q["red"]) == pytest.approx(
            ratio * p["red"] / (1 - p["red"]), rel=1e-3
        )
        assert (q["green"], q["blue"]) == pytest.approx((p["green"], p["blue"]))
        there = [name for name in plain["classes"] if q[name] >= told["thresholds"][name]]
        assert after["label"] == ";".join(there)
    for wrong, says in (("pink=0.1", "one of blue, green, red"), ("red=2", "between 0 and 1")):
        assert says in answered(capsys, *asked, "--prior", wrong, code=2)[1]
    assert (
        "drop --prior"
        in answered(capsys, *asked, "--prior", "red=0.1", "--coverage", "80%", code=2)[1]
    )
    copy_with(weights(), Path("older.safetensors"), {"prior": None, "unknown": None})
    assert read_card(Path("older.safetensors")).prior is None
    older = ("photos", "--weights", "older.safetensors", "--prior", "red=0.1")
    assert "record the labels' shares in training" in answered(capsys, *older, code=2)[1]
