"""A training that is broken off again and again ends with the same bits as one that was not."""

import errno
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_training import (
    CPU,
    epoch_of_best,
    epochs_in_last,
    noise,
    numbers,
    outcome,
    schedule,
    stage,
    tensors,
)
from trainers import checkpointing, finetuner
from trainers.base import BEST, LAST, StageTask
from trainers.checkpoint import save_training_state, save_weights
from trainers.data.manifest import Manifest
from trainers.finetuner import Finetuner
from trainers.loop import train_epoch
from trainers.metrics import EpochMetrics

NURSERY = """
import os, signal, sys, time
from pathlib import Path
import torch
from trainers.base import StageTask
from trainers.data.folds import in_folds
from trainers.data.manifest import build_manifest
from trainers.device import choose_compute
from trainers.finetuner import Finetuner
from trainers.schedule import Schedule, Stage

def train(folder, every, folds, yielded):
    torch.set_num_threads(1)
    stage = Stage(
        image_size=24, batch_size=6, cycle_len=5, lrs=0.01, dropout=0.3, augmentation="side-on"
    )
    schedule = Schedule(backbone="test_resnet", stages=(stage,), hidden=(8,), weights="random")
    photos = build_manifest(Path(sys.argv[1]))
    photos = in_folds(photos, folds, 0) if folds else photos
    trainer = Finetuner(photos, compute=choose_compute("cpu"), checkpoint_seconds=float(every))
    for epoch in trainer.train(StageTask(schedule=schedule, seed=0, folder=Path(folder))):
        os.write(yielded, b".")

for line in sys.stdin:
    folder, every, epochs, seconds, folds = line.rsplit(maxsplit=4)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        train(folder, every, int(folds), writing)
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

    def train(
        self, folder: Path, every: float, folds: int, epochs: int = 99, seconds: float = 0
    ) -> int:
        """Train into a folder until some seconds after an epoch; return the exit status.

        LAST is written `every` so many seconds. The photos are dealt into `folds`; of 0, in none.
        """
        folder.mkdir(exist_ok=True)
        print(folder, every, epochs, seconds, folds, file=self._orders, flush=True)
        return int(self._answers.readline())


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Make 10 photos to train on and 6 to validate."""
    return noise(tmp_path_factory.mktemp("photos"), 10, 6)


