"""Photos of several labels in folds, ensembles and soups, and compared with a list of answers."""

import csv
import io
import json
import re
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cli
from study.deployment.reference import references_of
from study.selection import soup
from study.selection.several_labels import LabelScores
from study.statistics.crossfit import CrossFit
from tests.labelled import NAMES, write_photos
from tests.tiny_search import copy_of
from trainers.card import read_card
from trainers.classifier import load

SETTINGS = """
backbone = "test_resnet"
weights = "random"
portfolio = false
sampler = "random"
strategy = "independent"
[space]
n_stages = [2]
image_size = [32]
batch_size = [8]
lrs = [0.001, 0.002]
cycle_len = [1]
[[space.stages]]
lrs = [0.001]
"""

Told = Callable[..., Any]


def searched(folder: Path, photos: int, metric: str, *flags: str) -> Path:
    """Search over photos of three labels: two trials that share their first stage."""
    write_photos(folder, photos)
    (folder / "study.toml").write_text(SETTINGS)
    said = io.StringIO()
    search = ("search", "--data", "list.csv", "--trials", "2", "--metric", metric, *flags)
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(said), redirect_stdout(said):
        patch.chdir(folder)
        assert cli.run(search) == 0, said.getvalue()
    return folder


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Search 40 photos in 3 folds."""
    return searched(tmp_path_factory.mktemp("folded"), 50, "mean_average_precision", "--folds", "3")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Search 60 photos in one split, by a score that second stages surely raise."""
    return searched(tmp_path_factory.mktemp("split"), 60, "log_loss")


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """Return what runs a command, and gives its words, or its JSON if asked for that."""

    def run(*words: str) -> Any:
        capsys.readouterr()
        ended = cli.run(words)
        found = capsys.readouterr()
        assert ended == 0, found.err
        return json.loads(found.out) if "--json" in words else " ".join(found.out.split())

    return run


