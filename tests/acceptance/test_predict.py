"""`predict` on real files with real, tiny weights: from the command line and from Python."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cli
from study.deployment.predict import Prediction, predict
from study.sanitizing import visible
from study.views import predictions
from tests.tiny_training import card_of, network_of, noise
from trainers.checkpoint import save_weights
from trainers.classifier import load
from trainers.decision import Decision

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

ROOT = Path(__file__).parents[2]
WEIGHTS = "tiny.safetensors"


def weights(**fields: Any) -> None:
    """Write the weights of a tiny network into the current folder."""
    save_weights(Path(WEIGHTS), network_of().state_dict(), card_of(**fields))


def photo(path: str, seed: int = 0) -> None:
    """Write a photo of coarse noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((40, 30)).save(path)


def list_on_stdin(monkeypatch: pytest.MonkeyPatch, lines: bytes) -> None:
    """Put lines on standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with weights, three photos, and files that are none."""
    monkeypatch.chdir(tmp_path)
    weights()
    for seed, path in enumerate(("photos/a.png", "photos/deep/b.JPG", "photos/deep/c[1].png")):
        photo(path, seed)
    photo("photos/.hidden.png")
    photo("photos/.thumbnails/small.png")
    Path("photos/note.txt").write_text("no photo")


PHOTOS = ["photos/a.png", "photos/deep/b.JPG", "photos/deep/c[1].png"]


