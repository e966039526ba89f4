"""The sbatch recipe, run by bash with the real search; of Slurm, only its commands are played."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import safetensors
from safetensors.numpy import load_file

from tests.engines import until
from trainers.base import LAST

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "deploy" / "slurm.sbatch"
NUMBER = "4711"
STAGES = """
[[schedules.stages]]
image_size = 24
batch_size = 64
cycle_len = 3
lrs = 0.001
"""
SCHEDULES = f"[[schedules]]{STAGES}{STAGES}[[schedules]]{STAGES.replace('001', '003')}{STAGES}"
TRAINER = """
import os
import time
from pathlib import Path
from trainers.data.manifest import Split
from trainers.synthetic import SyntheticTrainer


class Held(SyntheticTrainer):
    def __init__(self, manifest, *, metric, device):
        super().__init__(manifest.labels(Split.VALID), len(manifest.classes), metric=metric)
        if "SLOW_START" in os.environ:
            Path("starting").touch()
            time.sleep(60)

    def train(self, task):
        for metrics in super().train(task):
            yield metrics
            if metrics.epoch == 1:  # the second epoch lasts until it may end
                Path(f"training-{task.folder.name}").touch()
                while not Path("go").exists():
                    time.sleep(0.01)
"""
COMMANDS = {
    "encore": f'exec {sys.executable} {ROOT / "cli.py"} "$@"',
    "scontrol": 'echo "$@" >> asked',
    "squeue": "cat state",
    "srun": """
