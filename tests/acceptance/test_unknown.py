"""Photos unlike the training photos: `predict`, `best --copy-to` and `export` from a study."""

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cli
from study.deployment.predict import Prediction, predict
from tests.tiny_search import SETTINGS
from tests.tiny_training import noise
from trainers.classifier import load
from trainers.reference import beside

STUDY = SETTINGS.replace("[0.01, 0.02]", "[0.001]")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a study of photos of noise, and beside them photos of something else: smooth colours."""
    folder = tmp_path_factory.mktemp("searched")
    noise(folder / "data", train=16, valid=40)
    (folder / "study.toml").write_text(STUDY)
    (folder / "others").mkdir()
    slope = np.linspace(0, 255, 36, dtype=np.uint8)
    for index, tint in enumerate(np.random.default_rng(0).integers(0, 2, (6, 3))):
        pixels = np.tile(slope[None, :, None], (30, 1, 1)) * np.array(tint, np.uint8)
        Image.fromarray(pixels).save(folder / "others" / f"{index}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.run(["search", "--data", "data", "--trials", "1"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _here(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a copy of that folder, with nothing measured yet."""
    for name in ("runs", "others"):
        shutil.copytree(searched / name, tmp_path / name)
    (tmp_path / "data").symlink_to(searched / "data")  # where the study knows them
    monkeypatch.chdir(tmp_path)


def answered(
    capsys: pytest.CaptureFixture[str], *words: str, code: int = 0
) -> tuple[dict[str, Any], str]:
    """Run `predict --json`; return what it answers, and what it says."""
    capsys.readouterr()
    assert cli.run(["predict", *words, "--json"]) == code
    said = capsys.readouterr()
    return json.loads(said.out), said.err


def unknown(told: dict[str, Any], folder: str) -> list[bool]:
    """Return which photos of a folder are called unknown."""
    return [p["unknown"] for p in told["predictions"] if p["path"].startswith(folder)]


def test_photos_of_something_else_are_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    """Of those that the rate was measured on, so many as it allows; what is unknown has no name."""
    told, said = answered(capsys, "others", "data/valid", "--unknown", "10%")
    assert unknown(told, "others") == [True] * 6
    assert 1 <= sum(unknown(told, "data")) <= 4
    for each in told["predictions"]:
        assert (each["label"] is None) == each["unknown"] == (each["p_value"] <= 0.1)
        assert each["probability"] == max(each["probabilities"].values())
    assert "at most 10 % of photos like the 40 validation photos are called unknown" in said
    assert f"{6 + sum(unknown(told, 'data'))} unknown" in said.splitlines()[-1]
    stricter, _ = answered(capsys, "others", "data/valid", "--unknown", "3%")
    assert sum(unknown(stricter, "data")) < sum(unknown(told, "data"))
    plain, said = answered(capsys, "others", "data/valid")
    assert not any(unknown(plain, ""))
    assert "unknown" not in said
    assert plain["stated"] is None


def test_what_was_measured_is_kept_in_the_cache(capsys: pytest.CaptureFixture[str]) -> None:
    """It is not measured again unless it is broken, and `gc --cache --delete` deletes it."""
    asked = ("others", "data/valid", "--unknown", "10%")
    told, _ = answered(capsys, *asked)
    (kept,) = Path("runs/.cache/references").iterdir()
    written = kept.stat().st_mtime_ns
    assert answered(capsys, *asked)[0] == told
    assert kept.stat().st_mtime_ns == written
    kept.write_bytes(b"broken")
    assert answered(capsys, *asked)[0] == told
    assert kept.stat().st_mtime_ns != written
    assert cli.run(["gc", "--cache", "--json"]) == 0
    assert kept.name in capsys.readouterr().out
    assert cli.run(["gc", "--cache", "--delete"]) == 0
    assert not kept.exists()


