"""A search from a script, as README shows it, with two workers: what these do to the script."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_photos import reds_and_blues

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

SETTINGS = """
backbone = "test_resnet"
weights = "random"
portfolio = false
devices = "cpu:2"
[space]
n_stages = [1]
image_size = [32]
batch_size = [64]
cycle_len = [1]
lrs = [0.01, 0.02]
"""

DYING = """
import os, signal, sys
from pathlib import Path
if "--multiprocessing-fork" in sys.orig_argv and not Path("mended").exists():
    os.kill(os.getpid(), signal.SIGKILL)
"""
"""Python runs it as `sitecustomize` before anything else: each worker kills itself at once."""

COUNTED = """
from pathlib import Path
from study.config.loading import load_config, settings_of
with open("runs.txt", "a") as runs:
    runs.write("x")
"""

OWN = """
from study import search

class MyTrainer:
    def __init__(self, manifest, *, metric, device): ...
    def train(self, task): ...

search(data="PHOTOS", trials=1, trainer="__main__:MyTrainer", devices="cpu:2")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a small folder PHOTOS of two classes, and settings with two workers beside it."""
    reds_and_blues(tmp_path)
    (tmp_path / "study.toml").write_text(SETTINGS)
    return tmp_path


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with this checkout and the folder's own modules."""
    path = os.pathsep.join([str(ROOT), str(folder)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
def test_the_readme_example_is_run_once_whatever_the_workers(folder: Path) -> None:
    """Saved as a script without a guard it runs where it was started, and nowhere else."""
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (example,) = [block for block in blocks if "search(data=" in block]
    given = 'load_config(settings_of(data="PHOTOS", trials=2), Path("study.toml"))'
    searched = example.replace('data="PHOTOS", trials=50', given)
    assert searched != example
    counted = f"{COUNTED}{searched}"
    (folder / "script.py").write_text(counted)
    done = python(folder, "script.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert " errors on " in done.stdout
    assert (folder / "runs.txt").read_text() == "x"


@pytest.mark.long
def test_a_trainer_in_the_script_itself_is_refused_where_there_are_workers(folder: Path) -> None:
    """They cannot import it: one sentence says what to do, before anything is written."""
    (folder / "script.py").write_text(OWN)
    done = python(folder, "script.py")
    assert "ConfigError: trainer '__main__:MyTrainer' is part of the program" in done.stderr
    assert "put the class into a module of its own" in done.stderr
    assert not (folder / "runs").exists()


@pytest.mark.slow
def test_a_search_whose_workers_die_as_they_start_goes_on_when_they_do_not(folder: Path) -> None:
    """It ends in a sentence and fails no trial; the same command trains what it had begun."""
    (folder / "sitecustomize.py").write_text(DYING)
    command = (str(ROOT / "cli.py"), "search", "--data", "PHOTOS", "--trials", "2")
    done = python(folder, *command)
    assert done.returncode == 1
    assert "error: worker processes die as they start: 3 in a row for cpu" in done.stderr
    assert "at last by SIGKILL" in done.stderr
    assert "Traceback" not in done.stderr

    (folder / "mended").touch()
    assert python(folder, *command).returncode == 0
    shown = python(folder, str(ROOT / "cli.py"), "ls", "--json")
    assert shown.stdout.count('"complete"') == 2
    assert '"failed"' not in shown.stdout
