"""A whole study around any trainer and engine: everything is Encore's but what trains."""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from contestants import say
from numpy.typing import NDArray

from storage.database import open_database
from storage.retry import Patience
from storage.store import Store
from storage.vault import Vault
from study.config.loading import load_config, settings_of
from study.config.space import describe_space
from study.engines.base import Engine
from study.events import Listener
from study.searching.coordinator import Coordinator, Searched
from study.searching.forecasting import explorer_of
from study.searching.optuna_study import Suggestions
from study.searching.policy import SearchPolicy
from trainers.base import StageTask, Trainer
from trainers.metrics import EpochMetrics, Metric

STUDY = "bench"
METRIC = Metric.ACCURACY
Labels = NDArray[np.int64]

Curve = list[tuple[float, float]]
"""After each epoch: what was spent so far, and the best score so far."""


@contextmanager
def searching(
    folder: Path,
    engine: Engine,
    labels: Labels,
    *,
    digest: str = "d" * 64,
    weights: str = "random",
    listener: Listener = lambda _: None,
    made: type[Suggestions] = Suggestions,
    **settings: Any,
) -> Iterator[Coordinator]:
    """Return a coordinator of a new study in `folder`; `settings` are named as flags are."""
    url = f"sqlite:///{folder / 'encore.db'}"
    config = load_config(settings_of(storage=url, study=STUDY, metric=METRIC, **settings))
    store = Store(open_database(url))
    plain, space = config.model_dump(mode="json"), describe_space(config.resolved_space)
    suggestions = made(
        url,
        STUDY,
        metric=config.metric,
        sampler=config.sampler,
        seed=config.seeds.first,
        patience=Patience(say, threading.Event(), lambda: None),
    )
    try:
        study = store.create_study(STUDY, config.metric, digest, plain, space)
        yield Coordinator(
            Searched(study, labels, config, weights),
            policy=SearchPolicy(config, explorer_of(config, weights, len(labels))),
            store=store,
            vault=Vault(folder / STUDY),
            suggestions=suggestions,
            engine=engine,
            listener=listener,
            stop=lambda: False,
        )
    finally:
        store.close()
        suggestions._storage.engine.dispose()


class Counted:
    """Passes on what a trainer does, counts the pixels it trained on and draws the curve."""

    def __init__(self, trainer: Trainer, n_train: int) -> None:
        self._trainer = trainer
        self._n_train = n_train
        self.pixels = 0
        self.curve: Curve = []
        self.stage_runs = 0

    def train(self, task: StageTask) -> Generator[EpochMetrics, None, None]:
        """Train one stage; see `Trainer.train`."""
        with closing(self._trainer.train(task)) as epochs:
            for metrics in epochs:
                pixels = self._n_train * task.stage.image_size**2
                self.add(pixels, metrics.score(METRIC), begins=metrics.epoch == 1)
                yield metrics

    def add(self, pixels: int, score: float, *, begins: bool) -> None:
        """Count an epoch; `begins` says that it is the first of its stage run."""
        self.stage_runs += begins
        self.pixels += pixels
        before = self.curve[-1][1] if self.curve else 0.0
        self.curve.append((self.pixels, max(before, score)))


def spent_until(curve: Curve, target: float) -> float:
    """Return what was spent when the best score first was `target`."""
    return next(spent for spent, best in curve if best >= target)


class Clock:
    """Adds up the seconds spent in calls; a call within another one counts once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._within = False

    def call(self, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Call a function, and count its time."""
        if self._within:
            return function(*given, **named)
        self._within, began = True, time.perf_counter()
        try:
            return function(*given, **named)
        finally:
            self.seconds += time.perf_counter() - began
            self._within = False


class Clocked:
    """Passes on what a trainer does, and counts the time it takes itself."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.clock = Clock()

    def train(self, task: StageTask) -> Generator[EpochMetrics, None, None]:
        """Train one stage; see `Trainer.train`."""
        with closing(self._trainer.train(task)) as epochs:
            while (metrics := self.clock.call(next, epochs, None)) is not None:
                yield metrics


class ClockedSuggestions(Suggestions):
    """Optuna's study as Encore uses it, with the time spent in it."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self.clock = Clock()
        super().__init__(*given, **named)

    def __getattribute__(self, name: str) -> Any:
        """Count the public methods' time: whichever there are, they lead to Optuna."""
        found = super().__getattribute__(name)
        if name.startswith("_") or not callable(found):
            return found
        clock = super().__getattribute__("clock")
        return lambda *given, **named: clock.call(found, *given, **named)
