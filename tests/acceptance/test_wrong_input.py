"""Wrong input on purpose: one sentence on stderr, the right exit code, nothing written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import cli
from study.commands.exit_codes import NOBODY_READS
from tests.lab import Lab
from tests.tiny_training import noise

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("serch",), 2, "there is no command 'serch'; did you mean `encore search`?"),
        (("train",), 2, "there is no command 'train'; `encore search --data PHOTOS` trains"),
        (("val",), 2, "`encore best` says what the best weights score"),
        (("search", "--epochs", "3"), 2, "there is no option --epochs; a search chooses it"),
        (("search", "--imgsz", "64"), 2, "give [space] image_size = [128, 224] in study.toml"),
        (("search", "--lr", "1"), 2, "there is no option --lr; a search chooses it"),
        (("search", "--batch-size", "8"), 2, "there is no option --batch-size; a search"),
        (("search", "--n-jobs", "2"), 2, "give --devices cpu:2, a worker for each slot"),
        (("search", "epochs=3"), 2, "there is no option --epochs; a search chooses it"),
        (("search", "data=nowhere", "--trials", "0"), 2, "--trials must be at least 1, got '0'"),
        (("search", "--n-trials", "0"), 2, "--trials must be at least 1, got '0'"),
        (("search", "PHOTOS"), 2, "photos are given with --data, as in --data PHOTOS"),
        (("search", "--data"), 2, "--data needs a value: folder or CSV of photos, or its URL"),
        (("search", "--trails", "3"), 2, "there is no option --trails; did you mean --trials?"),
        (("show",), 2, "show needs TRIAL: the number of a trial, as `encore ls` lists them; for "),
        (("predict",), 2, "for example: encore predict photo.jpg"),
        (("export",), 2, "export needs --to: folder to write; for example: encore export --to"),
        (("search", "--trials", "0"), 2, "--trials must be at least 1"),
        (("search", "--trials", "many"), 2, "--trials must be a whole number, got 'many'"),
        (("search", "--metric", "speed"), 2, "speed"),
        (("search", "--study", "../../etc"), 2, "study"),
        (("search", "--preset", "long"), 2, "long"),
        (("search", "--config", "none.toml"), 2, "none.toml"),
        (("search", "--cache-limit", "20 apples"), 2, "--cache-limit must be a size with"),
        (("search", "--cache-limit", "-1"), 2, "--cache-limit must be a size with"),
        (
            ("search", "--precision", "fp8"),
            2,
            "--precision must be 'auto', 'bf16', 'fp16', 'tf32' or 'fp32'",
        ),
        (("search", "--study", ".cache"), 2, "--study must be at most 100 letters"),
        (("search", "--strategy", "grid"), 2, "give --strategy grid FILE"),
        (("search", "grid.toml"), 2, "give --strategy grid FILE"),
        (("search", "--strategy", "forest"), 2, "forest"),
        (("search", "--timeout", "8 parsecs"), 2, "as 90s, 30m, 8h or 2d, got '8 parsecs'"),
        (("search", "--budget", "0"), 2, "--budget must be a number with a unit, such as 90s"),
        (("search", "--budget", "0m"), 2, "--budget must be above 0"),
        (("search", "--budget", "abc"), 2, "as 90s, 30m, 8h or 2d, got 'abc'"),
        (("search", "--budget", "20m", "--repeats", "2"), 2, "give --trials as well"),
        (("search", "--max-gpu-hours", "1"), 2, "there is no option --max-gpu-hours"),
        (("search", "--eta", "1"), 2, "--eta must be at least 2"),
        (("search", "--devices", "gpu7"), 2, "such as 0,1 or cuda:1 or mps or cpu:2, got 'gpu7'"),
        (("search", "--devices", "cuda:99"), 2, "device 'cuda:99' is not here: torch sees"),
        (("plan", "--devices", "cpu,cuda:99"), 2, "device 'cuda:99' is not here: torch sees"),
        (("search", "--devices", "cpu", "--precision", "tf32"), 2, "got device cpu; use fp32"),
        (("search", "--devices", "cpu:2", "--engine", "inline"), 2, "must have one slot, got 2"),
        (("search", "--workers-per-device", "0"), 2, "--workers-per-device"),
        (("search", "--trainer", "nonsense"), 2, "package.module:Class"),
        (("search", "--trainer", "json:loads"), 2, "a method `train`"),
        (("search", "--trainer", "none.such:Thing"), 2, "cannot be imported"),
        (("search", "--strategy", "grid", "none.toml"), 2, "none.toml"),
        (("search", "--strategy", "grid", "list.csv"), 2, "list.csv"),
        (("plan", "--trials", "0"), 2, "--trials must be at least 1"),
        (("plan", "--budget", "-1m"), 2, "--budget must be a number with"),
        (("tree",), 5, "search"),
        (("gc",), 5, "search"),
        (("gc", "--delete"), 5, "search"),
        (("repeat", "0"), 5, "search"),
        (("repeat", "0", "--seeds", "1"), 2, "--seeds"),
        (("search", "--data", "nowhere"), 2, "'nowhere' does not exist"),
        (("search", "--data", "empty"), 4, "empty"),
        (("search", "--data", "one"), 4, "only 'roses'"),
        (("search", "--data", "list.csv"), 4, "gone.jpg"),
        (("search", "--storage", "nonsense"), 2, "nonsense"),
        (("best",), 5, "search"),
        (("best", "--study", "x"), 5, "search"),
        (("ls",), 5, "search"),
        (("show", "3"), 5, "search"),
        (("show", "three"), 2, "trial must be a whole number, got 'three'"),
        (("dashboard",), 5, "search"),
        (("dashboard", "--port", "0"), 2, "port"),
        (("best", "--storage", "mysql+pymysql://me:secret@/x"), 2, "driver"),
        (("best", "--storage", "postgresql://me:secret@127.0.0.1:1/x"), 1, "127.0.0.1:1/x"),
    ],
)
def test_wrong_input_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    says: str,
) -> None:
    """Each mistake gives its exit code and names the thing, and leaves no file behind."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "one" / "roses").mkdir(parents=True)
    for index in range(5):
        Image.new("RGB", (20, 20), (index, 0, 0)).save(tmp_path / "one" / "roses" / f"{index}.png")
    (tmp_path / "list.csv").write_text("path,label\ngone.jpg,roses\n")
    before = sorted(tmp_path.rglob("*"))

    monkeypatch.chdir(tmp_path)

    ended = cli.run(arguments)

    said = "".join(capsys.readouterr())
    assert ended == code, said
    assert says in said
    assert "Traceback" not in said
    assert "secret" not in said
    assert sorted(tmp_path.rglob("*")) == before


