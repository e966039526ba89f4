"""A synthetic trainer that writes down when each epoch begins and ends, and where."""

import os
import threading
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import numpy as np

from study.engines.slots import Slot
from trainers.base import StageTask, Trainer
from trainers.metrics import EpochMetrics
from trainers.synthetic import SyntheticTrainer

LABELS = np.arange(1000) % 5
N_CLASSES = 5


class Stamped:
    """Passes on what a trainer does; each process and thread notes its epochs in its own file."""

    def __init__(self, trainer: Trainer, folder: Path) -> None:
        self._trainer = trainer
        self._folder = folder

    def train(self, task: StageTask) -> Generator[EpochMetrics, None, None]:
        """Train one stage; see `Trainer.train`."""
        with closing(self._trainer.train(task)) as epochs:
            while True:
                began = time.monotonic()  # one clock for all processes of a machine
                metrics = next(epochs, None)
                if metrics is None:
                    return
                self._note(f"{began} {time.monotonic()} {task.schedule.digest}-{task.seed}")
                yield metrics

    def _note(self, line: str) -> None:
        place = self._folder / f"{os.getpid()}-{threading.get_ident()}.epochs"
        with place.open("a") as file:
            file.write(line + "\n")


@dataclass(frozen=True)
class StampedRecipe:
    """Makes a stamped trainer in a worker; `folder` None leaves the stamps out."""

    seconds_per_epoch: float
    folder: Path | None

    def __call__(self, _slot: Slot | None = None) -> Trainer:
        """Make it."""
        trainer = SyntheticTrainer(LABELS, N_CLASSES, seconds_per_epoch=self.seconds_per_epoch)
        return Stamped(trainer, self.folder) if self.folder else trainer


@dataclass(frozen=True)
class Gaps:
    """Seconds in which slots trained nothing, between stage runs and within them."""

    between: list[float]
    within: list[float]
    training: float

    @property
    def idle(self) -> float:
        """The share of the slots' time in which they trained nothing."""
        waited = sum(self.between) + sum(self.within)
        return waited / (waited + self.training)


def gaps(folder: Path) -> Gaps:
    """Read the stamps of all slots."""
    between: list[float] = []
    within: list[float] = []
    training = 0.0
    for file in sorted(folder.glob("*.epochs")):
        before: tuple[float, str] | None = None
        for line in file.read_text().splitlines():
            began, ended, name = line.split()
            if before is not None:
                waits = within if before[1] == name else between
                waits.append(float(began) - before[0])
            training += float(ended) - float(began)
            before = float(ended), name
    return Gaps(between, within, training)


def spread(seconds: list[float]) -> list[str]:
    """Return median, 95th percentile and maximum in milliseconds."""
    if len(seconds) < 2:
        return ["-"] * 3
    numbers = (median(seconds), quantiles(seconds, n=20, method="inclusive")[-1], max(seconds))
    return [f"{1000 * number:.1f}" for number in numbers]
