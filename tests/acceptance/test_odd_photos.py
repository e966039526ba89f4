"""A search over every odd kind of photo that real folders hold, by the command line alone."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli import run
from study.history.trials import list_trials

ROOT = Path(__file__).parents[2]
Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run `python cli.py` in a folder of its own."""

    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "cli.py"), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    return start


def make_odd_photos(folder: Path) -> None:
    """Write two classes, bright and dark, in every format that a real folder holds."""
    random = np.random.default_rng(0)
    for name, level in (("bright [red]", 200), ("dark & <b>", 60)):
        target = folder / name / "nested"
        target.mkdir(parents=True)

        def photo(level: int = level) -> Image.Image:
            pixels = random.normal(level, 20, (40, 60, 3)).clip(0, 255).astype(np.uint8)
            return Image.fromarray(pixels)

        for index in range(6):
            photo().save(target / f"plain {index}.png")
        photo().save(target / "UPPER.JPG", "jpeg")
        photo().save(target / "progressive.jpg", progressive=True)
        exif = Image.Exif()
        exif[0x0112] = 6
        photo().save(target / "turned.jpg", exif=exif)
        photo().convert("L").save(target / "grey.png")
        photo().convert("P").save(target / "palette.gif")
        photo().convert("RGBA").save(target / "alpha.png")
        photo().convert("CMYK").save(target / "cmyk.jpg")
        deep = np.asarray(photo().convert("L")).astype(np.uint16) * 257
        Image.fromarray(deep).save(target / "sixteen bits.png")
        photo().save(target / "moving.webp", save_all=True, append_images=[photo(), photo()])
        photo().save(target / "Ünïcode ß.bmp")
        photo().save(target.parent / ".hidden.png")
        (target / "link.png").symlink_to(target / "grey.png")
        (target / "outside.png").symlink_to("/etc/hostname")
        (target / "notes.txt").write_text("not a photo")


@pytest.mark.slow
def test_a_search_over_every_odd_format_gives_the_best_weights(cli: Cli, tmp_path: Path) -> None:
    """A folder of odd photos is searched, odd files are named, and every command answers."""
    make_odd_photos(tmp_path / "my photos")
    (tmp_path / "study.toml").write_text(
        'backbone = "test_resnet"\nweights = "random"\nportfolio = false\n'
        "[space]\nn_stages = [2]\nimage_size = [32]\nbatch_size = [8]\nlrs = [0.01, 0.03]\n"
        'crop = ["random", "no"]\nstart_from = ["last", "best"]\n'
    )
    done = cli("search", "--data", "my photos", "--trials", "2", "--repeats", "1")
    assert done.returncode == 0, done.stderr
    assert "left out 'bright [red]/nested/outside.png'" in done.stderr
    assert "  2 ep  seed 0" in done.stderr
    assert done.stdout.startswith("best: runs/")

    chosen = json.loads(cli("best", "--json", "--copy-to", "out").stdout)
    assert {
        "study", "trial", "seed", "file", "sha256", "metric", "score", "errors", "n_valid",
        "classes", "confusion", "schedule", "schedule_mean", "schedule_spread", "runners_up",
    } <= chosen.keys()  # fmt: skip
    assert chosen["study"] == "my-photos"
    assert chosen["classes"] == ["bright [red]", "dark & <b>"]
    assert sum(map(sum, chosen["confusion"])) == chosen["n_valid"]
    assert (tmp_path / chosen["copied_to"]).read_bytes() == (tmp_path / chosen["file"]).read_bytes()

    assert "bright [red]" in cli("best", "--details").stdout
    listed = json.loads(cli("ls", "--json").stdout)
    states = [trial["state"] for trial in listed["trials"]]
    assert set(states) <= {"complete", "pruned"}
    assert states[0] == "complete"
    assert any(trial["role"] == "repeat" for trial in listed["trials"])
    shown = json.loads(cli("show", "0", "--json").stdout)
    assert [len(stage["epochs"]) for stage in shown["stages"]] == [1, 1]
    assert "validation loss" in cli("show", "0").stdout
    assert cli("doctor").returncode == 0


@pytest.mark.long
def test_the_same_command_goes_on_and_a_changed_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--trials` is a total; a photo added under the same study is noticed, with exit code 4."""
    monkeypatch.chdir(tmp_path)
    make_odd_photos(tmp_path / "photos")
    tiny = ("--backbone", "test_resnet", "--weights", "random", "--no-portfolio")
    (tmp_path / "study.toml").write_text(
        "[space]\nn_stages = [1]\nimage_size = [32]\nbatch_size = [8]\nlrs = [0.01, 0.03]\n"
    )

    def search(trials: int) -> tuple[int, str]:
        code = run(["search", "--data", "photos", "--trials", str(trials), *tiny])
        return code, capsys.readouterr().err

    assert search(1)[0] == 0
    code, said = search(3)
    assert (code, "1 trial done, 2 to go" in said) == (0, True)
    assert "0 to go" in search(3)[1]

    Image.new("RGB", (30, 30)).save(tmp_path / "photos" / "dark & <b>" / "new.png")
    code, said = search(4)
    assert code == 4
    assert "1 photo added ('dark & <b>/new.png')" in said
    assert len(list_trials().trials) == 3