@pytest.fixture(scope="module", autouse=True)
def trainings(photos: Manifest) -> Iterator[Nursery]:
    """Open a nursery, which imports while other tests run, and close it whatever happens."""
    command = [sys.executable, "-c", NURSERY, str(photos.root)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        yield Nursery(process)
        process.kill()


def train(photos: Manifest, folder: Path, every: float, epochs: int = 3) -> list[dict[str, Any]]:
    """Train a stage of three epochs with a new trainer, and leave it after some."""
    folder.mkdir(exist_ok=True)
    mine = schedule(stage(cycle_len=3, lrs=0.03, dropout=0.3))
    trainer = Finetuner(photos, compute=CPU, checkpoint_seconds=every)
    generator = trainer.train(StageTask(schedule=mine, seed=0, folder=folder))
    found = [numbers(epoch) for epoch in islice(generator, epochs)]
    generator.close()
    return found


def let_the_best_be(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have one epoch be the best, and before it the nearest to it."""
    monkeypatch.setattr(EpochMetrics, "rank", lambda self, _: (abs(self.epoch - epoch), 0.0))


@pytest.mark.long
@pytest.mark.parametrize(("best", "every"), [(1, 0.0), (3, 0.0), (2, 1e9), (3, 1e9)])
def test_broken_off_between_any_two_writes(
    photos: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: int, every: float
) -> None:
    """A training is left, gone on with and ended: from what is there before each write it goes on.

    The end is the same to the last bit, and no epoch that LAST knew is trained again.
    """
    let_the_best_be(best, monkeypatch)
    folder = tmp_path / "a"
    found: list[Path] = []

    def copying(save: Callable[..., None]) -> Callable[..., None]:
        def copy_and_save(*args: Any, **options: Any) -> None:
            found.append(shutil.copytree(folder, tmp_path / f"before{len(found)}"))
            save(*args, **options)

        return copy_and_save

    for save in (save_weights, save_training_state):
        monkeypatch.setattr(checkpointing, save.__name__, copying(save))
    train(photos, folder, every, 1)
    expected = train(photos, folder, every)
    monkeypatch.undo()
    let_the_best_be(best, monkeypatch)
    assert len(found) == (5 if every == 0 else 4)
    assert epoch_of_best(folder) == best
    counted = counting(monkeypatch)
    for left in found:
        known = epochs_in_last(left)
        counted.clear()
        assert train(photos, left, every) == expected
        assert outcome(left) == outcome(folder)
        assert len(counted) == 3 - known


def counting(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Return a list that grows with each epoch that is trained."""
    counted: list[None] = []

    def epoch(*args: Any, **options: Any) -> float:
        counted.append(None)
        return train_epoch(*args, **options)

    monkeypatch.setattr(finetuner, "train_epoch", epoch)
    return counted


@pytest.mark.parametrize(
    "damage",
    [*(pytest.param(each, marks=pytest.mark.long) for each in (None, b"")), b"half a file"],
)
@pytest.mark.parametrize(("best", "trained"), [(1, 3), (2, 3), (3, 0)])
def test_best_of_an_ended_stage_is_lost(
    photos: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    best: int,
    trained: int,
    damage: bytes | None,
) -> None:
    """It is made of LAST, if it is of the last epoch; else the stage is trained again."""
    let_the_best_be(best, monkeypatch)
    expected = train(photos, tmp_path / "a", 1e9)
    before = outcome(tmp_path / "a")
    (tmp_path / "a" / BEST).unlink()
    if damage is not None:
        (tmp_path / "a" / BEST).write_bytes(damage)
    counted = counting(monkeypatch)
    assert train(photos, tmp_path / "a", 1e9) == expected
    assert outcome(tmp_path / "a") == before
    assert len(counted) == trained


@pytest.mark.parametrize("best", [1, 3])
def test_an_ended_stage_is_left_as_it_is(
    photos: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: int
) -> None:
    """Reading its epochs again, and stopping early, changes neither file."""
    let_the_best_be(best, monkeypatch)
    expected = train(photos, tmp_path / "a", 1e9)
    before = outcome(tmp_path / "a")
    for epochs in (1, 2, 3):
        assert train(photos, tmp_path / "a", 1e9, epochs) == expected[:epochs]
        assert outcome(tmp_path / "a") == before


def test_a_full_disk_ends_the_training(
    photos: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the writing thread could not write comes out of the training; later it goes on."""
    expected = train(photos, tmp_path / "whole", 0.0)

    def full(*args: object, **options: object) -> None:  # noqa: ARG001
        raise OSError(errno.ENOSPC, "No space left on device")

    train(photos, tmp_path / "a", 0.0, 1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpointing, "save_training_state", full)
        with pytest.raises(OSError, match="No space left"):
            train(photos, tmp_path / "a", 0.0)
    assert epochs_in_last(tmp_path / "a") == 1
    assert train(photos, tmp_path / "a", 0.0) == expected
    assert outcome(tmp_path / "a") == outcome(tmp_path / "whole")


KILLS = {(0.0, 0): (0, 0, 1, 2, 3, 4), (1e9, 0): (0, 4, 4, 5), (0.0, 3): (0, 1, 2, 4)}
"""How often LAST is written and how many folds there are; after which epochs it is killed once."""


@pytest.mark.parametrize(
    ("every", "folds"),
    [pytest.param(*each, marks=pytest.mark.long if any(each) else ()) for each in KILLS],
)
def test_killed_at_random_moments(
    trainings: Nursery, tmp_path: Path, every: float, folds: int
) -> None:
    """SIGKILL again and again, then until the end: both files are those of a training in one go."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    rng = random.Random(0)  # noqa: S311 - no secret is made of it
    assert trainings.train(whole, every, folds) == 0
    for epochs in KILLS[every, folds]:
        pause = rng.uniform(0, 0.1)
        assert trainings.train(killed, every, folds, epochs, pause) in (-signal.SIGKILL, 0)
        if every == 0:  # at worst, it was about to write the latest
            assert epochs_in_last(killed) >= epochs - 1
    assert trainings.train(killed, every, folds) == 0
    for name in (LAST, BEST):
        assert tensors(killed / name) == tensors(whole / name)
