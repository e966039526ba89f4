"""Searching in folds by the command line: every command knows what the study and its file are."""

import io
import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import softmax

import cli
from study.dashboard.artifacts import Exhibit, Exhibits
from study.deployment.reference import references_of
from tests.cluster import needs_ray
from tests.labelled import write_photos
from tests.scenes import save, scene
from tests.tiny_search import copy_of
from trainers import reference
from trainers.card import read_card
from trainers.classifier import load
from trainers.data.scale import read_at, validation_scale
from trainers.exporting import _READERS
from trainers.formats import Format
from trainers.schedule import CropType

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

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
lrs = [0.001]
cycle_len = [1]
[[space.stages]]
lrs = [0.001, 0.002]
"""
SEARCH = ("search", "--data", "photos", "--devices", "cpu", "--trials", "2", "--study", "mine")

Told = Callable[..., str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Search 32 photos in 3 folds: 2 trials that share their first stage, 8 photos of test."""
    folder = tmp_path_factory.mktemp("made")
    for number in range(40):
        kind = ("day", "night")[number % 2]
        save(scene(number, 48, 40), folder / "photos" / kind / f"{number}.jpg", quality=90)
    (folder / "study.toml").write_text(SETTINGS)
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(said), redirect_stdout(said):
        patch.chdir(folder)
        code = cli.run([*SEARCH, "--folds", "3"])
    (folder / "said").write_text(said.getvalue())
    assert code == 0, said.getvalue()
    return folder


