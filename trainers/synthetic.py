"""A closed-form learning curve behind the `Trainer` protocol.

For tests of the search and for measuring its overhead: everything but the arithmetic is real.
"""

import json
import math
import time
from collections.abc import Generator
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save_file

from trainers.annealing import cycle_of, lr_multiplier
from trainers.base import BEST, LAST, StageTask
from trainers.errors import TrainingDiverged
from trainers.files import replacing
from trainers.metrics import EpochMetrics, Evaluation, Metric, columns_of
from trainers.schedule import Schedule, Stage


class SyntheticTrainer:
    """Pretends to learn: larger photos, more epochs and a head's learning rate near 1e-3 help.

    A learning rate above 1 diverges. The same task gives the same files, to the last bit.
    """

    def __init__(
        self,
        labels: np.ndarray[tuple[int], np.dtype[np.int64]],
        n_classes: int,
        *,
        metric: Metric = Metric.ACCURACY,
        seconds_per_epoch: float = 0.0,
    ) -> None:
        self.labels = labels
        self.n_classes = n_classes
        self.metric = metric
        self.seconds_per_epoch = seconds_per_epoch

    def train(self, task: StageTask) -> Generator[EpochMetrics, None, None]:
        """Train one stage; see `Trainer.train`."""
        history: list[EpochMetrics] = []
        known = _epochs_in(task.folder / LAST)
        for epoch in range(1, task.stage.epochs + 1):
            if task.stage.lrs[-1] > 1:
                raise TrainingDiverged("the training loss is nan; lower the learning rates")
            history.append(self._metrics(task, epoch))
            if epoch > known:
                time.sleep(self.seconds_per_epoch)
                _save(task.folder / LAST, task, epoch)
            best = min(history, key=lambda past: past.rank(self.metric))
            # Known epochs were saved, unless a crash came between the two files.
            if best is history[-1] and (epoch > known or _epochs_in(task.folder / BEST) < epoch):
                _save(task.folder / BEST, task, epoch)
            yield history[-1]

    def _metrics(self, task: StageTask, epoch: int) -> EpochMetrics:
        skill = _skill(task.schedule, epoch)
        n = len(self.labels)
        difficulty = np.random.default_rng(0).random(n)
        luck = np.random.default_rng((task.seed, task.position, epoch)).normal(0, 0.05, n)
        right = 1 / (1 + np.exp(-8 * (skill - difficulty + luck)))
        probabilities = np.repeat(
            ((1 - right) / max(1, self.n_classes - 1))[:, None], self.n_classes, 1
        )
        probabilities[np.arange(n), columns_of(self.labels, probabilities)] = right
        evaluation = Evaluation(self.labels, probabilities.astype(np.float32))
        scale = lr_multiplier(epoch - 1, 1, task.stage.cycle_lengths, task.stage.annealing)
        return EpochMetrics.of(
            evaluation,
            stage=task.position,
            epoch=epoch,
            cycle=cycle_of(epoch - 1, task.stage.cycle_lengths)[0] + 1,
            lrs=tuple(lr * scale for lr in task.stage.lrs),
            train_loss=1 - skill,
            valid_loss=float(-np.log(right).mean()),
            seconds=self.seconds_per_epoch,
            images_per_second=n / max(self.seconds_per_epoch, 1e-3),
        )


def _skill(schedule: Schedule, epoch: int) -> float:
    """From 0.5 towards 1, each stage closing a share of the rest."""
    left = 0.5
    for stage in schedule.stages[:-1]:
        left *= 1 - _gain(stage, stage.epochs)
    return 1 - left * (1 - _gain(schedule.stages[-1], epoch))


def _gain(stage: Stage, epochs: int) -> float:
    fit = math.exp(-((math.log10(max(stage.lrs[-1], 1e-9)) + 3) ** 2))
    size = min(1.0, math.log2(stage.image_size) / 8)
    return 0.7 * fit * size * (1 - math.exp(-epochs / 2))


def _save(path: Path, task: StageTask, epoch: int) -> None:
    metadata = {"epochs": str(epoch), "schedule": json.dumps(task.schedule.digest)}
    with replacing(path) as temporary:
        save_file({"skill": np.array([_skill(task.schedule, epoch)])}, temporary, metadata)


def _epochs_in(path: Path) -> int:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return int((file.metadata() or {}).get("epochs", 0))
    except (safetensors.SafetensorError, OSError):  # none yet, or a broken file
        return 0
