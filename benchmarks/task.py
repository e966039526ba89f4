"""What every contestant is asked to do and what it answers: one command line, one line of JSON."""

import argparse
import json
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

from trainers.allowance import usable_cpus
from trainers.schedule import Annealing, Augmentation, CropType, Schedule, Stage


@dataclass(frozen=True, kw_only=True)
class Task:
    """Fine-tune on `data/{train,val}/CLASS/*`; `memory` asks for the peak memory, not for speed."""

    data: Path
    size: int
    batch: int
    epochs: int
    seed: int
    lr: float
    workers: int
    memory: bool

    @classmethod
    def of(cls, given: argparse.Namespace) -> Self:
        """Take what `command_line` parsed."""
        return cls(**{field.name: getattr(given, field.name) for field in fields(cls)})

    @property
    def train(self) -> Path:
        """The folder of the classes to train on."""
        return self.data / "train"

    @property
    def valid(self) -> Path:
        """The folder of the classes to validate on."""
        return self.data / "val"

    @property
    def n_classes(self) -> int:
        """Number of class folders."""
        return sum(folder.is_dir() for folder in self.train.iterdir())

    @property
    def schedule(self) -> Schedule:
        """The same task in Encore's words: what the network and the learning rates come from."""
        stage = Stage(
            image_size=self.size,
            batch_size=self.batch,
            cycle_len=self.epochs,
            annealing=Annealing.ONE_CYCLE,  # as fastai does it
            lrs=self.lr,  # type: ignore[arg-type]  # spread over the layer groups
            crop=CropType.RANDOM,
            max_zoom=1.1,
            augmentation=Augmentation.SIDE_ON,
            dropout=(0.25, 0.5),
        )
        return Schedule(backbone="tf_efficientnet_lite0", stages=(stage,))


@dataclass(frozen=True)
class Outcome:
    """What a contestant answers; the images are those of one epoch, the accuracy is in 0..1."""

    name: str
    epoch_seconds: list[float]
    train_images: int
    valid_images: int
    accuracy: list[float]
    peak_rss_mb: float | None

    @property
    def images_per_second(self) -> float:
        """Images trained and validated in a second, without the first epoch."""
        later = self.epoch_seconds[1:]
        return (self.train_images + self.valid_images) * len(later) / sum(later)

    def print(self) -> None:
        """Print the one line that the others read."""
        print(json.dumps(asdict(self)), flush=True)

    @classmethod
    def read(cls, output: str) -> Self:
        """Read the last line of what a contestant printed."""
        return cls(**json.loads(output.splitlines()[-1]))


class Laps:
    """The seconds of each epoch; the first begins when this is made."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = time.perf_counter()

    def lap(self) -> None:
        """End an epoch, begin the next."""
        now = time.perf_counter()
        self.seconds.append(now - self._began)
        self._began = now


def command_line(description: str) -> argparse.ArgumentParser:
    """Return the parser that all contestants share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="a folder {train,val}/CLASS/*")
    parser.add_argument("--size", type=int, default=64, help="pixels of the square")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1e-3, help="of the head")
    parser.add_argument("--workers", type=int, default=usable_cpus(), help="default: the cores")
    parser.add_argument("--memory", action="store_true", help="measure memory; slows the run down")
    return parser
