"""Several labels a photo by the command line, from a list to a folder that is exported."""

import csv
import json
from pathlib import Path

import pytest

import cli
from tests.labelled import NAMES, write_photos
from tests.repeating import check_repeat
from tests.tiny_search import SETTINGS, copy_of
from trainers.card import read_card


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Search over 60 photos of three labels."""
    folder = tmp_path_factory.mktemp("labels")
    write_photos(folder, 60)
    (folder / "study.toml").write_text(SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.run(("check-data", "list.csv")) == 0
        search = ("search", "--data", "list.csv", "--trials", "3", "--metric", "macro_f1")
        assert cli.run(search) == 0
    return folder


@pytest.fixture
def there(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the study to a place of this test's own."""
    return copy_of(searched, tmp_path / "copy", monkeypatch)


@pytest.mark.usefixtures("there")
def test_the_choice_tells_of_each_label(capsys: pytest.CaptureFixture[str]) -> None:
    """best, ls, show and compare count labels, and a copy carries the thresholds."""
    assert cli.run(("best", "--json")) == 0
    chosen = json.loads(capsys.readouterr().out)
    assert chosen["classes"] == sorted(NAMES)
    assert [len(row) for row in chosen["confusion"]] == [4, 4, 4]
    assert all(sum(row) == chosen["n_valid"] for row in chosen["confusion"])
    assert chosen["errors"] == sum(row[1] + row[2] for row in chosen["confusion"])
    assert chosen["score"] == pytest.approx(chosen["several"]["macro_f1"])
    assert cli.run(("best", "--details")) == 0
    said = capsys.readouterr().out
    assert "labels of" in said
    assert "average precision" in said
    for command in (("ls",), ("show", "0"), ("compare", "0", "1"), ("best", "--final-test")):
        assert cli.run(command) == 0
    assert "all labels right" in capsys.readouterr().out
    assert cli.run(("best", "--copy-to", "chosen")) == 0
    (file,) = Path("chosen").iterdir()
    assert cli.run(("predict", "--weights", str(file), "photos", "--csv")) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()[-61:]))
    given = [each["threshold"] for each in chosen["several"]["each"]]
    cuts = dict(zip(chosen["classes"], given, strict=True))
    better = chosen["several"]["own_macro_f1"] > chosen["several"]["macro_f1"]
    for row in rows:
        named = [n for n in chosen["classes"] if float(row[n]) >= (cuts[n] if better else 0.5)]
        assert row["label"] == ";".join(named)


@pytest.mark.long
@pytest.mark.usefixtures("there")
def test_weights_work_in_every_place(capsys: pytest.CaptureFixture[str]) -> None:
    """predict, explain, report, export, doctor and reproduce work on several labels."""
    assert cli.run(("predict", "photos/0.png", "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    (answer,) = told["predictions"]
    assert set(answer["label"].split(";")) <= {*NAMES, ""}
    assert told["several"]
    assert told["thresholds"].keys() == set(NAMES)
    assert cli.run(("explain", "--to", "seen", "--top", "2", "--class", "red")) == 0
    assert cli.run(("report", "--to", "report.html")) == 0
    page = Path("report.html").read_text(encoding="utf-8")
    assert "wrongly named" in page
    assert cli.run(("export", "--to", "out", "--format", "torchscript")) == 0
    about = json.loads(Path("out/model.json").read_text())
    assert "sigmoid" in about["output"]["meaning"]
    assert len(about["decision"]["thresholds"]) == 3
    assert "which of 3 labels" in Path("out/MODEL_CARD.md").read_text()
    assert cli.run(("doctor",)) == 0
    assert cli.run(("reproduce", "0")) == 0


@pytest.mark.usefixtures("there")
def test_a_schedule_is_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    """`repeat` trains several labels under one more seed, and `best` scores it by both."""
    check_repeat(capsys)


@pytest.mark.usefixtures("there")
def test_a_refit_under_two_seeds_is_scored_by_label(capsys: pytest.CaptureFixture[str]) -> None:
    """The mean of two trainings on all photos names labels, and the test photos judge it."""
    assert cli.run(("best", "--refit", "2", "--final-test", "--copy-to", "made", "--json")) == 0
    made = json.loads(capsys.readouterr().out)["refit"]["file"]
    assert read_card(Path(made)).kind == "labels"
    assert cli.run(("predict", "--weights", made, "photos/0.png", "--json")) == 0
    (answer,) = json.loads(capsys.readouterr().out)["predictions"]
    assert answer["probabilities"].keys() == set(NAMES)


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    "command",
    [
        ("best", "--cost", "red>green=2"),
        ("best", "--metric", "f1"),
        ("best", "--metric", "auroc"),
        ("best", "--metric", "mean_absolute_error"),
        ("search", "--data", "list.csv", "--study", "other", "--metric", "f1"),
    ],
)
def test_what_means_nothing_yet_is_refused(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence and exit code 2, and never a number that is wrong."""
    assert cli.run(command) == 2
    assert "several labels" in " ".join(capsys.readouterr().err.split())
    assert not Path("chosen").exists()
    assert not Path("out").exists()


@pytest.mark.usefixtures("there")
def test_a_space_of_balanced_losses_alone_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Weights of classes have no meaning where a photo may be of several."""
    Path("balanced.toml").write_text(f'{SETTINGS}balance = ["loss"]\n')
    search = ("search", "--data", "list.csv", "--study", "other", "--metric", "macro_f1")
    assert cli.run((*search, "--config", "balanced.toml")) == 2
    assert "balance: only for photos of one class each" in " ".join(capsys.readouterr().err.split())


@pytest.mark.long
@pytest.mark.usefixtures("there")
def test_the_asymmetric_loss_is_searched_by_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    """It is a field of stages for several labels, and is refused for classes in a sentence."""
    Path("asymmetric.toml").write_text(f'{SETTINGS}loss = ["asymmetric"]\n')
    search = ("search", "--config", "asymmetric.toml", "--trials", "1")
    ranks = ("--metric", "mean_average_precision")
    assert cli.run((*search, "--data", "list.csv", "--study", "a", *ranks)) == 0
    assert cli.run(("show", "0", "--study", "a")) == 0
    assert "loss asymmetric" in capsys.readouterr().out
    assert cli.run(("best", "--study", "a", "--json")) == 0
    chosen = json.loads(capsys.readouterr().out)
    assert chosen["score"] == pytest.approx(chosen["several"]["mean_average_precision"])
    assert chosen["bias_corrected"]["low"] < chosen["score"] < chosen["bias_corrected"]["high"]
    for metric in ("macro_auroc", "micro_f1", "accuracy"):
        assert cli.run(("best", "--study", "a", "--metric", metric)) == 0
    rows = list(csv.reader(Path("list.csv").read_text(encoding="utf-8").splitlines()))
    with Path("classes.csv").open("w", encoding="utf-8", newline="") as file:
        one = ((path, "red" if "red" in labels else "other") for path, labels in rows[1:])
        csv.writer(file).writerows((("path", "label"), *one))
    assert cli.run((*search, "--data", "classes.csv", "--study", "b")) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "loss asymmetric: only for photos of several labels each" in said


@pytest.mark.slow
def test_a_thousand_photos_of_twenty_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,000 photos of 20 labels go through search, best, report and export."""
    write_photos(tmp_path, 1000, tuple(f"label {number:02}" for number in range(20)))
    (tmp_path / "study.toml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    assert cli.run(("search", "--data", "list.csv", "--trials", "3", "--metric", "macro_f1")) == 0
    for command in (("best",), ("report", "--to", "report.html"), ("export", "--to", "out")):
        assert cli.run(command) == 0
