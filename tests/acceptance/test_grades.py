"""Grades by the command line, from a list to a folder that is exported."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cli
from tests.repeating import check_repeat
from tests.tiny_search import SETTINGS, copy_of

NAMES = ("2 good", "10 best", "1 poor")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Search over 48 photos, the brighter the better."""
    folder, rng = tmp_path_factory.mktemp("grades"), np.random.default_rng(0)
    (folder / "photos").mkdir()
    rows = [("path", "grade", "split")]
    for index in range(48):
        name = NAMES[index % 3]
        pixels = rng.normal({"1": 60, "2": 120, "10": 180}[name.split()[0]], 40, (40, 40, 3))
        path = f"photos/{index}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / path)
        rows.append((path, name, ("train", "valid")[index % 2]))
    with (folder / "list.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    (folder / "study.toml").write_text(
        f'{SETTINGS}balance = ["none", "loss"]\nmixup = [0.0, 0.2]\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.run(("check-data", "list.csv")) == 0
        search = ("search", "--data", "list.csv", "--metric", "mean_absolute_error")
        assert cli.run((*search, "--trials", "3")) == 0
    return folder


@pytest.fixture
def there(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the study to a place of this test's own."""
    return copy_of(searched, tmp_path / "copy", monkeypatch)


@pytest.mark.long
@pytest.mark.usefixtures("there")
def test_the_choice_says_how_far_grades_are_off(capsys: pytest.CaptureFixture[str]) -> None:
    """The lowest mean absolute error wins, classes keep their order, and other metrics work."""
    assert cli.run(("best", "--json")) == 0
    chosen = json.loads(capsys.readouterr().out)
    assert chosen["classes"] == ["1 poor", "2 good", "10 best"]
    off = chosen["off"]
    assert sum(off) == chosen["n_valid"] == 24
    assert chosen["score"] == pytest.approx(np.dot(off, np.arange(len(off))) / 24)
    assert chosen["score"] == pytest.approx(min(each["best"] for each in chosen["schedules"]))
    for metric in ("quadratic_kappa", "accuracy", "f1", "matthews", "auroc", "log_loss"):
        assert cli.run(("best", "--metric", metric)) == 0
    assert "within one" in capsys.readouterr().out
    assert cli.run(("best", "--metric", "macro_f1")) == 2
    assert "not for photos of one grade each" in " ".join(capsys.readouterr().err.split())


@pytest.mark.long
@pytest.mark.usefixtures("there")
def test_weights_of_grades_work_in_every_place(capsys: pytest.CaptureFixture[str]) -> None:
    """They are weights of classes: predictions sum to one; costs, ensembles and all else work."""
    assert cli.run(("predict", "photos/0.png", "--json")) == 0
    (answer,) = json.loads(capsys.readouterr().out)["predictions"]
    assert list(answer["probabilities"]) == ["1 poor", "2 good", "10 best"]
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    for command in (
        ("best", "--cost", "10 best>1 poor=2"),
        ("best", "--ensemble", "2"),
        ("compare", "0", "1"),
        ("explain", "--to", "seen", "--top", "2"),
        ("report", "--to", "report.html"),
        ("export", "--to", "out", "--format", "torchscript"),
        ("reproduce", "0"),
    ):
        assert cli.run(command) == 0, command
    assert "softmax" in json.loads(Path("out/model.json").read_text())["output"]["meaning"]
    assert "classifies photos into 3 grades" in Path("out/MODEL_CARD.md").read_text()


@pytest.mark.long
@pytest.mark.usefixtures("there")
def test_a_schedule_is_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    """`repeat` trains grades under one more seed, and `best` scores it by both."""
    check_repeat(capsys)


@pytest.mark.long
@pytest.mark.usefixtures("there")
def test_grades_in_folds_are_searched() -> None:
    """Folds deal grades as they deal classes."""
    search = ("search", "--data", "list.csv", "--study", "k", "--trials", "1", "--folds", "3")
    assert cli.run((*search, "--metric", "mean_absolute_error")) == 0
    assert cli.run(("best", "--study", "k")) == 0