def test_copied_weights_carry_it(capsys: pytest.CaptureFixture[str]) -> None:
    """`best --copy-to --unknown` writes a reference that works where no study is."""
    assert cli.run(["best", "--copy-to", "chosen", "--unknown", "10%"]) == 0
    (weights,) = (path for path in Path("chosen").iterdir() if "reference" not in path.name)
    assert load(weights).card.unknown == 0.1
    expected, _ = answered(capsys, "others", "data/valid", "--unknown", "10%")
    shutil.rmtree("runs")
    to = ("--to", "exported", "--format", "torchscript", "--weights", str(weights))
    assert cli.run(["export", *to]) == 0
    about = json.loads(Path("exported/model.json").read_bytes())["unknown"]
    assert (about["rate"], about["photos"]) == (0.1, 40)
    asked = ("others", "data/valid", "--weights", str(weights))
    told, said = answered(capsys, *asked)
    assert unknown(told, "") == unknown(expected, "")
    assert "at most 10 %" in said
    assert not any(unknown(answered(capsys, *asked, "--unknown", "0")[0], ""))
    beside(weights).unlink()
    assert cli.run(["predict", *asked]) == 1
    assert "beside these weights, and no study here" in capsys.readouterr().err


def test_a_csv_tells_what_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns `unknown`, `p_value` and `set` are there if they are asked for, and only then."""

    def rows(*flags: str) -> list[dict[str, str]]:
        capsys.readouterr()
        assert cli.run(["predict", "others", "data/valid", "--csv", *flags]) == 0
        return list(csv.DictReader(capsys.readouterr().out.splitlines()))

    assert list(rows()[0]) == ["path", "label", "probability", "a", "b"]
    found = rows("--unknown", "10%", "--coverage", "80%")
    more = ["unknown", "p_value", "set"]
    assert list(found[0]) == ["path", "label", "probability", *more, "a", "b"]
    assert {row["unknown"] for row in found} == {"0", "1"}
    assert all((row["label"] == "") == (row["unknown"] == "1") for row in found)
    assert {row["set"] for row in found} <= {"a", "b", "a; b"}
    assert list(rows("--coverage", "80%")[0])[3:] == ["set", "a", "b"]


def test_sets_hold_the_class_at_the_stated_rate(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the validation photos themselves, no fewer; more classes are named for more coverage."""
    sizes = []
    for coverage in (0.6, 0.8, 0.95):
        told, said = answered(capsys, "data/valid", "--coverage", f"{100 * coverage:g}%")
        own = [Path(each["path"]).parent.name in each["classes"] for each in told["predictions"]]
        assert coverage <= np.mean(own)
        assert f"at least {100 * coverage:g} % of photos like the 40 validation photos" in said
        sizes.append(sum(len(each["classes"]) for each in told["predictions"]))
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert not any(each["p_value"] for each in told["predictions"])


def test_python_asks_for_it_as_well() -> None:
    """With shares as numbers; what is farther than all that was seen has the least share."""
    found = predict(["others"], unknown=0.05, coverage=0.9)
    for answer in found.answers:
        assert isinstance(answer, Prediction)
        assert answer.unknown
        assert answer.p_value == pytest.approx(1 / 41)
        assert set(answer.classes or ()) <= {"a", "b"}
    assert found.stated
    assert (found.stated.unknown, found.stated.photos) == (0.05, 40)


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (("--unknown", "1%"), 2, "--unknown needs at least 99 validation photos, and these"),
        (("--coverage", "99%"), 2, "give 97.6% or less"),
        (("--unknown", "much"), 2, "--unknown must be a share below 1, such as 5% or 0.05, got"),
        (("--unknown", "5"), 2, "got '5'"),
        (("--coverage", "nan"), 2, "--coverage must be a share"),
        (("--coverage", "90%", "--augment"), 2, "--coverage holds for photos predicted as in"),
    ],
)
def test_what_cannot_be_stated_is_refused(
    flags: Sequence[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one sentence that says what can, with nothing on stdout."""
    capsys.readouterr()
    assert cli.run(["predict", "others", *flags]) == code
    said = capsys.readouterr()
    assert says in said.err
    assert said.out == ""


def test_photos_that_have_changed_are_refused(
    searched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rates are measured on the photos that trained and judged the weights, or not at all."""
    photo = min((searched / "data" / "valid" / "a").iterdir())
    before = photo.read_bytes()
    photo.write_bytes(before[:-20])
    try:
        assert cli.run(["predict", "others", "--unknown", "10%"]) == 4
    finally:
        photo.write_bytes(before)
    assert "1 photos of study 'data' are missing or changed" in capsys.readouterr().err
