"""A training that is killed again and again ends with the same bits as one that was not."""

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from PIL import Image

from trainers.base import BEST, LAST

NURSERY = """
import os, signal, sys, time
from pathlib import Path
import torch
from trainers.base import StageTask
from trainers.data.manifest import build_manifest
from trainers.finetuner import Finetuner
from trainers.schedule import Schedule, Stage

def train(folder, yielded):
    torch.set_num_threads(1)
    stage = Stage(
        image_size=24, batch_size=6, cycle_len=12, lrs=0.01, dropout=0.3, augmentation="side-on"
    )
    schedule = Schedule(backbone="test_resnet", stages=(stage,), hidden=(8,), weights="random")
    trainer = Finetuner(build_manifest(Path(sys.argv[1])), device="cpu")
    for epoch in trainer.train(StageTask(schedule=schedule, seed=0, folder=Path(folder))):
        os.write(yielded, b".")

print("ready", flush=True)
for line in sys.stdin:
    folder, epochs, seconds = line.rsplit(maxsplit=2)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        train(folder, writing)
        os._exit(0)
    os.close(writing)
    if all(os.read(reading, 1) for _ in range(int(epochs))):
        time.sleep(float(seconds))
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Imports once, before any thread is begun; forks a training for each line, and may kill it."""


class Nursery:
    """Starts trainings in processes of their own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._orders, self._answers = process.stdin, process.stdout
        assert self._answers.readline() == "ready\n"

    def train(self, folder: Path, epochs: int = 99, seconds: float = 0) -> int:
        """Train into a folder until some seconds after an epoch; give the exit status."""
        print(folder, epochs, seconds, file=self._orders, flush=True)
        return int(self._answers.readline())


@contextmanager
def nursery(data: Path) -> Iterator[Nursery]:
    """Open a nursery, and close it whatever happens."""
    command = [sys.executable, "-c", NURSERY, str(data)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        yield Nursery(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write 24 photos of noise, a little lighter in one class."""
    dice = np.random.default_rng(0)
    for index in range(24):
        label = index % 2
        pixels = dice.integers(label * 20, 236 + label * 20, (30, 36, 3), dtype=np.uint8)
        path = (
            tmp_path / "data" / ("train" if index < 16 else "valid") / "ab"[label] / f"{index}.png"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "data"


def tensors(path: Path) -> dict[str, bytes]:
    """Give the tensors of a file, to be compared to the last bit."""
    with safetensors.safe_open(path, "np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def epochs_in(folder: Path) -> int:
    """Count the epochs that a training has behind it."""
    if not (folder / LAST).exists():
        return 0
    return sum(name.startswith("probabilities.") for name in tensors(folder / LAST))


def test_killed_at_random_moments(data: Path, tmp_path: Path) -> None:
    """SIGKILL again and again, then until the end: both files are those of a training in one go."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    dice = random.Random(0)  # noqa: S311 - no secret is made of it
    with nursery(data) as trainings:
        assert trainings.train(whole) == 0
        for epochs in (0, 0, 1, 2, 2, 4, 5, 7, 9):
            assert trainings.train(killed, epochs, dice.uniform(0, 0.1)) in (-signal.SIGKILL, 0)
            assert epochs_in(killed) >= epochs
        assert trainings.train(killed) == 0
    for name in (LAST, BEST):
        assert tensors(killed / name) == tensors(whole / name)
