"""The search that a user of Ray Tune writes: its Optuna search, with or without its ASHA."""

import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
from lists import Lists
from optuna.trial import FixedTrial
from plain_optuna import sampler_of, train_alone
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch
from sharing import Ground
from wiring import METRIC, Counted

from study.config.space import Space
from study.searching.suggest import suggest_schedule

LONGEST = 1000
"""Epochs that no schedule has."""


def objective(params: dict[str, Any], ground: Ground, repetition: int) -> None:
    """Train a schedule alone, all its stages; report each epoch."""
    schedule = suggest_schedule(Lists(FixedTrial(params)), ground.space, ground.weights)
    trainer = ground.trainer(repetition)
    with TemporaryDirectory(prefix="encore-bench-") as folder:
        for position, metrics in train_alone(trainer, schedule, repetition, Path(folder)):
            size = schedule.stages[position].image_size
            tune.report({
                "score": metrics.score(METRIC),
                "pixels": ground.n_train * size**2,
                "begins": metrics.epoch == 1,
                "at": time.time(),
            })  # fmt: skip


def choose(trial: Any, *, space: Space, weights: str) -> None:
    """Suggest a schedule's parameters; Ray hands them to `objective`, and pickles this."""
    suggest_schedule(Lists(trial), space, weights)


def search(ground: Ground, trials: int, repetition: int, *, asha: bool, jobs: int = 1) -> Counted:
    """Search; a schedule that comes again is trained again under the same seed."""
    ray.init(num_cpus=jobs, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    halving = ASHAScheduler(max_t=LONGEST, grace_period=1, reduction_factor=3)
    space = partial(choose, space=ground.space, weights=ground.weights)
    sampler = sampler_of("tpe", repetition)
    suggester = OptunaSearch(space, metric="score", mode="max", sampler=sampler)
    with TemporaryDirectory(prefix="encore-bench-") as folder:
        results = tune.Tuner(
            tune.with_parameters(objective, ground=ground, repetition=repetition),
            tune_config=tune.TuneConfig(
                metric="score",
                mode="max",
                search_alg=ConcurrencyLimiter(suggester, jobs),
                scheduler=halving if asha else FIFOScheduler(),
                num_samples=trials,
                reuse_actors=True,  # a new process for each trial would take seconds
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
        epochs = [row for result in results for row in result.metrics_dataframe.to_dict("records")]
    return _counted(ground, sorted(epochs, key=lambda epoch: epoch["at"]))


def _counted(ground: Ground, epochs: list[dict[str, Any]]) -> Counted:
    counted = Counted(ground.trainer(0), ground.n_train)
    for epoch in epochs:
        counted.add(epoch["pixels"], epoch["score"], begins=bool(epoch["begins"]))
    return counted
