"""Studies whose runs come out as they are told to: how many errors, where, and how sure."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tests.lab import Lab, Noting, schedule, stage
from trainers.base import StageTask
from trainers.data.manifest import Manifest, Split
from trainers.metrics import EpochMetrics, Evaluation, Metric


class Run(NamedTuple):
    """How a run comes out: its errors, all in one class, and how sure it is of what it names.

    The errors are the class's photos from number `first` on.
    """

    errors: int
    sure: float = 0.9
    label: int = 0
    first: int = 0


class Told(Noting):
    """Comes out as told: by the image size, and by how many seeds of it there were before."""

    outcomes: Mapping[int, Sequence[Run]]
    seeds: dict[int, list[int]]

    def _metrics(self, task: StageTask, epoch: int) -> EpochMetrics:
        size = task.stage.image_size
        seeds = self.seeds.setdefault(size, [])
        if task.seed not in seeds:
            seeds.append(task.seed)
        run = self.outcomes[size][seeds.index(task.seed)]
        errors = run.errors + 2 * (task.stage.epochs - epoch)  # the last epoch is the best
        named, classes = self.labels.copy(), self.n_classes
        mine = np.flatnonzero(self.labels == run.label)
        named[mine[run.first : run.first + errors]] = (run.label + 1) % classes
        table = np.full((len(named), classes), (1 - run.sure) / (classes - 1), np.float32)
        table[np.arange(len(named)), named] = run.sure
        found = Evaluation(self.labels, table)
        return EpochMetrics.of(
            found,
            stage=task.position,
            epoch=epoch,
            cycle=1,
            lrs=task.stage.lrs,
            train_loss=1.0,
            valid_loss=Metric.LOG_LOSS.of(found),
            seconds=1.0,
            images_per_second=1.0,
        )


def search_as_told(
    make_lab: Callable[..., Lab],
    manifest: Manifest,
    outcomes: Mapping[int, Sequence[Run]],
    epochs: Mapping[int, int] | None = None,
    **settings: object,
) -> Lab:
    """Search a schedule of each image size, with as many seeds of it as it has runs."""
    script = [
        schedule(stage(size, epochs=(epochs or {}).get(size, 1)))
        for size, runs in outcomes.items()
        for _ in runs
    ]
    lab = make_lab(*script, manifest=manifest, **settings)
    trainer = Told(manifest.labels(Split.VALID), len(manifest.classes), metric=lab.config.metric)
    trainer.outcomes, trainer.seeds = outcomes, {}
    lab.trainer = trainer
    lab.search()
    return lab
