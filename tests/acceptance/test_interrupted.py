"""A search that is stopped, politely or by kill -9, goes on as if it had not been."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
SETTINGS = """
backbone = "test_resnet"
weights = "random"
sampler = "random"
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


def start(folder: Path, trials: int) -> subprocess.Popen[str]:
    """Begin a search on the digits."""
    folder.mkdir(exist_ok=True)
    (folder / "study.toml").write_text(SETTINGS)
    command = [sys.executable, str(ROOT / "cli.py"), "search", "--trials", str(trials)]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_an_epoch(folder: Path, search: subprocess.Popen[str]) -> None:
    """Wait until the search has written its next training state."""
    stages, began = folder / "runs" / "digits" / "stages", time.time()
    while search.poll() is None and time.time() < began + 120:
        if any(last.stat().st_mtime > began for last in stages.glob("*/last.safetensors")):
            return
        time.sleep(0.02)


def weights(folder: Path) -> dict[str, str]:
    """Give the hash of all tensors of each stage's best weights, by file name."""
    return {
        path.name: hashlib.sha256(
            b"".join(k.encode() + v.tobytes() for k, v in sorted(load_file(path).items()))
        ).hexdigest()
        for path in (folder / "runs" / "digits").glob("*.safetensors")
    }


def listed(folder: Path, *command: str) -> dict[str, object]:
    """Run a reading command and give its JSON."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *command, "--json"],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def test_killed_at_any_moment_the_weights_are_bit_identical(tmp_path: Path) -> None:
    """Killed by SIGKILL again and again, a search ends with the files of an undisturbed one."""
    assert start(tmp_path / "calm", 2).wait(240) == 0
    moment = random.Random()  # noqa: S311 - no secret
    for _ in range(3):
        search = start(tmp_path / "rough", 2)
        wait_for_an_epoch(tmp_path / "rough", search)
        time.sleep(moment.uniform(0, 0.7))
        os.kill(search.pid, signal.SIGKILL)
        assert search.wait() in (-signal.SIGKILL, 0)
    assert start(tmp_path / "rough", 2).wait(240) == 0
    assert weights(tmp_path / "rough") == weights(tmp_path / "calm")
    trials = listed(tmp_path / "rough", "ls")["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 2
    assert not list((tmp_path / "rough" / "runs" / "digits" / "stages").glob("*"))


def test_ctrl_c_finishes_the_epoch_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """The first Ctrl-C ends with code 130 and a row for every epoch; the next run goes on."""
    search = start(tmp_path, 2)
    wait_for_an_epoch(tmp_path, search)
    search.send_signal(signal.SIGINT)
    _, said = search.communicate(timeout=60)
    assert search.returncode == 130, said
    assert "run the same command again to go on" in said

    again = start(tmp_path, 2)
    _, said = again.communicate(timeout=240)
    assert again.returncode == 0, said
    assert len(listed(tmp_path, "ls")["trials"]) == 2
