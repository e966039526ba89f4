"""`explain` by the command line alone: pictures that can be read, or one sentence and no file."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cli
from study.deployment.contact_sheet import MAX_BYTES, Picture, coloured, draw_picture, draw_sheet
from study.deployment.explain import picture_name
from study.selection.best import best
from tests.tiny_search import copy_of, search_in

CLASSES = "bright [red]", "dark \u2740"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Search once over two classes of tiny photos; some names would leave the folder."""
    return search_in(tmp_path_factory.mktemp("explain"), CLASSES, "; \u00fc$(x) ..png", 1)


@pytest.fixture
def place(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a copy of what was searched."""
    return copy_of(searched, tmp_path / "work", monkeypatch)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], place: Path) -> Callable[..., str]:
    """Run a command that must fail with a code, in one sentence and without a new file."""

    def run(code: int, *arguments: str) -> str:
        capsys.readouterr()
        before = sorted(place.rglob("*"))
        ended, (shown, said) = cli.run(["explain", *arguments]), capsys.readouterr()
        assert (ended, shown, len(said.strip().splitlines())) == (code, "", 1), said
        assert [path for path in sorted(place.rglob("*")) if path not in before] == []
        return said

    return run


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    """Run `explain --json` and read its document."""
    capsys.readouterr()
    assert cli.run(["explain", "--json", *arguments]) == 0
    document: dict[str, object] = json.loads(capsys.readouterr().out)
    return document


@pytest.mark.long
@pytest.mark.usefixtures("place")
def test_the_validation_photos_are_drawn_worst_first(capsys: pytest.CaptureFixture[str]) -> None:
    """Without photos: those of the validation split, mistakes first, then the least sure."""
    found = answer(capsys, "--to", "out", "--top", "12")
    photos, chosen = found["photos"], best()
    assert isinstance(photos, list)
    assert len(photos) == 12
    wrong = [each["path"] for each in photos if each["label"] != each["predicted"]]
    assert sorted(wrong) == sorted(mistake.path for mistake in chosen.mistakes)
    assert wrong == [each["path"] for each in photos[: len(wrong)]]
    sure = [each["probability"] for each in photos]
    assert sure[: len(wrong)] == sorted(sure[: len(wrong)], reverse=True)
    assert sure[len(wrong) :] == sorted(sure[len(wrong) :])
    files = [Path(str(found["sheet"])), *(Path(each["file"]) for each in photos)]
    assert sorted(files) == sorted(path for path in Path("out").iterdir())
    for file in files:
        with Image.open(file) as picture:
            picture.load()
            assert (picture.format, picture.mode) == ("PNG", "RGB")
            assert picture.width >= 600
    assert files[1].name.startswith("01_")


def test_given_photos_and_a_class(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Photos anywhere are explained for the class asked for, by the weights given."""
    weights = best().file
    shutil.copy(next(Path("photos/valid", CLASSES[0]).iterdir()), "mine.png")
    command = ["mine.png", f"photos/valid/{CLASSES[1]}", "--weights", weights, "--top", "3"]
    found = answer(capsys, *command, "--class", CLASSES[1], "--to", "a/b")
    photos = found["photos"]
    assert isinstance(photos, list)
    assert {each["explained"] for each in photos} == {CLASSES[1]}
    assert {each["label"] for each in photos} <= {CLASSES[1], None}
    assert len(list((place / "a" / "b").iterdir())) == 4
    assert cli.run(["explain", "mine.png", "--to", "a/b"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "a/b/sheet.png"
    assert shown[1].startswith("mine.png: ")


def test_photos_that_cannot_be_used(
    searched: Path, place: Path, refused: Callable[..., str]
) -> None:
    """A missing photo, text called .jpg, an empty folder: named, and nothing is written."""
    (place / "text.jpg").write_text("not a photo")
    (place / "empty").mkdir()
    assert "gone.jpg" in refused(2, "gone.jpg")
    assert "text.jpg: not an image" in refused(1, "text.jpg")
    assert "empty" in refused(2, "empty")
    (searched / "photos").rename(searched / "elsewhere")
    try:
        assert "photos/valid" in refused(2)
    finally:
        (searched / "elsewhere").rename(searched / "photos")


def test_weights_that_cannot_be_used(place: Path, refused: Callable[..., str]) -> None:
    """Text, weights that are not there, and those of data that no study here knows."""
    (place / "text.safetensors").write_text("weights")
    assert "text.safetensors" in refused(1, "photos", "--weights", "text.safetensors")
    assert "gone.safetensors" in refused(2, "photos", "--weights", "gone.safetensors")
    shutil.copy(best().file, place / "theirs.safetensors")
    other = f"sqlite:///{place / 'other' / 'encore.db'}"
    assert "search" in refused(5, "--storage", other)
    assert "search" in refused(5, "--weights", "theirs.safetensors", "--storage", other)


def test_flags_that_cannot_be(refused: Callable[..., str]) -> None:
    """An unknown class is answered with the classes; a bad device and folder in a sentence too."""
    said = refused(2, "photos/valid", "--class", "lilies")
    assert "lilies" in said
    assert all(name in said for name in CLASSES)
    assert "try cpu" in refused(2, "photos/valid", "--device", "warp")
    assert "'study.toml' is a file" in refused(2, "--to", "study.toml")
    assert "--top" in refused(2, "--top", "0")
    assert "--weights or --study" in refused(2, "--weights", "x", "--study", "photos")


def test_a_disk_that_is_full_leaves_no_half_of_the_pictures(
    place: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    """What an earlier run has drawn stays as it was, if a later one cannot write all of its own."""
    assert cli.run(["explain", "--to", "out", "--top", "3"]) == 0
    before = {path: path.read_bytes() for path in (place / "out").iterdir()}
    write, count = Path.write_bytes, iter(range(100))

    def fill(path: Path, data: bytes) -> int:
        if next(count) == 2:
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fill)
    assert "no space" in refused(1, "--to", "out", "--top", "5")
    assert {path: path.read_bytes() for path in (place / "out").iterdir()} == before


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "...", "a\\b:c*?\n\x1b[31m", "x" * 250, "\u00e4" * 120, "\udc80", "-rf ~"],
)
def test_hostile_names_make_harmless_files(name: str, tmp_path: Path) -> None:
    """Whatever a photo is called, its picture lies in the folder and can be written there."""
    made = picture_name(7, 24, Path(f"{name}.jpg"))
    assert made.startswith("07_")
    assert Path(made).name == made
    assert not set(made) & set('\\/:*?\n\x1b"<>| ')
    (tmp_path / made).write_bytes(b"")
    assert [path.name for path in tmp_path.iterdir()] == [made]


def picture(size: int = 320, *, verdict: str = "roses", notes: tuple[str, ...] = ()) -> Picture:
    """Make a picture of noise, which no PNG can compress."""
    photo = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    heat = np.linspace(0, 1, 24 * 24, dtype=np.float32).reshape(24, 24)
    return Picture(photo, heat, verdict, notes, wrong=True)


@pytest.mark.parametrize("count", [1, 24, pytest.param(100, marks=pytest.mark.long)])
def test_a_sheet_stays_below_its_size(count: int) -> None:
    """Even a hundred photos of noise, with endless captions in any script, make a small sheet."""
    odd = picture(verdict="\u73ab\u7470 \U0001f339 " * 60, notes=("x/" * 400, "\udc80\n\x00\u202e"))
    drawn = draw_sheet([odd] * count, "weights " * 99)
    assert len(drawn) <= MAX_BYTES
    with Image.open(io.BytesIO(drawn)) as sheet:
        sheet.load()
        assert sheet.width * sheet.height > count * 64 * 128


def test_the_photo_is_left_and_its_heat_right() -> None:
    """The left half is the photo to the last bit; the right is brighter where it is hotter."""
    given = picture()
    with Image.open(io.BytesIO(draw_picture(given))) as drawn:
        pixels = np.asarray(drawn.convert("RGB"))
    assert np.array_equal(pixels[:320, :320], given.photo)
    right = pixels[:320, -320:].astype(float).mean(axis=2)
    assert right[-40:].mean() > 2 * right[:40].mean()


def test_captions_know_more_letters_than_ascii() -> None:
    """Letters of Europe are drawn each as itself, not all as the box that stands for none."""
    letters = "o\u00f6\u00df\u00e9\u0142\u03b2\u0436"
    drawn = {draw_picture(picture(verdict=letter)) for letter in (*letters, "\ue000")}
    assert len(drawn) == len(letters) + 1


def test_hotter_is_lighter_all_the_way() -> None:
    """In the palette lightness rises in even steps, so it can be read without telling colours."""
    linear = (coloured(np.linspace(0, 1, 101, dtype=np.float32)) / 255) ** 2.2
    lightness = (linear @ np.array([0.2126, 0.7152, 0.0722])) ** (1 / 3)
    steps = np.diff(lightness[5:])
    assert (steps > 0).all()
    assert steps.max() < 3 * np.median(steps)
