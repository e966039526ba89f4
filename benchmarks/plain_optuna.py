"""The loop that an Optuna user writes: each trial trains its schedule stage by stage, alone."""

import logging
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import optuna
from lists import Lists
from wiring import METRIC

from study.config.space import Space
from study.searching.suggest import suggest_schedule
from trainers.base import BEST, LAST, StageTask, Trainer
from trainers.metrics import EpochMetrics
from trainers.schedule import Schedule

optuna.logging.set_verbosity(logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def sampler_of(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """Return a sampler, set as Encore sets it: `group`, since stages come in varying number."""
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(group=True, seed=seed)


def in_memory(sampler: str, seed: int, *, asha: str | None) -> optuna.Study:
    """Return a study that is kept nowhere; `asha` says what a step is, an epoch or a stage."""
    pruner = optuna.pruners.NopPruner()
    if asha == "epoch":
        pruner = optuna.pruners.SuccessiveHalvingPruner()
    elif asha == "stage":
        # The rungs are the stages, and of three one goes on: as Encore halves.
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    return optuna.create_study(
        direction="maximize", sampler=sampler_of(sampler, seed), pruner=pruner
    )


class PlainLoop:
    """An objective: suggests a schedule, trains it under `seed`, gives its best epoch's score.

    A schedule that comes again gets the next seed, as it does in Encore: trained again under the
    same one it would come to the same.
    """

    def __init__(
        self, trainer: Trainer, space: Space, seed: int, *, weights: str, reports: str = "epoch"
    ) -> None:
        self._trainer = trainer
        self._space = space
        self._seed = seed
        self._weights = weights
        self._reports = reports
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, trial: optuna.Trial) -> float:
        """Train one trial. Raises `TrialPruned`."""
        schedule = suggest_schedule(Lists(trial), self._space, self._weights)
        with self._lock:
            seed = self._seed + self._seen[schedule.digest]
            self._seen[schedule.digest] += 1
        with TemporaryDirectory(prefix="encore-bench-") as folder:
            return self._train(trial, schedule, seed, Path(folder))

    def _train(self, trial: optuna.Trial, schedule: Schedule, seed: int, folder: Path) -> float:
        best, in_stage, steps = 0.0, 0.0, 0
        for position, metrics in train_alone(self._trainer, schedule, seed, folder):
            score, steps = metrics.score(METRIC), steps + 1
            best, in_stage = max(best, score), max(in_stage, score) if metrics.epoch > 1 else score
            if self._reports == "epoch":
                trial.report(score, steps)
            elif metrics.epoch == schedule.stages[position].epochs:
                trial.report(in_stage, position + 1)
            else:
                continue
            # Not after the last epoch: there is nothing left to be saved.
            if steps < schedule.epochs and trial.should_prune():
                raise optuna.TrialPruned
        return best


def train_alone(
    trainer: Trainer, schedule: Schedule, seed: int, folder: Path
) -> Iterator[tuple[int, EpochMetrics]]:
    """Train all stages of a schedule; yield each epoch with its stage's position."""
    start: Path | None = None
    for position, prefix in enumerate(schedule.prefixes()):
        if start is not None and prefix.stages[-1].start_from == "best":
            start = start.with_name(BEST)
        work = folder / str(position)
        work.mkdir()
        task = StageTask(schedule=prefix, seed=seed, folder=work, start=start)
        with closing(trainer.train(task)) as epochs:
            for metrics in epochs:
                yield position, metrics
        start = work / LAST
