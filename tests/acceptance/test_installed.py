"""What a newcomer installs and reads: the wheel, the README's commands, its Python example."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cli import run
from study.config.costs import Costs
from study.config.loading import load_config
from study.config.presets import grid_schedules
from study.config.schema import Budget, Data, Halving, Keeping, Seeds, StudyConfig
from tests.cluster import needs_ray
from tests.object_store import ObjectStore
from tests.tiny_photos import reds_and_blues
from trainers.base import Precision

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *(f"docs/{name}.md" for name in ("searching", "photos", "choice")))
PAGES += ("docs/backbones.md", "docs/machines.md")
README = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
"""It and the pages that its readers go on with."""

# The first one stands at the end of the command that installs.
COMMANDS = [
    line.strip() for line in re.findall(r"(?:^|&& )(python cli\.py [^#\n]*)", README, re.MULTILINE)
]


def blocks(language: str) -> list[str]:
    """Return the README's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Make a small folder PHOTOS of two classes, and a tiny study.toml beside it."""
    reds_and_blues(tmp_path)
    (tmp_path / "study.toml").write_text(
        'backbone = "test_resnet"\nweights = "random"\nportfolio = false\n[space]\nn_stages = [1]\n'
        "image_size = [32]\nbatch_size = [64]\nlrs = [0.01, 0.02, 0.03, 0.04]\n"
    )
    return tmp_path


def test_the_commands_of_the_readme_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    """Each names a command and flags that there are."""
    for line in COMMANDS:
        assert run([*shlex.split(line)[2:], "--help"]) == 0, line
        assert "Usage" in capsys.readouterr().out


@pytest.mark.slow
def test_the_commands_of_the_readme_work(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every `python cli.py` line of the README runs, word by word but for how much is trained."""
    lines = [line for line in COMMANDS if not re.search("dashboard|s3:|--engine ray", line)]
    assert len(lines) >= 6
    monkeypatch.chdir(photos)
    for line in lines:
        few = re.sub(r"--trials \d+", "--trials 2", line)
        words = re.sub(r"--budget \w+", "--budget 0.1s", few).split()[2:]
        # A GPU's backbone and a weights file of one's own are not for this machine.
        words = ["test_resnet" if word == "resnext50_32x4d" else word for word in words]
        assert run(words) == 0, f"{line}: {capsys.readouterr().err}"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["s3:", pytest.param("--engine ray", marks=needs_ray)])
def test_the_commands_for_more_machines_work(
    photos: Path, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Photos and weights in a bucket; and a Ray that is started here instead of on HOST."""
    bucket = object_store.bucket()
    for photo in (photos / "PHOTOS").rglob("*.jpg"):
        name = photo.relative_to(photos / "PHOTOS").as_posix()
        object_store.put(bucket, f"photos/{name}", photo.read_bytes())
    monkeypatch.chdir(photos)
    (line,) = (line for line in COMMANDS if what in line)
    words = line.replace("bucket", bucket).replace(" --address HOST:6379", "").split()[2:]
    command = [sys.executable, str(ROOT / "cli.py"), *words[:-1], "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    kept = [name for name in object_store.objects(bucket) if name.endswith(".safetensors")]
    assert bool(kept) == (what == "s3:")


@pytest.mark.slow
def test_the_python_example_of_the_readme_works(photos: Path) -> None:
    """The README's Python example runs as it stands."""
    (example,) = (block for block in blocks("python") if "import encore" in block)
    done = subprocess.run(
        [sys.executable, "-c", example.replace("trials=50", "trials=1")],
        cwd=photos,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "acc" in done.stdout


def test_the_space_of_the_readme_and_the_template_are_settings(tmp_path: Path) -> None:
    """The README's TOML is accepted, and study.toml with its `#` taken away says the defaults."""
    for block in blocks("toml"):
        (tmp_path / "study.toml").write_text(block)
        if "[[schedules]]" in block:
            (schedule,) = grid_schedules(tmp_path / "study.toml", "resnet18", "random")
            assert len(schedule.stages) == 2
        else:
            load_config({}, tmp_path / "study.toml")
    lines = (ROOT / "study.toml").read_text().splitlines()
    settings = [line[2:] for line in lines if re.match(r"# (\[|\w+ = )", line)]
    named = {line.split(" = ")[0] for line in settings}
    sections = {"data": Data, "budget": Budget, "seeds": Seeds, "halving": Halving, "keep": Keeping}
    sections["costs"] = Costs
    for section in (StudyConfig, *sections.values()):
        fields = {n for n in section.model_fields if n not in (*sections, "space")}
        assert fields <= named, "study.toml must name every setting"
    optional = ["study", "preset", "backbone", "weights", "source", "root", "cache_limit"]
    optional += ["address", "vault", "grid", "trainer", "timeout", "compute", "max_disk"]
    optional += ["group_by", "folds", "like"]
    kept = [line for line in settings if line.split(" = ")[0] not in optional or "[" in line]
    costs = ("prices = ", "matrix = ", "reject = ", "recall = ")
    kept = [line for line in kept if not line.startswith(costs)]
    (tmp_path / "study.toml").write_text("\n".join(kept))
    told = load_config({}, tmp_path / "study.toml")
    default = StudyConfig(data=told.data.model_copy(update={"source": "PHOTOS"}))
    assert told.model_copy(update={"space": None}) == StudyConfig()
    assert told.space == default.resolved_space


def test_help_names_every_flag_and_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    """What is new to compute with and to keep photos in is offered, with what it may be."""
    assert run(["search", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for flag in ("precision", "compile", "deterministic", "cache-limit", "devices", "trials"):
        assert f" --{flag} " in said
    assert f"depends on the device: {', '.join(Precision)}." in said
    assert (
        "--cache-limit SIZE Disk for decoded photos, such as 20GB. (default: half of what" in said
    )
    assert run(["gc", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "--cache " in said
    assert "--delete " in said
