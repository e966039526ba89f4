"""What a contestant of `recipe.py` is asked and what it answers: lists of photos, one line each."""

import argparse
import csv
import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trainers.allowance import usable_cpus
from trainers.backbone import build_network
from trainers.schedule import Schedule, Stage

BACKBONE = "tf_efficientnet_lite0"

Truths = NDArray[np.int64]
Probabilities = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Photos:
    """The photos of one split, in the CSV's order."""

    paths: tuple[Path, ...]
    labels: Truths

    def __len__(self) -> int:
        return len(self.paths)

    def __add__(self, others: Self) -> Self:
        return replace(
            self,
            paths=self.paths + others.paths,
            labels=np.concatenate([self.labels, others.labels]),
        )

    def wrong(self, predicted: NDArray[np.integer[Any]]) -> list[int]:
        """Return which photos, by their place in the list, are misclassified."""
        return [int(place) for place in np.flatnonzero(predicted != self.labels)]


@dataclass(frozen=True)
class PhotoList:
    """A CSV of photos: path, label, split; paths start from the CSV's folder."""

    classes: tuple[str, ...]
    train: Photos
    valid: Photos
    test: Photos

    @classmethod
    def read(cls, source: Path) -> Self:
        """Read all three splits."""
        with source.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        classes = tuple(sorted({row["label"] for row in rows}))

        def of(split: str) -> Photos:
            own = [row for row in rows if row["split"] == split]
            labels = [classes.index(row["label"]) for row in own]
            return Photos(tuple(source.parent / row["path"] for row in own), np.array(labels))

        return cls(classes, of("train"), of("valid"), of("test"))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Fine-tune on a list of photos, under a seed, for so many minutes if there is a choice.

    `began` is when the process was started, in seconds of the epoch.
    """

    data: Path
    seed: int
    minutes: float
    threads: int
    began: float

    @classmethod
    def of(cls, given: argparse.Namespace) -> Self:
        """Take what `command_line` parsed."""
        return cls(**{each.name: getattr(given, each.name) for each in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a contestant made: errors on the validation photos, and on which test photos it erred.

    `seconds` and `cpu_seconds` (user and system, with those of processes that it started) are all
    that it took until then, but for what only this benchmark wants: looking at the test photos.
    `settings` are those that it chose, `trail` is how it came there.
    """

    contestant: str
    valid_errors: int
    test_wrong: list[int]
    test_photos: int
    train_photos: int
    seconds: float
    cpu_seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
    trail: list[dict[str, Any]] = field(default_factory=list)

    def print(self) -> None:
        """Print the one line that `recipe.py` reads."""
        print(json.dumps(asdict(self)), flush=True)


class Stopwatch:
    """Wall clock since the process was started and CPU seconds; what is not to count is left out.

    A child counts once it has been waited for.
    """

    def __init__(self, began: float) -> None:
        self._began = began
        self._left_out = 0.0
        self._cpu_left_out = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of wall clock."""
        return time.time() - self._began - self._left_out

    @property
    def cpu(self) -> float:
        """CPU seconds."""
        return cpu_seconds() - self._cpu_left_out

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Leave out what happens within."""
        wall, cpu = self.seconds, self.cpu
        try:
            yield
        finally:
            self._left_out += self.seconds - wall
            self._cpu_left_out += self.cpu - cpu


def packaged_body() -> nn.Module:
    """Build the backbone with the weights that its package brings; gives pooled features."""
    stage = Stage(image_size=224)
    schedule = Schedule(backbone=BACKBONE, hidden=(), stages=(stage,))
    return build_network(schedule, 2, 0).body


def loading_workers() -> int:
    """Return how many processes load photos: one for each thread; alone, training does it itself.

    Starting a process in each epoch, and waiting for it, would be all that a single core gains.
    """
    threads = torch.get_num_threads()
    return threads if threads > 1 else 0


def cpu_seconds() -> float:
    """Return what this process and its ended children have computed, user and system."""
    kinds = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in kinds)


def log_loss(probabilities: Probabilities, labels: Truths) -> float:
    """Return the mean log loss, by which equal numbers of errors are told apart."""
    own = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(own, 1e-7, None)).mean())


def command_line(description: str | None) -> argparse.ArgumentParser:
    """Return the parser that all contestants share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="a CSV: path, label, split")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=15.0, help="wall clock to search for")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--began", type=float, default=time.time(), help="seconds of the epoch")
    return parser


def asked_of(description: str | None) -> Asked:
    """Parse a command line that has no flags of its own."""
    return Asked.of(command_line(description).parse_args())
