"""A closed-form trainer that is hard to search: what an early stage shows is a guide, no proof.

`SyntheticTrainer` has one optimum for all stages, which every sampler finds soon. Here

- the best learning rate differs from stage to stage, and a rate above the stage's before costs;
- crop, photo size and dropout act together, differently in each stage;
- a jump to larger photos sets back a little, which more epochs make up for;
- larger photos raise what can be reached; training long without crops or dropout lowers it;
- an early stage at a high rate looks good at once, and spoils the features for what follows;
- each epoch is lucky or not, by its seed and its schedule so far (0.6 points).

All of that is drawn anew for each `world`, so that no result hangs on one landscape. Nothing in it
knows who searches. Run as a program it prints how early scores and final ones go together.
"""

import math
import zlib
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import numpy as np
from scipy.stats import spearmanr

from study.config.space import PHOTO_SPACE, Space
from study.searching.suggest import suggest_schedule
from trainers.annealing import cycle_of
from trainers.base import StageTask
from trainers.metrics import EpochMetrics, Evaluation
from trainers.schedule import Schedule, Stage
from trainers.synthetic import SyntheticTrainer

Pairs = dict[tuple[int, int], list[tuple[float, float]]]

LUCK = 0.006
"""Standard deviation of an epoch's luck, in accuracy."""

PACE = 0.65
"""The share of what is left that a long stage closes where everything fits."""

TRAP = 0.022
"""What a decade of learning rate above the harmless one costs in the end, per stage."""

_CROPS = ("random", "googlenet", "no", "center")


class World:
    """One landscape: what is best in each stage, drawn from its number."""

    def __init__(self, number: int) -> None:
        draw = np.random.default_rng((20261123, number))
        stages = 12
        self.best_lr = -2.8 + draw.uniform(-0.4, 0.4, stages) - 0.15 * np.arange(stages)
        self.crop_at_size = draw.uniform(-0.2, 0.2, (stages, len(_CROPS), 4))
        self.crop_with_dropout = draw.uniform(-0.15, 0.15, (stages, len(_CROPS), 2))
        self.harmless_lr = draw.uniform(-3.4, -2.9)
        self.size_bonus = draw.uniform(0.01, 0.03)

    def skill(self, schedule: Schedule, epochs: int) -> float:
        """Return the accuracy to expect after `epochs` of the last stage, luck apart."""
        left, strain = 0.5, 0.0
        before: Stage | None = None
        for position, stage in enumerate(schedule.stages):
            trained = stage.epochs if position < len(schedule.stages) - 1 else epochs
            floor = self._floor(stage, strain)
            left = floor + (left - floor) * (1 - self._gain(stage, before, position, trained))
            strain += self._strain(stage, trained)
            before = stage
        return 1 - left

    def _gain(self, stage: Stage, before: Stage | None, position: int, epochs: int) -> float:
        rate = math.log10(stage.lrs[-1])
        fit = math.exp(-0.5 * ((rate - self.best_lr[position]) / 0.45) ** 2)
        crop, weak = _CROPS.index(stage.crop.value), isinstance(stage.dropout, float)
        size = min(3, max(0, round(2 * math.log2(stage.image_size / 64))))
        fit *= 1 + self.crop_at_size[position, crop, size]
        fit *= 1 + self.crop_with_dropout[position, crop, int(weak)]
        wait = 1.5
        if before is not None:
            wait += 1.5 * math.log2(stage.image_size / before.image_size)
            fit *= 0.8 if stage.lrs[-1] > before.lrs[-1] else 1.0
        return min(0.9, PACE * fit) * (1 - math.exp(-epochs / wait))

    def _floor(self, stage: Stage, strain: float) -> float:
        """Return the error that no training at this stage gets below."""
        reach = self.size_bonus * math.log2(stage.image_size / 64)
        return max(0.01, 0.06 - reach + strain)

    def _strain(self, stage: Stage, epochs: int) -> float:
        """Return how much worse a stage leaves what those after it can reach."""
        spoilt = TRAP * max(0.0, math.log10(stage.lrs[-1]) - self.harmless_lr)
        learnt = 0.003 * epochs if stage.crop.value == "no" else 0.001 * epochs
        return spoilt + learnt * (1.5 if isinstance(stage.dropout, float) else 1.0)


class SurfaceTrainer(SyntheticTrainer):
    """Trains in a `World`, for two classes; files, resuming and the rest are the parent's."""

    def __init__(self, labels: np.ndarray[tuple[int], np.dtype[np.int64]], world: int) -> None:
        super().__init__(labels, 2)
        self.world = World(world)
        n = len(labels)
        self._difficulty = (np.random.default_rng(0).permutation(n) + 0.5) / n

    def score(self, schedule: Schedule, seed: int, epoch: int) -> float:
        """Return the accuracy after an epoch of the last stage, luck included."""
        place = (seed, zlib.crc32(schedule.digest.encode()), epoch)
        luck = np.random.default_rng(place).normal(0, LUCK)
        return float(np.clip(self.world.skill(schedule, epoch) + luck, 0.0, 1.0))

    def _metrics(self, task: StageTask, epoch: int) -> EpochMetrics:
        score = self.score(task.schedule, task.seed, epoch)
        right = 1 / (1 + np.exp(-8 * (score - self._difficulty)))
        table = np.repeat((1 - right)[:, None], 2, 1)
        table[np.arange(len(right)), self.labels] = right
        return EpochMetrics.of(
            Evaluation(self.labels, table.astype(np.float32)),
            stage=task.position,
            epoch=epoch,
            cycle=cycle_of(epoch - 1, task.stage.cycle_lengths)[0] + 1,
            lrs=task.stage.lrs,
            train_loss=1 - score,
            valid_loss=float(-np.log(right).mean()),
            seconds=0.0,
            images_per_second=0.0,
        )


class AnyOf:
    """Chooses at random from a space."""

    def __init__(self, seed: int) -> None:
        self._draw = np.random.default_rng(seed)

    def choose(self, _name: str, _values: Sequence[object], allowed: Sequence[object]) -> object:
        """Return one of the allowed values."""
        return allowed[self._draw.integers(len(allowed))]


def foretelling(world: int, space: Space = PHOTO_SPACE, count: int = 400) -> Pairs:
    """Return (score after a stage, later score) of random schedules, under one seed.

    By (stage, later stage), counted from 1; the later one is the next, or the last: 0.
    """
    trainer = SurfaceTrainer(np.arange(1000) % 2, world)
    chooser = AnyOf(world)
    pairs: Pairs = {}
    for _ in range(count):
        prefixes = suggest_schedule(chooser, space, "random").prefixes()
        scores = [trainer.score(prefix, 0, prefix.stages[-1].epochs) for prefix in prefixes]
        for stage, (score, following) in enumerate(pairwise(scores), 1):
            pairs.setdefault((stage, stage + 1), []).append((score, following))
            pairs.setdefault((stage, 0), []).append((score, scores[-1]))
    return pairs


def main() -> None:
    """Print how early scores and final ones go together, as medians over worlds."""
    worlds = [foretelling(world) for world in range(20)]
    for stage, later in sorted(worlds[0]):
        found = [spearmanr(world[stage, later]).statistic for world in worlds]
        what = f"that after stage {later}" if later else "the final one"
        print(f"score after stage {stage} and {what}: rank correlation {median(found):.2f}")


if __name__ == "__main__":
    main()
