"""`check-data` by the command line, on photos with planted faults, and its list and its page."""

import csv
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import cli
from tests.scenes import save, scene
from trainers.data.manifest import build_manifest

HOSTILE = '<img src=x onerror=alert(1)>&"day"'
Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write photos with a leak, a duplicate, one photo under two labels, and a blank one."""
    root = tmp_path_factory.mktemp("photos")
    for number, place in enumerate(
        f"{split}/{name}" for split in ("train", "val") for name in (HOSTILE, "night")
    ):
        for index in range(7):
            save(scene(100 * number + index), root / place / f"{index}.jpg", quality=90)
    train, valid = root / "train", root / "val"
    save(scene(2).resize((120, 90)), valid / HOSTILE / "=leak.jpg", quality=70)
    save(scene(102, 200, 150), train / "night" / "a, 'b' \"c\".png")
    save(scene(102, 200, 150), train / "night" / "twin.png")
    save(scene(5), train / "night" / "<img src=x onerror=alert(1)>.jpg", quality=90)
    save(Image.new("RGB", (80, 60), "grey"), train / "night" / "blank.png")
    (train / "night" / "broken.jpg").write_bytes(b"no photo")
    return root


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return what runs a command in a folder of its own, and its exit code and output."""
    monkeypatch.chdir(tmp_path)

    def start(*arguments: str) -> tuple[int, str]:
        code = cli.run(arguments)
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return start


def test_everything_planted_is_found_and_written(photos: Path, run: Run, tmp_path: Path) -> None:
    """One run tells of each fault, writes page and list, and leaves the photos as they were."""
    before = {file: file.read_bytes() for file in photos.rglob("*") if file.is_file()}
    code, text = run("check-data", str(photos), "--json", "--html", "page.html")
    assert code == 4
    found: dict[str, Any] = json.loads(text[text.index("{") :])
    kinds = {
        (pair["first"]["path"], pair["second"]["path"]): (pair["leaks"], pair["conflicts"])
        for pair in found["pairs"]
    }
    assert kinds == {
        (f"train/{HOSTILE}/2.jpg", f"val/{HOSTILE}/=leak.jpg"): (True, False),
        (f"train/{HOSTILE}/5.jpg", "train/night/<img src=x onerror=alert(1)>.jpg"): (False, True),
        ("train/night/a, 'b' \"c\".png", "train/night/twin.png"): (False, False),
    } | {pair: kind for pair, kind in kinds.items() if "train/night/2.jpg" in pair}
    assert [(each["path"], each["flaw"]) for each in found["flaws"]] == [
        ("train/night/blank.png", "blank")
    ]
    assert [each["path"] for each in found["left_out"]] == ["train/night/broken.jpg"]
    assert found["counts"]["valid"] == {HOSTILE: 8, "night": 7}
    page = (tmp_path / "page.html").read_text()
    assert page.count("<script") == 1  # the theme switch
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert {file: file.read_bytes() for file in photos.rglob("*") if file.is_file()} == before


@pytest.mark.long
def test_the_amended_list_is_clean_and_can_be_searched(
    photos: Path, run: Run, tmp_path: Path
) -> None:
    """The list lacks what it should, holds odd names whole, and passes the check itself."""
    code, text = run("check-data", str(photos), "--write-csv", "lists/clean.csv")
    assert code == 0
    line = next(line for line in text.splitlines() if "search --data" in line)
    words = shlex.split(line)
    words = words[words.index("--data") :]
    assert words == ["--data", "lists/clean.csv", "--data-root", str(photos.resolve())]
    with (tmp_path / "lists" / "clean.csv").open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert f"train/{HOSTILE}/2.jpg" not in rows  # the copy that judges stays
    assert rows[f"val/{HOSTILE}/=leak.jpg"]["split"] == "valid"
    assert f"train/{HOSTILE}/5.jpg" not in rows  # which label is right is unknown
    assert "train/night/<img src=x onerror=alert(1)>.jpg" not in rows
    manifest = build_manifest(tmp_path / "lists" / "clean.csv", data_root=photos)
    assert {photo.path for photo in manifest.photos} == rows.keys()
    code, text = run("check-data", *words[1:], "--json")
    assert code == 0
    assert json.loads(text[text.index("{") :])["n_pairs"] == 0


@pytest.mark.long
def test_regrouped_lists_move_and_remove_only_what_is_asked(
    photos: Path, run: Run, tmp_path: Path
) -> None:
    """Split anew and with nothing removed, all photos are there, each group in one split."""
    asked = ("--regroup", "--write-csv", "all.csv", "--remove", "nothing")
    code, _ = run("check-data", str(photos), *asked)
    assert code == 0
    manifest = build_manifest(tmp_path / "all.csv", data_root=photos)
    splits = {photo.path: photo.split for photo in manifest.photos}
    assert len(splits) == 4 * 7 + 5
    assert splits[f"train/{HOSTILE}/2.jpg"] is splits[f"val/{HOSTILE}/=leak.jpg"]
    assert set(splits.values()) == {"train", "valid", "test"}


@pytest.mark.long
@pytest.mark.parametrize("kind", ["blank", "conflicts"])
def test_what_is_removed_is_chosen(photos: Path, run: Run, kind: str) -> None:
    """With one kind named, only photos of that kind go."""
    code, text = run(
        "check-data", str(photos), "--write-csv", "some.csv", "--remove", kind, "--json"
    )
    assert code == 0
    removed = json.loads(text[text.index("{") :])["amended"]["removed"]
    expected = {
        "blank": ["train/night/blank.png"],
        "conflicts": [
            f"train/{HOSTILE}/5.jpg",
            "train/night/<img src=x onerror=alert(1)>.jpg",
        ],
    }
    assert [each["path"] for each in removed] == expected[kind]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("nowhere",), 2, "nowhere"),
        (("PHOTOS", "--write-csv", "PHOTOS/clean.csv"), 2, "outside of the data"),
        (("PHOTOS", "--html", "PHOTOS/train/page.html"), 2, "outside of the data"),
        (("PHOTOS", "--remove", "blank"), 2, "--write-csv"),
        (("PHOTOS", "--remove", "everything"), 2, "everything"),
        (
            ("PHOTOS", "--write-csv", "x.csv", "--remove", "nothing", "--remove", "grey"),
            2,
            "--remove nothing",
        ),
    ],
)
def test_wrong_input_is_one_sentence(
    photos: Path, run: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    """Each mistake is told at once, and no file is written."""
    before = sorted(photos.rglob("*"))
    given = [word.replace("PHOTOS", str(photos)) for word in arguments]
    found, text = run("check-data", *given)
    assert found == code
    assert says in text
    assert sorted(photos.rglob("*")) == before
    assert not list(tmp_path.glob("*.csv"))


@pytest.mark.long
def test_people_are_told_what_to_do(photos: Path, run: Run) -> None:
    """The terminal's summary names the leak and the ways out; markup in names stays text."""
    code, text = run("check-data", str(photos))
    assert code == 4
    assert "1 photo of valid is also in another split" in text
    assert "One photo under two labels" in text
    assert "--regroup" in text
    assert HOSTILE in text