while case "$1" in --*) ;; *) false ;; esac do shift; done
exec "$@"
""",
}
ON_RAY = f"""
exec {sys.executable} - "$@" <<'PYTHON'
import signal, sys, time
import ray
ray.init(address=sys.argv[-1], logging_level="ERROR", log_to_driver=False)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))  # ray.init sets a handler, too
print(*sys.argv[1:-1], len(ray.nodes()), flush=True)
time.sleep(60)
PYTHON
"""
"""A search on Ray, but for the training: says what it is told and how many nodes there are."""


def start(
    folder: Path, *flags: str, encore: str = COMMANDS["encore"], **environment: str
) -> subprocess.Popen[str]:
    """Begin the recipe as Slurm does, in a group of its own, in a folder that holds a trainer."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    for name, text in {**COMMANDS, "encore": encore}.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    (folder / "schedules.toml").write_text(SCHEDULES)
    (folder / "held.py").write_text(TRAINER)
    (folder / "state").write_text("RUNNING\n")
    given = {"SLURM_JOB_ID": NUMBER, "PYTHONPATH": str(ROOT)}
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", str(RECIPE), "--strategy", "grid", "schedules.toml", "--trainer", "held:Held",
         "--trials", "2", *flags],
        cwd=folder, env={**os.environ, **given, **environment, "PATH": path},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def ends(recipe: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the recipe's end; return its exit code and what it said on stderr."""
    _, said = recipe.communicate(timeout=60)
    return recipe.returncode, said


def asked(folder: Path) -> str:
    """Return what was asked of scontrol."""
    return (folder / "asked").read_text() if (folder / "asked").exists() else ""


def query(folder: Path, sql: str) -> list[Any]:
    """Ask the database, past all of ours."""
    with closing(sqlite3.connect(folder / "runs" / "encore.db")) as connection:
        return connection.execute(sql).fetchall()


def results(folder: Path) -> list[Any]:
    """Return the epochs of each stage run, and the tensor of each kept file."""
    runs = "FROM encore_stage_runs r JOIN"
    epochs = f"SELECT key, e.epoch, accuracy, valid_loss {runs} encore_epochs e"
    files = f"SELECT key, kind, path {runs} encore_checkpoints c"
    return query(folder, f"{epochs} ON r.id = e.stage_run_id ORDER BY key, e.epoch") + [
        (*rest, load_file(folder / "runs" / "digits" / path)["skill"].tolist())
        for *rest, path in query(folder, f"{files} ON r.id = c.stage_run_id ORDER BY key, kind")
    ]


def saved(folder: Path) -> list[int]:
    """Return how many epochs each stage run in training has on disk; no row may be ahead."""
    found = {}
    for path in (folder / "runs" / "digits" / "stages").glob(f"*/*/{LAST}"):
        with safetensors.safe_open(path, framework="np") as file:
            found[path.parent.name] = int(file.metadata()["epochs"])
    rows = "SELECT key, epoch FROM encore_epochs JOIN encore_stage_runs ON id = stage_run_id"
    assert all(epoch <= found[key[:16]] for key, epoch in query(folder, rows))
    return list(found.values())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Return what comes of the recipe if nothing disturbs it: exit code 0, nothing requeued."""
    folder = tmp_path_factory.mktemp("calm")
    (folder / "go").touch()
    code, said = ends(start(folder))
    assert code == 0, said
    assert asked(folder) == ""
    found = results(folder)
    assert len(found) > 2 * 2 * 3  # epochs of two trials, and files
    return found


def goes_on(folder: Path, undisturbed: list[Any], *flags: str) -> None:
    """Check that the same command ends as an undisturbed one."""
    (folder / "go").touch()
    code, said = ends(start(folder, *flags))
    assert code == 0, said
    assert results(folder) == undisturbed


@pytest.mark.slow
def test_pre_empted_the_epoch_ends_is_saved_and_the_search_is_requeued(
    tmp_path: Path, undisturbed: list[Any]
) -> None:
    """SIGTERM reaches every process, and the search once more from the script: one is meant."""
    recipe = start(tmp_path, "--devices", "cpu:2")
    until(lambda: len(list(tmp_path.glob("training-*"))) == 2, 60)
    os.killpg(recipe.pid, signal.SIGTERM)
    time.sleep(0.5)  # for the script to pass it on
    (tmp_path / "go").touch()
    code, said = ends(recipe)
    assert code == 130, said
    stopped = r"stopped: 0 trials done, 2 to go, device time \S+ s"
    assert re.search(f"{stopped}; run the same command again to go on", said)
    assert saved(tmp_path) == [2, 2]
    assert asked(tmp_path) == f"requeue {NUMBER}\n"
    goes_on(tmp_path, undisturbed, "--devices", "cpu:2")


@pytest.mark.slow
def test_an_epoch_longer_than_the_grace_is_given_up(tmp_path: Path, undisturbed: list[Any]) -> None:
    """The epoch before it is what is kept; what was cancelled by hand does not come back."""
    recipe = start(tmp_path, GRACE="6")
    until(lambda: any(tmp_path.glob("training-*")), 60)
    (tmp_path / "state").write_text("COMPLETING\n")
    recipe.send_signal(signal.SIGTERM)
    code, said = ends(recipe)
    assert code == 130, said
    assert said.endswith("stopped\n")
    assert saved(tmp_path) == [1]
    assert asked(tmp_path) == ""
    goes_on(tmp_path, undisturbed)


@pytest.mark.slow
def test_before_the_first_trial_a_signal_stops_at_once(tmp_path: Path) -> None:
    """However often it comes. The study is given up, so that another machine may take it over."""
    recipe = start(tmp_path, SLOW_START="yes", REQUEUE="no")
    until((tmp_path / "starting").exists, 60)
    assert query(tmp_path, "SELECT count(*) FROM encore_owners") == [(1,)]
    for _ in range(3):
        os.killpg(recipe.pid, signal.SIGTERM)
    code, said = ends(recipe)
    assert code == 130, said
    assert said.endswith("stopped\n")
    assert query(tmp_path, "SELECT count(*) FROM encore_owners") == [(0,)]
    assert asked(tmp_path) == ""


@pytest.mark.slow
def test_several_nodes_are_one_ray(tmp_path: Path) -> None:
    """The search begins when the other node has joined, and with it ends all that was started."""
    if shutil.which("ray", path=Path(sys.executable).parent) is None:
        pytest.skip("ray is not installed")
    nodes = {"SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1", "SLURMD_NODENAME": "n1"}
    recipe = start(tmp_path, encore=ON_RAY, **nodes)
    assert recipe.stdout is not None
    said = recipe.stdout.readline()
    assert said.startswith("search --strategy grid")
    assert said.endswith("--engine ray --address 2\n")
    recipe.send_signal(signal.SIGTERM)
    code, said = ends(recipe)
    assert code == 130, said
    assert "2 of 2 nodes have joined Ray" in said
    assert asked(tmp_path) == f"requeue {NUMBER}\n"
    ours = subprocess.run(["pgrep", "-f", f":{20000 + int(NUMBER)}"], stdout=subprocess.PIPE)
    assert ours.stdout == b""


@pytest.mark.long
def test_a_search_that_cannot_begin_is_not_tried_again(tmp_path: Path) -> None:
    """Its exit code is the recipe's, and Slurm is asked nothing."""
    code, said = ends(start(tmp_path, "--devices", "abacus"))
    assert code == 2
    assert "devices must be a list such as" in said
    assert asked(tmp_path) == ""