def test_the_command_answers_as_python_does(capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON document holds what `load(...).predict` and `decide` give, whatever the flag."""
    for tta, flags, augment in (
        (False, [], False),
        (True, [], True),
        (False, ["--augment"], True),
        (True, ["--no-augment"], False),
    ):
        weights(tta=tta)
        classifier = load(WEIGHTS)
        assert cli.run(["predict", "photos", "--weights", WEIGHTS, "--json", *flags]) == 0
        told = json.loads(capsys.readouterr().out)
        rows = classifier.predict(PHOTOS, augment=augment)
        assert [each["path"] for each in told["predictions"]] == PHOTOS
        assert [each["label"] for each in told["predictions"]] == classifier.decide(rows)
        for each, row in zip(told["predictions"], rows, strict=True):
            assert list(each["probabilities"]) == list(classifier.classes)
            assert list(each["probabilities"].values()) == pytest.approx(row.tolist(), abs=1e-6)
            assert each["probability"] == max(each["probabilities"].values())
        assert (told["weights"], told["rule"], told["unreadable"]) == (WEIGHTS, None, [])


@pytest.mark.parametrize(
    "inputs",
    [
        ["photos"],
        PHOTOS,
        ["photos/**/*"],
        ["photos/*", "photos/a.png"],
        ["photos/a.png", "photos/deep/*"],
        ["-"],
    ],
    ids=["folder", "files", "all below", "twice", "pattern", "list"],
)
def test_inputs_of_all_kinds(inputs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, folders, patterns and a list on standard input give each visible photo once."""
    list_on_stdin(monkeypatch, b"photos/a.png\r\n\nphotos/deep\n")
    found = predict(inputs, weights=Path(WEIGHTS))
    assert sorted(answer.path for answer in found.answers) == PHOTOS


def test_links_in_folders() -> None:
    """As in training: none leads out, and one that leads back up repeats nothing."""
    photo("elsewhere/d.png")
    Path("photos/linked").symlink_to(Path("elsewhere").resolve())
    Path("photos/root").symlink_to("/")
    Path("photos/deep/up").symlink_to(Path("photos").resolve())
    found = predict(["photos"], weights=Path(WEIGHTS))
    assert [answer.path for answer in found.answers] == PHOTOS


def test_what_cannot_be_read_costs_nothing_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each such file has its line on stderr, all others are answered, the exit code is 1."""
    Path("photos/b.jpg").write_text("not a photo")
    Path("photos/empty.png").touch()
    list_on_stdin(monkeypatch, b"gone.png\n")
    assert cli.run(["predict", "photos", "-", "--weights", WEIGHTS, "--csv"]) == 1
    said = capsys.readouterr()
    assert [row["path"] for row in csv.DictReader(said.out.splitlines())] == PHOTOS
    assert said.err.splitlines()[:3] == [
        "photos/b.jpg: cannot be read: not an image",
        "photos/empty.png: cannot be read: empty file",
        "gone.png: cannot be read: No such file or directory",
    ]
    assert said.err.splitlines()[-1].startswith("6 photos: ")
    assert said.err.splitlines()[-1].endswith(", 3 unreadable")


def test_csv_runs_no_formula(capsys: pytest.CaptureFixture[str]) -> None:
    """Cells that a spreadsheet would run are text; the other cells are as they were."""
    weights(classes=("@roses", 'tulips, "red"'))
    names = ["=1+1.png", "+1.png", "-1.png", "@x.png", "\tx.png", "\rx.png", "a=1,2.png"]
    for name in names:
        photo(name)
    assert cli.run(["predict", "--weights", WEIGHTS, "--csv", "--", *names]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out, newline="")))
    assert rows[0] == ["path", "label", "probability", "'@roses", 'tulips, "red"']
    assert [row[0] for row in rows[1:]] == [
        *(f"'{visible(name)}" for name in names[:6]),
        "a=1,2.png",
    ]
    assert {row[1] for row in rows[1:]} <= {"'@roses", 'tulips, "red"'}
    assert all(float(row[3]) + float(row[4]) == pytest.approx(1, abs=1e-5) for row in rows[1:])


@pytest.mark.parametrize("many", [2, 500])
def test_names_are_printed_literally(
    many: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither markup nor what steers a terminal acts: in a table, in plain lines, on stderr."""
    monkeypatch.setattr(predictions, "MANY_PHOTOS", many)
    weights(classes=("[bold]roses", "[/]\x1b[2J"))
    names = ["[red]x[/].png", ":fire:.png", "\x1b[31m.png", "two\nlines.png"]
    for seed, name in enumerate(names):
        photo(name, seed)
    Path("[b]\x1b.jpg").write_text("not a photo")
    assert cli.run(["predict", *names, "[b]\x1b.jpg", "--weights", WEIGHTS]) == 1
    said = capsys.readouterr()
    for name in ("[red]x[/].png", ":fire:.png", r"\x1b[31m.png", r"two\nlines.png"):
        assert name in said.out
    assert r"[b]\x1b.jpg: cannot be read" in said.err
    assert "[bold]roses, " in said.err
    assert r"[/]\x1b[2J" in said.err
    assert "\x1b" not in said.out + said.err
    assert len(said.out.splitlines()) == 4 + (many > 4)  # the table has a head


def test_a_name_that_is_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A file whose name is not UTF-8 is predicted, and written with its bytes spelled out."""
    Path(os.fsdecode(b"photos/\xff.png")).write_bytes(Path("photos/a.png").read_bytes())
    for flags in (["--json"], ["--csv"], []):
        assert cli.run(["predict", "photos", "--weights", WEIGHTS, *flags]) == 0
        assert "xff.png" in capsys.readouterr().out


def test_the_rule_in_the_weights_is_applied(capsys: pytest.CaptureFixture[str]) -> None:
    """Prices and the reject option in the file decide, and the summary says so."""
    rule = Decision(((0, 1), (1, 0)), temperature=2.0, reject_cost=0.0)
    weights(decision=rule.to_dict())
    assert cli.run(["predict", "photos", "--weights", WEIGHTS, "--json"]) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told["rule"]["temperature"] == 2
    assert [each["label"] for each in told["predictions"]] == [None] * 3
    calibrated = rule.calibrated(load(WEIGHTS).predict(PHOTOS)).max(axis=1)
    found = [each["probability"] for each in told["predictions"]]
    assert found == pytest.approx(calibrated.tolist(), abs=1e-6)
    assert "their rule was applied: all mistakes cost the same" in said.err
    assert "temperature 2; rejected where any prediction costs more than 0 on average" in said.err
    assert said.err.splitlines()[-1] == "3 photos: 0 roses, 0 tulips \u2740, 3 rejected"
    assert cli.run(["predict", "photos", "--weights", WEIGHTS, "--csv"]) == 0
    assert ["" for _ in PHOTOS] == [
        row["label"] for row in csv.DictReader(capsys.readouterr().out.splitlines())
    ]


def test_prices_change_the_answer() -> None:
    """With the price of one mistake high enough, every photo is named the other class."""
    for costs, label in ((((0, 1e6), (1, 0)), "roses"), (((0, 1), (1e6, 0)), "tulips \u2740")):
        weights(decision=Decision(costs).to_dict())
        answers = list(predict(["photos"], weights=Path(WEIGHTS)).answers)
        for answer in answers:
            assert isinstance(answer, Prediction)
            assert answer.label == label
            assert answer.probability == answer.probabilities[label]
        assert len(answers) == 3


def test_the_weights_are_those_that_best_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a search, `predict PHOTOS` alone uses the best weights of the study used last."""
    noise(tmp_path / "data")
    Path("study.toml").write_text(
        'backbone = "test_resnet"\nweights = "random"\nportfolio = false\n[space]\nn_stages = [1]\n'
        "image_size = [32]\nbatch_size = [8]\nlrs = [0.001]\ncycle_len = [1]\n"
    )
    assert cli.run(["search", "--data", "data", "--trials", "1"]) == 0
    capsys.readouterr()
    assert cli.run(["best", "--json"]) == 0
    file = json.loads(capsys.readouterr().out)["file"]
    assert cli.run(["predict", "data/valid", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["weights"] == file
    rows = load(file).predict([each["path"] for each in told["predictions"]])
    assert [each["label"] for each in told["predictions"]] == load(file).decide(rows)
    assert len(rows) == 8


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "predict needs PHOTO"),
        (("photos", "--json", "--csv"), 2, "--json or --csv, not both"),
        (("photos", "--study", "x"), 2, "--weights or --study, not both"),
        (("photos", "--device", "warp"), 2, "device 'warp' cannot be used here"),
        (("absent.jpg",), 2, "there is no file or folder 'absent.jpg'"),
        (("photos", "absent.jpg"), 2, "there is no file or folder 'absent.jpg'"),
        (("hollow",), 2, "'hollow' holds no photos"),
        (("photos/*.gif",), 2, "'photos/*.gif' holds no photos, or matches none"),
        (("photos/*.txt",), 2, "'photos/*.txt' holds no photos, or matches none"),
        (("-",), 2, "standard input names no photo"),
        (("photos", "--weights", "absent.safetensors"), 2, "no weights file 'absent.safetensors'"),
        (("photos", "--weights", "photos/note.txt"), 1, "not a whole safetensors file"),
    ],
)
def test_wrong_input_is_one_sentence(
    arguments: tuple[str, ...],
    code: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each mistake gives its exit code and names the thing, and nothing on stdout."""
    list_on_stdin(monkeypatch, b"\n")
    Path("hollow").mkdir()
    assert cli.run(["predict", "--weights", WEIGHTS, *arguments]) == code
    said = capsys.readouterr()
    assert says in said.err
    assert "unexpected" not in said.err
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1


def test_no_study_and_foreign_weights(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a study there is nothing to use; a pickle is refused, not loaded."""
    assert cli.run(["predict", "photos"]) == 5
    assert "search" in capsys.readouterr().err
    torch.save(network_of().state_dict(), "pickle.pth")
    assert cli.run(["predict", "photos", "--weights", "pickle.pth"]) == 1
    assert "'pickle.pth' is not a whole safetensors file" in capsys.readouterr().err


@pytest.mark.long
def test_a_mistake_costs_no_import_of_torch() -> None:
    """A file that is not there is told without the seconds that torch takes."""
    code = (
        "import sys, cli\nassert cli.run(['predict', '--help']) == 0\n"
        "assert cli.run(['predict', 'absent.jpg']) == 2\nassert 'torch' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_shares_of_classes_may_be_others_than_in_training(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Probabilities go by --prior; weights that do not tell their own, and misuse, end with 2."""
    asked = ("predict", "photos/a.png", "--weights", WEIGHTS)
    assert cli.run((*asked, "--prior", "a=0.9")) == 2
    assert "--prior needs weights that record the classes' shares" in capsys.readouterr().err
    weights(prior=(0.5, 0.5))

    def odds(*flags: str) -> float:
        assert cli.run((*asked, "--json", *flags)) == 0
        [found] = json.loads(capsys.readouterr().out)["predictions"]
        first, second = found["probabilities"].values()
        return float(first / second)

    first = card_of().classes[0]
    assert odds("--prior", f"{first}=0.9") == pytest.approx(9 * odds(), rel=1e-4)
    assert cli.run((*asked, "--prior", "z=0.9")) == 2
    assert "--prior must be CLASS=SHARE with one of" in capsys.readouterr().err