@pytest.fixture
def searched(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go where it was searched."""
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def told(searched: Path, capsys: pytest.CaptureFixture[str]) -> Told:  # noqa: ARG001
    """Return what runs a command, and gives what it says: of an error, what that says."""

    def run(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        ended = cli.run(words)
        found = capsys.readouterr()
        assert ended == code, found.err
        return " ".join((found.out if code == 0 else found.err).split())

    return run


def test_the_search_says_what_it_does(searched: Path, told: Told) -> None:
    """Folds are suggested, counted and kept to: the same command goes on, another is refused."""
    assert "--folds 5 would score each schedule on all 32" in told("check-data", "photos")
    assert "32 in 3 folds, 8 test" in " ".join((searched / "said").read_text().split())
    assert "is searched in 3 folds; give --folds 3" in told(*SEARCH, code=2)
    told(*SEARCH, "--folds", "3")  # again: there is nothing left to do
    for words in (("ls",), ("show", "0"), ("tree",), ("compare", "0", "1"), ("doctor",)):
        told(*words)


def test_the_chosen_file_is_the_networks_of_all_folds(told: Told) -> None:
    """`best` says so, counts all photos, and its other ways to choose do or are refused."""
    text = told("best")
    assert "on 32 validation photos" in text
    assert "3 folds: each photo judged by the network trained without its fold" in text
    assert "--refit 3: one network on all photos" in text
    chosen = json.loads(told("best", "--json"))
    assert (chosen["n_valid"], chosen["folds"]) == (32, 3)
    assert read_card(Path(chosen["file"])).folds == 3
    assert "a soup is of files with one network each" in told("best", "--soup", code=2)
    assert "ensemble of" in told("best", "--ensemble", "2")
    assert "on 8 test photos" in told("best", "--final-test")


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """Write photos of something else: plain colours."""
    for number in range(5):
        colour = Image.new("RGB", (48, 40), (255, 40 * number, 0))
        save(colour, tmp_path / "others" / f"{number}.png")
    return tmp_path / "others"


def test_photos_of_something_else_are_unknown(told: Told, others: Path) -> None:
    """By what each fold's network measures on its own fold; the copy carries it elsewhere."""
    asked = ("photos", str(others), "--unknown", "10%", "--coverage", "80%")
    found = json.loads(told("predict", *asked, "--json"))
    (kept,) = Path("runs/.cache/references").iterdir()
    assert (found["stated"]["photos"], found["stated"]["folds"]) == (32, 3)
    assert found["stated"]["unknown_at_most"] == pytest.approx(2 * (0.1 + 0.9 * 2 / 35))
    each = found["predictions"]
    assert all((answer["p_value"] <= 0.1) == answer["unknown"] for answer in each)
    assert all((answer["label"] is None) == answer["unknown"] for answer in each)
    far = {answer["path"]: answer["unknown"] for answer in each}
    assert [far.pop(str(path)) for path in sorted(others.iterdir())] == [True] * 5
    assert sum(far.values()) <= 8  # of 40, as 30 % in the worst case
    own = [answer for answer in each if answer["path"] in far]
    assert np.mean([Path(a["path"]).parent.name in a["classes"] for a in own]) >= 0.7
    to = others.parent / "copy"
    told("best", "--copy-to", str(to), "--unknown", "10%")
    (file,) = (path for path in to.iterdir() if "reference" not in path.name)
    assert read_card(file).unknown == 0.1
    kept.unlink()
    words = ("predict", "photos", str(others), "--weights", str(file), "--json")
    again = json.loads(told(*words, "--storage", f"sqlite:///{to}/none.db"))["predictions"]
    assert [answer["p_value"] for answer in again] == [answer["p_value"] for answer in each]
    assert not kept.exists()


def test_what_rates_come_to_is_said(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    """That a rate holds about, and the worst case; too few photos are refused with a number."""
    capsys.readouterr()
    assert cli.run(("predict", "photos/day", "--unknown", "5%", "--coverage", "90%")) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "about 5 % (in the worst case 20.9 %) of photos like the 32 validation photos" in said
    assert "about 90 % (in the worst case 69.7 %) of photos like the 32 validation" in said
    refused = told("predict", "photos/day", "--unknown", "2%", code=2)
    assert "needs at least 49 validation photos, and these weights have 32" in refused


def test_of_many_photos_some_are_looked_at(
    searched: Path, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many of all folds together: each is known to its own fold's network, and to no other."""
    copy_of(searched, tmp_path / "copy", monkeypatch)
    shutil.rmtree("runs/.cache/references", ignore_errors=True)
    monkeypatch.setattr(reference, "MOST", 20)
    found = json.loads(told("predict", "photos", "--unknown", "10%", "--json"))
    assert found["stated"]["photos"] == 20
    classifier = load(file := Path(json.loads(told("best", "--json"))["file"]))
    each = references_of(classifier, file, "sqlite:///runs/encore.db")
    assert len(each) == 3
    assert sum(len(one.distances) for one in each) == 20
    assert all(len(one.features) + len(one.distances) == 20 for one in each)


def test_a_refit_is_one_network_on_the_photos_of_all_folds(told: Told, tmp_path: Path) -> None:
    """It and the folds' file predict; both name the same classes."""
    said = told("best", "--refit", "--copy-to", str(tmp_path))
    assert "on 32 photos, those of all 3 folds" in said
    (refitted,) = tmp_path.glob("refit_*.safetensors")
    assert read_card(refitted).folds == 0
    for file in (json.loads(told("best", "--json"))["file"], str(refitted)):
        rows = told("predict", "photos/day", "--weights", file, "--json")
        assert len(json.loads(rows)["predictions"]) == 20


def test_the_networks_of_all_folds_are_made_again(told: Told) -> None:
    """`reproduce` knows the file by trial and by path, and --run gives the same bits."""
    file = json.loads(told("best", "--json"))["file"]
    assert "trial" in told("reproduce", file)
    again = json.loads(told("reproduce", "1", "--run", "--json"))
    assert (again["identical"], again["reproduced"], again["photos"]) == (True, True, 32)


@pytest.mark.long
def test_reports_and_pictures_are_of_all_photos(searched: Path, told: Told, tmp_path: Path) -> None:
    """Each photo is explained by its own fold's network, in pages, sheets and the dashboard."""
    told("report", "--to", str(tmp_path / "report.html"))
    assert "in 3 folds: each is judged" in (tmp_path / "report.html").read_text(encoding="utf-8")
    file = json.loads(told("best", "--json"))["file"]
    told("explain", "--weights", file, "--to", str(tmp_path / "why"), "--top", "3")
    shown = Exhibits(f"sqlite:///{searched / 'runs' / 'encore.db'}")
    try:
        study = shown.known("mine")
        assert study is not None
        found = {kind: shown.show(name) for name, kind in shown.of(study)[1].items()
                 if kind is not Exhibit.HEAT}  # fmt: skip
        assert {Exhibit.CURVES, Exhibit.CONFUSION, Exhibit.WEIGHTS} == found.keys()
        assert all(found.values())
        assert "Winner: trial" in shown.winners()["mine"]
    finally:
        shown.close()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*torch.jit.load:FutureWarning")
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("onnx", marks=pytest.mark.slow),
        pytest.param("torch-export", marks=pytest.mark.slow),
        "torchscript",
    ],
)
def test_exported_they_are_one_network(told: Told, tmp_path: Path, others: Path, kind: str) -> None:
    """The file answers as the mean of all folds' networks, and calls the same photos unknown."""
    told("export", "--to", str(tmp_path / "out"), "--format", kind, "--unknown", "10%")
    about = json.loads((tmp_path / "out" / "model.json").read_text(encoding="utf-8"))
    assert "validation photos of the study" in about["verified_on"]
    card = " ".join((tmp_path / "out" / "MODEL_CARD.md").read_text(encoding="utf-8").split())
    assert "dealt into 3 folds" in card
    assert "are about 10 % (in the worst case 30.3 %) of photos" in card.replace("\\", "")
    unknown = about["unknown"]
    assert (unknown["rate"], unknown["photos"]) == (0.1, 32)
    assert "Each of 3 networks measures it, and compares it" in unknown["words"]
    asked = ("predict", "photos", str(others), "--unknown", "10%", "--json")
    each = json.loads(told(*asked))["predictions"]
    pixels = np.stack([
        read_at(Path(answer["path"]), [validation_scale(32, CropType.RANDOM)])[0]
        for answer in each])  # fmt: skip
    squares = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    answer = _READERS[Format(kind)](tmp_path / "out" / Format(kind).file_name)
    logits, distance = (found.detach().numpy() for found in answer(squares))
    rows = np.array([list(one["probabilities"].values()) for one in each])
    assert softmax(logits, axis=1) == pytest.approx(rows, abs=1e-4)
    clear = abs(distance - unknown["threshold"]) > 1e-5  # a known photo may be at the threshold
    assert clear.mean() > 0.9
    far = np.array([one["unknown"] for one in each])
    assert ((distance > unknown["threshold"]) == far)[clear].all()
    assert 5 <= far.sum() < 13


@pytest.mark.long
def test_more_seeds_and_fewer_files(
    searched: Path, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`repeat` trains the networks of all folds under one more seed; `gc` deletes whole files."""
    copy_of(searched, tmp_path / "copy", monkeypatch)
    told("repeat", "0", "--seeds", "2")
    trials = json.loads(told("ls", "--json"))["trials"]
    assert [(each["state"], each["seed"]) for each in trials[2:]] == [("complete", 1)]
    cleaned = json.loads(told("gc", "--keep", "1", "--delete", "--json"))
    assert cleaned["files"]
    assert json.loads(told("best", "--json"))["folds"] == 3
    told("doctor")


@needs_ray
@pytest.mark.slow
def test_on_a_ray_cluster_it_is_the_same(
    searched: Path, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that get their photos and starts over the wire record the same scores."""
    expected = json.loads(told("ls", "--json"))["trials"]
    copy_of(searched, tmp_path / "copy", monkeypatch)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    away = ("--storage", f"sqlite:///{tmp_path / 'away' / 'encore.db'}")  # nothing is taken over
    told(*SEARCH, "--folds", "3", "--engine", "ray", *away)
    found = json.loads(told("ls", "--json", *away))["trials"]
    assert [each["score"] for each in found] == [each["score"] for each in expected]


def two_kinds(count: int, means: tuple[int, int] = (150, 100), noise: int = 50) -> None:
    """Write so many photos of two classes, which a network that learns tells apart."""
    rng = np.random.default_rng(0)
    for number in range(count):
        kind = number % 2
        pixels = rng.normal(means[kind], noise, (40, 50, 3)).clip(0, 255).astype(np.uint8)
        save(Image.fromarray(pixels), Path("photos", "ab"[kind], f"{number}.png"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", pytest.param("ray", marks=needs_ray)])
def test_what_is_beaten_on_two_folds_is_stopped(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    engine: str,
) -> None:
    """One schedule learns nothing: its trials are stopped, and every command knows of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    two_kinds(60)
    Path("study.toml").write_text(
        SETTINGS.replace("[2]", "[1]").partition("[[")[0].replace("[0.001]", "[0.01, 1e-7]")
    )

    def told(*words: str) -> str:
        capsys.readouterr()
        code = cli.run(words)
        found = capsys.readouterr()
        assert code == 0, found.err
        return " ".join(found.out.split())

    search = ("search", "--data", "photos", "--devices", "cpu:1", "--trials", "4", "--folds", "4")
    told(*search, "--strategy", "asha", "--engine", engine)
    trials = json.loads(told("ls", "--json"))["trials"]
    stopped = [each for each in trials if each["failure"] == "beaten after 2 of 4 folds"]
    assert {each["state"] for each in stopped} == {"pruned"}
    assert 1 <= len(stopped) < 4
    number = str(stopped[0]["number"])
    assert "beaten after 2 of 4 folds" in told("show", number)
    for words in (("tree",), ("report",), ("doctor",), ("gc",), ("best", "--details")):
        told(*words)
    told("repeat", number, "--seeds", "2")  # of it, whole
    assert {each["state"] for each in json.loads(told("ls", "--json"))["trials"]} == {
        "complete", "pruned"}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("data", ["photos", "list.csv"])
def test_a_repeat_that_is_beaten_on_two_folds_leaves_the_race(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    data: str,
) -> None:
    """One of two schedules learns nothing: under its second fresh seed it is stopped.

    So it is with several labels a photo. Commands say so; `best` counts it behind the other, until
    `repeat` trains what it lacks.
    """
    monkeypatch.chdir(tmp_path)
    if data == "photos":
        two_kinds(80, (170, 80), 30)
    else:
        write_photos(tmp_path, 80)
    schedule = """
[[schedules]]
backbone = "test_resnet"
weights = "random"
stages = [{{ image_size = 32, batch_size = 8, lrs = {}, cycle_len = {} }}]
"""
    Path("two.toml").write_text(schedule.format(1e-7, 1) + schedule.format(0.01, 8))

    def told(*words: str) -> str:
        capsys.readouterr()
        code = cli.run(words)
        found = capsys.readouterr()
        assert code == 0, found.err
        return " ".join((found.out + found.err).split())

    search = ("search", "--data", data, "--devices", "cpu", "--strategy", "grid", "two.toml")
    said = told(
        *search, "--folds", "5", "--repeats", "2", "--finalists", "2", "--metric", "log_loss"
    )
    trials = json.loads(told("ls", "--json"))["trials"]
    assert [(each["role"], each["state"]) for each in trials[2:]] == [
        *[("repeat", "complete")] * 3, ("repeat", "pruned")]  # fmt: skip
    lost = str(trials[5]["number"])
    for text in (said, told("ls"), told("show", lost)):
        assert "beaten after 2 of 5 folds" in text
    told("report", "--to", "report.html")
    assert "beaten after 2 of 5 folds" in Path("report.html").read_text(encoding="utf-8")
    first, weak = json.loads(told("best", "--by", "mean", "--json"))["schedules"]
    assert (len(first["scores"]), first["stopped"]) == (3, 0)
    assert (len(weak["scores"]), weak["stopped"], weak["tied"]) == (2, 1, False)
    assert "2 of 3" in told("best", "--details")
    told("doctor")
    told("repeat", lost, "--seeds", "3")
    schedules = json.loads(told("best", "--json"))["schedules"]
    assert [(len(each["scores"]), each["stopped"]) for each in schedules] == [(3, 0)] * 2
