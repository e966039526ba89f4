"""`best` and `compare` from the command line, on a real search of tiny photos with a test split."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from PIL import Image
from scipy.stats import binomtest

import cli
from storage.database import open_database
from storage.store import Store
from tests.tiny_training import card_of, network_of, tensors
from trainers.checkpoint import save_weights
from trainers.classifier import load
from trainers.decision import Decision

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

Capture = pytest.CaptureFixture[str]
SPLITS = ("train", "valid")
SETTINGS = (
    'backbone = "test_resnet"\nweights = "random"\nportfolio = false\n[space]\nn_stages = [1]\n'
    "image_size = [32]\nbatch_size = [8]\nlrs = [0.001]\ncycle_len = [1, 2]\n"
)


def fill(root: Path, splits: dict[str, int]) -> None:
    """Write photos of noise into `root`/SPLIT/CLASS, a little lighter in one of two classes."""
    rng = np.random.default_rng(0)
    for split, count in splits.items():
        for index in range(count):
            label = index % 2
            pixels = rng.integers(label * 20, 236 + label * 20, (30, 36, 3), dtype=np.uint8)
            path = root / split / "ab"[label] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Search once, two trials."""
    here = tmp_path_factory.mktemp("searched")
    fill(here / "data", {"train": 16, "valid": 12, "test": 10})
    (here / "study.toml").write_text(SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        assert cli.run(["search", "--data", "data", "--trials", "2", "--study", "planes"]) == 0
    return here


@pytest.fixture
def here(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a copy of the finished search; the photos are where they were."""
    copied = tmp_path / "here"
    shutil.copytree(searched, copied, ignore=shutil.ignore_patterns("data", ".cache"))
    monkeypatch.chdir(copied)
    return copied


def test_a_search_ends_with_the_best_and_what_to_do_next(
    searched: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """As all trials are done, nothing is trained: the end alone is printed."""
    monkeypatch.chdir(searched)
    capsys.readouterr()
    assert cli.run(["search", "--data", "data", "--trials", "2", "--study", "planes"]) == 0
    said = capsys.readouterr()
    ends = [line for line in said.err.splitlines() if line.startswith("next: ")]
    commands = ("best", "report --open", "export --to exported")
    assert all(line.endswith(f" {what}") for line, what in zip(ends, commands, strict=True))
    assert "acc" in said.out


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("words", ["--cost a>b=5", "--ensemble 2", "--final-test"])
def test_what_was_asked_of_best_is_all_that_it_prints(capsys: Capture, words: str) -> None:
    """The ten lines of the choice itself are for `best` alone."""
    capsys.readouterr()
    assert cli.run(["best", *words.split()]) == 0
    said = capsys.readouterr().out
    assert said
    assert "--details" not in said


def asked(capsys: Capture, *arguments: str) -> Any:
    """Run a command with `--json`, which must succeed, and return its document."""
    capsys.readouterr()
    assert cli.run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def looks() -> list[Any]:
    """Return the looks that the database knows."""
    store = Store(open_database("sqlite:///runs/encore.db"))
    try:
        return store.looks(store.studies()[0].id)
    finally:
        store.close()


def test_the_final_test_is_what_the_file_says_of_the_photos(
    here: Path, searched: Path, capsys: Capture
) -> None:
    """Errors, accuracy and prices are those counted here, with the weights alone."""
    found = asked(capsys, "best", "--final-test", "--cost", "a>b=5")
    paths = sorted((searched / "data" / "test").rglob("*.png"))
    classifier = load(here / found["file"])
    table = classifier.predict(paths)
    labels = np.array(["ab".index(path.parent.name) for path in paths])
    test = found["final_test"]
    assert test["photos"] == len(paths) == 10
    assert test["errors"] == int((table.argmax(axis=1) != labels).sum())
    assert test["accuracy"] == test["score"] == 1 - test["errors"] / 10
    assert test["low"] < test["accuracy"] < test["high"] or test["errors"] in (0, 10)
    rule = Decision(
        tuple(map(tuple, found["operation"]["decision"]["costs"])),
        found["operation"]["decision"]["temperature"],
    )
    prices = [((0, 5), (1, 0))[i][j] for i, j in zip(labels, rule.decide(table), strict=True)]
    assert test["cost"] == pytest.approx(np.mean(prices))


@pytest.mark.parametrize("metric", ["log_loss", "auroc", "balanced_accuracy"])
def test_the_final_test_is_scored_as_it_was_chosen(
    searched: Path, here: Path, capsys: Capture, metric: str
) -> None:
    """By the criterion that was asked for, as scikit-learn counts it."""
    from sklearn import metrics

    found = asked(capsys, "best", "--final-test", "--metric", metric)
    paths = sorted((searched / "data" / "test").rglob("*.png"))
    table = load(here / found["file"]).predict(paths).astype(float)
    labels = np.array(["ab".index(path.parent.name) for path in paths])
    expected = {
        "log_loss": lambda: metrics.log_loss(labels, table / table.sum(axis=1, keepdims=True)),
        "auroc": lambda: metrics.roc_auc_score(labels, table[:, 1]),
        "balanced_accuracy": lambda: metrics.balanced_accuracy_score(labels, table.argmax(axis=1)),
    }
    assert found["final_test"]["score"] == pytest.approx(expected[metric](), rel=1e-4)
    assert [(look.criterion, look.photos) for look in looks()] == [(metric, 10)]


def test_a_final_test_can_look_at_mirror_images_as_well(
    searched: Path, here: Path, capsys: Capture
) -> None:
    """The answers are then the mean of both; without a final test the flag is misuse."""
    from sklearn import metrics

    found = asked(capsys, "best", "--final-test", "--augment", "--metric", "log_loss")
    paths = sorted((searched / "data" / "test").rglob("*.png"))
    table = load(here / found["file"]).predict(paths, augment=True).astype(float)
    labels = np.array(["ab".index(path.parent.name) for path in paths])
    expected = metrics.log_loss(labels, table / table.sum(axis=1, keepdims=True))
    assert found["final_test"]["score"] == pytest.approx(expected, rel=1e-4)
    for flag in ("--augment", "--no-augment"):
        assert cli.run(["best", flag]) == 2


@pytest.mark.usefixtures("here")
def test_looks_at_the_test_photos_are_counted(capsys: Capture) -> None:
    """None without the flag; each is a row with what was seen; the second is told."""
    found = asked(capsys, "best")
    assert "final_test" not in found
    assert looks() == []
    for number in (1, 2, 3):
        capsys.readouterr()
        assert cli.run(["best", "--final-test"]) == 0
        said = capsys.readouterr().out
        assert "test photos: accuracy" in said
        assert ("at 1 weights files" in said) is (number > 1)
        assert (f"look {number} at" in said) is (number > 1)
        assert len(looks()) == number
    assert {(look.trial, look.sha256) for look in looks()} == {(found["trial"], found["sha256"])}


def test_a_copy_with_prices_decides_by_them(here: Path, capsys: Capture) -> None:
    """Its card carries the rule, `load(...).decide` goes by it, and no tensor has changed."""
    prices = ("--cost", "a>b=5", "--reject-cost", "0.9")
    found = asked(capsys, "best", *prices, "--copy-to", "chosen")
    source, copied = here / found["file"], here / found["copied_to"]
    assert copied.parent == here / "chosen"
    assert tensors(copied) == tensors(source)
    with safetensors.safe_open(copied, "np") as file:
        card = json.loads(file.metadata()["encore"])
    assert card["decision"] == found["operation"]["decision"]
    assert card["decision"]["costs"] == [[0, 5], [1, 0]]
    table = np.array([[0.99, 0.01], [0.3, 0.7], [0.01, 0.99]], np.float32)
    rule = Decision(((0, 5), (1, 0)), card["decision"]["temperature"], 0.9)
    assert load(copied).decide(table) == [
        None if answer < 0 else "ab"[answer] for answer in rule.decide(table)
    ]
    assert load(source).decide(table) == ["a", "b", "b"]
    plain = asked(capsys, "best", "--copy-to", "plain")
    assert Path(plain["copied_to"]).read_bytes() == source.read_bytes()


@pytest.mark.long
def test_without_test_photos_there_is_no_final_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Exit code 5, and a sentence that says what to do."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "data", {"train": 8, "valid": 4})
    Path("study.toml").write_text(SETTINGS)
    assert cli.run(["search", "--data", "data", "--trials", "1"]) == 0
    capsys.readouterr()
    assert cli.run(["best", "--final-test", "--json"]) == 5
    said = capsys.readouterr()
    assert "has no test photos" in said.err
    assert (len(said.err.strip().splitlines()), said.out) == (1, "")
    assert looks() == []


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"another")])
def test_changed_test_photos_are_refused(searched: Path, capsys: Capture, change: Any) -> None:
    """Exit code 4: what was frozen is no more; it is no look either."""
    photo = searched / "data" / "test" / "a" / "0.png"
    before = photo.read_bytes()
    try:
        change(photo)
        assert cli.run(["best", "--final-test"]) == 4
    finally:
        photo.write_bytes(before)
    said = capsys.readouterr().err
    assert "1 photos of study" in said
    assert "test/a/0.png" in said
    assert len(said.strip().splitlines()) == 1
    assert looks() == []


@pytest.fixture
def leaking(here: Path) -> Path:
    """Have the study's data gate know of a validation photo that is in train, too."""
    ends = [{"path": f"{split}/a/0.png", "label": "a", "split": split} for split in SPLITS]
    pair = {"first": ends[0], "second": ends[1], "leaks": True, "conflicts": False}
    pair |= {"likeness": "exact", "agreement": 1.0, "cosine": 1.0, "mirrored": False}
    found = {"pairs": [pair], "n_pairs": 1, "n_leaks": 1, "n_conflicts": 0}
    store = Store(open_database("sqlite:///runs/encore.db"))
    store.save_check(store.studies()[0].manifest_digest, json.dumps(found))
    store.close()
    return here


@pytest.mark.usefixtures("leaking")
@pytest.mark.parametrize(
    "words",
    [
        "ls",
        "best",
        *(
            pytest.param(words, marks=pytest.mark.long)
            for words in (
                *("show 0", "tree", "compare 0 1", "best --details", "best --cost a>b=5"),
                *("best --ensemble 2", "best --final-test"),
            )
        ),
    ],
)
def test_leaks_are_told_wherever_a_score_is(capsys: Capture, words: str) -> None:
    """As after `search --allow-leaks`: by each command.

    What speaks for these weights says their score without the photo, too.
    """
    assert cli.run(words.split()) == 0
    said = capsys.readouterr().out
    assert "1 of 12 validation photos is also in train" in said
    assert ("without them" in said) == words.startswith("best")


@pytest.mark.long
@pytest.mark.usefixtures("leaking")
def test_leaks_are_told_on_the_report_s_first_screen_and_on_the_card() -> None:
    """As the commands tell them."""
    assert cli.run(["report"]) == 0
    page = Path("report.html").read_text(encoding="utf-8")
    first = page[page.index('id="winner"') : page.index('id="schedules"')]
    assert "1 of 12 validation photos is also in train" in first
    assert "without them" in first
    assert cli.run(["export", "--to", "exported", "--format", "torchscript"]) == 0
    card = (Path("exported") / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "1 of 12 validation photos is also in train" in card
    assert "without them" in card


@pytest.mark.usefixtures("here")
def test_two_classifiers_are_compared(searched: Path, capsys: Capture) -> None:
    """Two trials, and a trial with a list of answers, as a person and as a program reads it."""
    between = asked(capsys, "compare", "0", "1")
    assert between["photos"] == 12
    valid = sorted((searched / "data" / "valid").rglob("*.png"))
    with Path("answers.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "a", "b"])
        rows.writerows([path, *((1, 0) if path.parent.name == "a" else (0, 1))] for path in valid)
    found = asked(capsys, "compare", "0", "answers.csv")
    assert found["second"] | {"low": 0} == {
        "name": "answers.csv", "errors": 0, "accuracy": 1, "low": 0, "high": 1
    }  # fmt: skip
    errors = found["first"]["errors"]
    assert errors == between["first"]["errors"] == len(found["differences"]) > 0
    assert found["only_second_right"] == errors
    assert found["p_value"] == pytest.approx(binomtest(0, errors).pvalue)
    assert cli.run(["compare", "0", "answers.csv"]) == 0
    said = capsys.readouterr().out
    assert f"{errors} errors on 12 validation photos" in said
    assert "answers.csv: accuracy 100.0 %" in said
    assert "named differently" in said


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("best", "--cost", "nonsense"), 2, "cost must be TRUE>PREDICTED=PRICE, got 'nonsense'"),
        (("best", "--cost", "a>c=5"), 2, "must name two of the classes a, b"),
        (("best", "--cost", "a>b=-1"), 2, "must end with a number of at least 0"),
        (("best", "--recall", "a>=2"), 2, "a share above 0 and at most 1"),
        (("best", "--recall", "c>=0.5"), 2, "must name one of the classes a, b"),
        (("best", "--reject-cost", "-1"), 2, "--reject-cost must be at least 0, got -1"),
        (("best", "--metric", "cost"), 5, "cost needs prices to choose by; give --cost"),
        (("best", "--metric", "speed"), 2, "speed"),
        (("best", "--by", "luck"), 2, "luck"),
        (("best", "--top", "-1"), 2, "top"),
        (
            ("best", "--cost", "a>b=5", "--json", "--copy-to", "runs/planes"),
            2,
            "must be another folder",
        ),
        (("compare", "0"), 2, "compare needs SECOND: the other classifier"),
        (("compare", "0", "99"), 2, "99"),
        (("compare", "0", "-1"), 2, "-1"),
        (("compare", "0", "missing.csv"), 2, "missing.csv"),
        (("compare", "0", "study.toml"), 1, "'study.toml' is not a whole safetensors file"),
        (("compare", "0", "foreign.safetensors"), 2, "did not make 'foreign.safetensors'"),
        (("compare", "0", "few.csv"), 2, "12 have none"),
        (("compare", "0", "1", "--study", "none"), 2, "no study 'none'"),
    ],
)
def test_wrong_input_is_one_sentence(
    capsys: Capture, arguments: tuple[str, ...], code: int, says: str
) -> None:
    """Each mistake gives its exit code and names the thing, and nothing is on stdout."""
    save_weights(Path("foreign.safetensors"), network_of().state_dict(), card_of())
    Path("few.csv").write_text("path,label\nx.png,a\n")
    capsys.readouterr()
    assert cli.run(arguments) == code
    said = capsys.readouterr()
    assert says in said.err
    assert "unexpected" not in said.err
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1
