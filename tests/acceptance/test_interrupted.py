"""A search that is stopped, politely or by kill -9, goes on as if it had not been."""

import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
SETTINGS = """
backbone = "test_resnet"
weights = "random"
portfolio = false
sampler = "random"
strategy = "independent"
[space]
n_stages = [2]
image_size = [24]
batch_size = [64]
cycle_len = [3]
lrs = [0.01]
dropout = [0.3]
augmentation = ["side-on"]
[[space.stages]]
cycle_len = [2]
"""
IN_A_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Makes a terminal its own, so that SIGHUP comes when that is closed."""

UNSAVED = """
SELECT count(*) FROM encore_epochs JOIN encore_stage_runs ON id = stage_run_id
WHERE state = 'running'
"""


def start(folder: Path, trials: int, *flags: str) -> subprocess.Popen[str]:
    """Begin a search on the digits."""
    folder.mkdir(exist_ok=True)
    (folder / "study.toml").write_text(SETTINGS)
    command = [sys.executable, str(ROOT / "cli.py"), "search", "--trials", str(trials), *flags]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def unsaved_epochs(folder: Path) -> int:
    """Count the epochs that are recorded of a stage in training, and that no file knows."""
    if any((folder / "runs" / "digits" / "stages").glob("*/*/last.safetensors")):
        return 0
    database = (folder / "runs" / "encore.db").as_uri()
    try:
        with closing(sqlite3.connect(f"{database}?mode=ro", uri=True)) as connection:
            return int(connection.execute(UNSAVED).fetchone()[0])
    except sqlite3.OperationalError:  # not there yet, or being written
        return 0


def wait_for_an_epoch(folder: Path, search: subprocess.Popen[Any]) -> bool:
    """Have the search stand still where an epoch is recorded that only training can bring back."""
    while search.poll() is None:
        time.sleep(0.01)
        if unsaved_epochs(folder):
            search.send_signal(signal.SIGSTOP)
            if unsaved_epochs(folder):  # still so, now that nothing moves
                return True
            search.send_signal(signal.SIGCONT)
    return False


def weights(folder: Path) -> dict[str, str]:
    """Return the hash of all tensors of each stage's best weights, by file name."""
    return {
        path.name: hashlib.sha256(
            b"".join(k.encode() + v.tobytes() for k, v in sorted(load_file(path).items()))
        ).hexdigest()
        for path in (folder / "runs" / "digits").glob("*.safetensors")
    }


def listed(folder: Path, *command: str) -> dict[str, Any]:
    """Run a reading command and return its JSON."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *command, "--json"],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def epochs(folder: Path) -> list[dict[str, Any]]:
    """Return what is recorded of each epoch of both trials, but for how long it took."""
    clock = ("seconds", "images_per_second", "data_wait", "stage_run_id")
    return [
        {name: value for name, value in epoch.items() if name not in clock}
        for trial in ("0", "1")
        for stage in listed(folder, "show", trial)["stages"]
        for epoch in stage["epochs"]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--folds", "2")], ids=["one split", "folds"])
def test_killed_at_any_moment_the_weights_are_bit_identical(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """Killed by SIGKILL again and again, a search ends with the files of an undisturbed one.

    The first kill comes where only training can bring an epoch back, the others wherever. The
    undisturbed search decodes its photos without a cache, which must come to the same.
    """
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    undisturbed = start(calm, 2, "--cache-limit", "0", *flags)
    _, said = undisturbed.communicate(timeout=240)
    assert undisturbed.returncode == 0, said
    assert "would exceed the cache limit" in said
    moment = random.Random()  # noqa: S311 - no secret
    for kill in range(3):
        search = start(rough, 2, *flags)
        halted = wait_for_an_epoch(rough, search)
        if kill:
            search.send_signal(signal.SIGCONT)
            time.sleep(moment.uniform(0, 0.7))
        assert halted or kill
        search.kill()
        assert search.wait() in (-signal.SIGKILL, 0)
    assert start(rough, 2, *flags).wait(240) == 0
    assert weights(rough) == weights(calm)
    assert epochs(rough) == epochs(calm)
    trials = listed(rough, "ls")["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 2
    assert not list((rough / "runs" / "digits" / "stages").glob("*"))
    assert list((rough / "runs" / ".cache").glob("*/*.pixels"))
    assert not list((calm / "runs" / ".cache").glob("*/*.pixels"))


@pytest.mark.slow
def test_ctrl_c_finishes_the_epoch_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """The first Ctrl-C ends with code 130 and a row for every epoch; the next run goes on."""
    search = start(tmp_path, 2)
    assert wait_for_an_epoch(tmp_path, search)
    search.send_signal(signal.SIGINT)
    search.send_signal(signal.SIGCONT)
    _, said = search.communicate(timeout=60)
    assert search.returncode == 130, said
    assert "run the same command again to go on" in said
    assert unsaved_epochs(tmp_path) == 0

    again = start(tmp_path, 2)
    _, said = again.communicate(timeout=240)
    assert again.returncode == 0, said
    assert len(listed(tmp_path, "ls")["trials"]) == 2


@pytest.mark.slow
def test_a_closed_terminal_costs_no_epoch(tmp_path: Path) -> None:
    """SIGHUP comes, nothing can be printed any more; the epoch ends and is saved all the same."""
    (tmp_path / "study.toml").write_text(SETTINGS)
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", IN_A_TERMINAL, str(ROOT / "cli.py"), "search", "--trials", "2"]
    search = subprocess.Popen(
        command, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    assert wait_for_an_epoch(tmp_path, search)
    os.close(ours)
    search.send_signal(signal.SIGCONT)
    assert search.wait(60) == 130
    assert unsaved_epochs(tmp_path) == 0
    assert start(tmp_path, 2).wait(240) == 0
    assert [trial["state"] for trial in listed(tmp_path, "ls")["trials"]] == ["complete"] * 2