def test_debug_shows_the_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only `--debug` prints where an error came from."""
    monkeypatch.chdir(tmp_path)
    assert cli.run(["best"]) == 5
    assert "Traceback" not in capsys.readouterr().err
    command = [sys.executable, str(ROOT / "cli.py"), "--debug", "best"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 5
    assert "Traceback" in done.stderr


def test_nothing_to_select_is_exit_code_5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A study whose only trial fails ends with code 3, and `best` of it with code 5."""
    (tmp_path / "study.toml").write_text(
        'backbone = "test_resnet"\nweights = "random"\nportfolio = false\n[space]\nn_stages = [1]\n'
        'image_size = [32]\nbatch_size = [8]\nlrs = [100.0]\noptimizer = ["sgd"]\n'
        "cycle_len = [3]\n"
    )
    noise(tmp_path / "photos", 16, 8)
    monkeypatch.chdir(tmp_path)
    search = ("search", "--data", "photos")
    assert cli.run([*search, "--trials", "3", "--max-failures", "2"]) == 3
    said = capsys.readouterr().err
    assert "2 trials in a row have failed" in said
    assert "TrainingDiverged" in said
    assert cli.run([*search, "--study", "other", "--trials", "1"]) == 5
    said = capsys.readouterr().err
    assert "every trial of study 'other' has failed, the last with diverged" in said
    assert cli.run(["best", "--study", "photos"]) == 5
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.long
@pytest.mark.parametrize(
    "arguments",
    [
        ("ls",),
        ("ls", "--json"),
        pytest.param(("search", "--trials", "1"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_who_stops_reading_is_no_success(
    finished: Lab, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """As of `encore ls | head`: no word about it, and the exit code of SIGPIPE."""
    there, gone = os.pipe()
    os.close(there)
    command = [sys.executable, str(ROOT / "cli.py"), *arguments, "--storage", finished.url]
    done = subprocess.run(
        command, cwd=tmp_path, stdout=gone, timeout=60, check=False,
        stderr=gone if arguments[0] == "search" else subprocess.PIPE,
    )  # fmt: skip
    os.close(gone)
    assert done.returncode == NOBODY_READS
    assert not done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("deep = " + "[" * 9000 + "]" * 9000, "nests too deeply"),
        ("deep = " + "{a = " * 5000 + "1" + "}" * 5000, "nests too deeply"),
        ("trials = " + "9" * 5000, "is not a readable TOML file: Exceeds the limit"),
    ],
)
def test_toml_that_python_cannot_hold(
    text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nested too deeply, or a number of thousands of digits: misuse, in a sentence."""
    (file := tmp_path / "study.toml").write_text(text)
    url = f"sqlite:///{tmp_path / 'encore.db'}"
    assert cli.run(["search", "--config", str(file), "--storage", url]) == 2
    complaint = capsys.readouterr().err
    assert says in complaint
    assert "unexpected" not in complaint


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("import sys\nsys.exit(3)", "cannot be imported: it exits with 3"),
        ("1 / 0", "cannot be imported: it raises ZeroDivisionError: division by zero"),
        ("def (", "cannot be imported: it raises SyntaxError"),
        (
            "class Mine:\n    train = repr\n    def __init__(self, *_, **__): raise OSError('no')",
            "cannot be made: it raises OSError: no",
        ),
    ],
)
def test_trainers_that_raise_or_exit(
    content: str,
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The user's module is named, and what it did."""
    name = f"trainer_{abs(hash(content))}"
    (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    url = f"sqlite:///{tmp_path / 'encore.db'}"
    assert cli.run(["search", "--trainer", f"{name}:Mine", "--storage", url]) == 2
    assert f"trainer '{name}:Mine' {says}" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", ["encore.db", "encore.db.lock", "ENCORE.db-wal"])
def test_a_study_is_not_named_as_the_database(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its folder lies beside the database's files."""
    url = f"sqlite:///{tmp_path / 'encore.db'}"
    assert cli.run(["search", "--study", name, "--storage", url]) == 2
    assert "must not be named as the database's own file" in capsys.readouterr().err
    assert not (tmp_path / "encore.db").exists()