def test_folds_of_labels_are_chosen_as_one_file(
    folded: Path, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each photo is judged by its own fold's network; the file's thresholds are of all of them."""
    copy_of(folded, tmp_path / "copy", monkeypatch)
    chosen = told("best", "--json")
    assert (chosen["folds"], chosen["n_valid"]) == (3, 40)
    assert all(sum(row) == 40 for row in chosen["confusion"])
    assert chosen["score"] == pytest.approx(chosen["several"]["mean_average_precision"])
    told("best", "--copy-to", "chosen")
    (file,) = Path("chosen").iterdir()
    card, classifier = read_card(file), load(file)
    several = chosen["several"]
    better = several["own_macro_f1"] > several["macro_f1"]
    cuts = [each["threshold"] for each in several["each"]] if better else None
    assert (card.folds, card.kind) == (3, "labels")
    assert card.thresholds == (cuts and tuple(cuts))
    photo = Path("photos/0.png")
    each = [classifier.of_fold(number).predict([photo]) for number in range(3)]
    mean = np.mean(each, axis=0)
    assert classifier.predict([photo]) == pytest.approx(mean, abs=1e-6)
    (answer,) = told("predict", "--weights", str(file), str(photo), "--json")["predictions"]
    there = mean[0] >= (cuts or 0.5)
    assert answer["label"] == ";".join(np.array(card.classes)[there])
    assert "3 folds" in told("best")
    for words in (("ls",), ("show", "0"), ("tree",), ("compare", "0", "1"), ("doctor",)):
        told(*words)
    again = told("reproduce", str(chosen["trial"]), "--run", "--json")
    assert (again["identical"], again["photos"]) == (True, 40)


def test_sets_of_labels_hold_the_stated_share_in_folds(
    folded: Path, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of photos that no network was trained on, about; each fold's networks say what p-values are.

    The sets hold what is named, and more for more coverage.
    """
    copy_of(folded, tmp_path / "copy", monkeypatch)
    with Path("list.csv").open() as lines:
        own = {row["path"]: set(row["labels"].split(";")) - {""} for row in csv.DictReader(lines)}
    file, sizes = told("best", "--json")["file"], []
    classifier = load(Path(file))
    for coverage in (0.6, 0.9):
        found = told("predict", "photos", "--coverage", str(coverage), "--unknown", "0.1", "--json")
        assert (found["stated"]["photos"], found["stated"]["folds"]) == (40, 3)
        assert found["stated"]["labelled"] <= 40
        sets = {each["path"]: set(each["classes"]) for each in found["predictions"]}
        named = [set((each["label"] or "").split(";")) - {""} for each in found["predictions"]]
        assert all(some <= more for some, more in zip(named, sets.values(), strict=True))
        held = [len(sets[p] & some) / len(some) for p, some in own.items() if some]
        assert np.mean(held) >= coverage - 0.1
        sizes.append(sum(map(len, sets.values())))
    assert sizes[0] < sizes[1]
    references = references_of(classifier, Path(file), "sqlite:///runs/encore.db")
    [(_, row)] = classifier.look(["photos/0.png"], references=references)
    assert isinstance(row, np.ndarray)
    pairs = zip(references, row[:, -1], strict=True)
    above = sum(int((one.distances >= far).sum()) for one, far in pairs)
    (answer,) = told("predict", "photos/0.png", "--unknown", "0.1", "--json")["predictions"]
    assert answer["p_value"] == pytest.approx((1 + above) / 41)


@pytest.mark.long
def test_networks_of_all_folds_work_in_every_place(
    folded: Path, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refit, final test, pages, pictures and the exported network know labels and folds."""
    copy_of(folded, tmp_path / "copy", monkeypatch)
    assert "on 40 photos, those of all 3 folds" in told("best", "--refit", "--copy-to", "made")
    (made,) = Path("made").glob("refit_*.safetensors")
    assert (read_card(made).folds, read_card(made).kind) == (0, "labels")
    assert "labels of 10 test photos" in told("best", "--final-test")
    told("report", "--to", "report.html")
    assert "in 3 folds: each is judged" in Path("report.html").read_text(encoding="utf-8")
    told("explain", "--to", "seen", "--top", "2", "--class", "red")
    told("export", "--to", "out", "--format", "torchscript")
    assert "dealt into 3 folds" in Path("out/MODEL_CARD.md").read_text(encoding="utf-8")


def test_an_ensemble_counts_labels(
    folded: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its errors are of single labels, and alone, it is the file that `best` chooses by score."""
    monkeypatch.chdir(folded)
    alone, chosen = (told("best", *words, "--by", "max", "--json") for words in
                     (("--ensemble", "1"), ()))  # fmt: skip
    found = alone["ensemble"]
    assert (found["labels"], found["n_valid"]) == (120, 40)
    assert (found["score"], found["errors"]) == (
        pytest.approx(chosen["score"], abs=1e-6), chosen["errors"])  # fmt: skip
    assert "labels of 40 photos" in told("best", "--ensemble", "3")


def test_a_soup_of_labels_is_written_with_thresholds(
    split: Path, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not better is not written; what is tells labels, by thresholds where they help."""
    copy_of(split, tmp_path / "copy", monkeypatch)
    found = told("best", "--soup", "--json")["soup"]
    assert (found["labels"], found["n_valid"]) == (3 * found["n_valid"], 12)
    monkeypatch.setattr(soup, "choose_soup", lambda *_: (0, 1))
    sure = CrossFit(0.9, 0.8, 0.1, (0.05, 0.15)), 0.001
    monkeypatch.setattr(soup._GreedySoup, "_cross_fit", lambda _: sure)
    monkeypatch.setattr(soup._GreedySoup, "_thresholds", lambda *_: (0.1, 0.2, 0.3))
    made = told("best", "--soup", "--copy-to", "made", "--json")["soup"]
    card = read_card(Path(made["file"]))
    assert (card.kind, card.thresholds) == ("labels", (0.1, 0.2, 0.3))
    (answer,) = told("predict", "--weights", made["file"], "photos/0.png", "--json")["predictions"]
    named = {name for name, share in answer["probabilities"].items()
             if share >= dict(zip(card.classes, (0.1, 0.2, 0.3), strict=True))[name]}  # fmt: skip
    assert answer["label"] == ";".join(sorted(named))


def test_a_trainer_of_ones_own_tells_labels(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example of docs/own-training.md does with the two lines that the page gives for them."""
    page = (Path(__file__).parents[2] / "docs/own-training.md").read_text(encoding="utf-8")
    (text,) = (each for each in re.findall(r"```python\n(.*?)```", page, re.S) if "import" in each)
    loss, found = (
        line for each in re.findall(r"```python\n(.*?)```", page, re.S) if "import" not in each
        for line in each.splitlines()
    )  # fmt: skip
    text = re.sub(r"loss = nn.functional.*", loss.strip(), text)
    text = re.sub(r"found = Evaluation.*", found.strip(), text)
    write_photos(tmp_path, 60)
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    search = ("search", "--data", "list.csv", "--trainer", "mine:MyTrainer", "--devices", "cpu")
    space = "[space]\nn_stages = [1]\nimage_size = [32]\nbatch_size = [8]\ncycle_len = [2]\n"
    (tmp_path / "study.toml").write_text(space)
    told(*search, "--trials", "2", "--metric", "mean_average_precision")
    monkeypatch.setattr(LabelScores, "thresholds", property(lambda _: (0.2, 0.3, 0.4)))
    chosen = told("best", "--copy-to", "copy", "--json")
    assert chosen["score"] == pytest.approx(chosen["several"]["mean_average_precision"])
    (copied,) = Path("copy").iterdir()
    assert copied.read_bytes() == Path(chosen["file"]).read_bytes()


def test_a_trial_is_compared_with_a_list_of_answers(
    split: Path,
    told: Told,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What `predict --csv` writes is what the trial has answered; a list of data is all right."""
    monkeypatch.chdir(split)
    file = told("best", "--by", "max", "--json")
    assert cli.run(("predict", "--weights", file["file"], "photos", "--csv")) == 0
    text, rows, numbers = capsys.readouterr().out, tmp_path / "rows.csv", tmp_path / "numbers.csv"
    rows.write_text(text, encoding="utf-8")
    found = told("compare", str(file["trial"]), str(rows), "--json")
    assert found["differences"] == []
    assert found["first"]["errors"] == found["second"]["errors"]
    truth = told("compare", str(file["trial"]), "list.csv", "--json")
    assert truth["second"]["errors"] == 0
    assert {each["label"]: each["first"] for each in truth["labels"]}.keys() == set(NAMES)
    assert sum(each["first"] for each in truth["labels"]) == file["errors"]
    with numbers.open("w", encoding="utf-8", newline="") as out:
        table = csv.DictWriter(out, ("path", *NAMES), extrasaction="ignore")
        table.writeheader()
        table.writerows(csv.DictReader(text.splitlines()))
    assert told("compare", str(file["trial"]), str(numbers), "--json")["differences"] == []
