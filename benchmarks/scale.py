"""How far one coordinator carries, with everything real but the training and the machines.

PYTHONPATH=. python benchmarks/scale.py slots [--slots 8 64 256 1000] [--profile]
PYTHONPATH=. python benchmarks/scale.py trials [--trials 1000 10000 100000]
PYTHONPATH=. python benchmarks/scale.py optuna [--trials 1000 10000]

`slots`: virtual machines train in virtual time: the next epoch to end is there as soon as the
coordinator asks for it. What it then takes is its own: policy, Optuna, database, files. `trials`: a
database of so many trials, and what those take who read it. `optuna`: what Optuna takes to read its
own trials, when a search goes on.
"""

import argparse
import cProfile
import heapq
import pstats
import time
from collections.abc import Callable, Generator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from contestants import markdown, say
from optuna import create_study, load_study
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial
from stamped import LABELS, N_CLASSES
from wiring import Clock, ClockedSuggestions, searching

from storage.database import open_database
from storage.store import Store
from study.config.space import PHOTO_SPACE
from study.engines.base import EpochEnded, Event, StageEnded
from study.history.tree import show_tree
from study.history.trials import list_trials, show_trial
from study.searching.optuna_storage import optuna_storage
from study.selection.best import best
from tests.studies import NAME, write_study
from trainers.base import StageTask
from trainers.metrics import EpochMetrics
from trainers.synthetic import SyntheticTrainer

PARAMETERS = 14
"""Of a trial of two or three stages."""

Running = Generator[EpochMetrics, None, None]


class VirtualEngine:
    """Slots that train in virtual time, an epoch in about 1; see `Engine`."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.clock = Clock()
        self._trainer = SyntheticTrainer(LABELS, N_CLASSES)
        self._rng = np.random.default_rng(0)
        self._running: dict[str, Running] = {}
        self._next: list[tuple[float, int, str]] = []
        self._order = count()
        self._now = 0.0

    def submit(self, key: str, task: StageTask) -> None:
        """Begin a stage run at once: there are no more of them than slots."""
        self._running[key] = self._trainer.train(task)
        self._wait(key)

    def events(self) -> Generator[Event, None, None]:
        """Yield what happens, in the order in which it would."""
        while self._next:
            self._now, _, key = heapq.heappop(self._next)
            if key not in self._running:  # it was cancelled
                continue
            metrics = self.clock.call(next, self._running[key], None)
            if metrics is None:
                del self._running[key]
                yield StageEnded(key)
                continue
            self._wait(key)
            yield EpochEnded(key, metrics)

    def wake(self) -> None:
        """Do nothing: it never waits."""

    def cancel(self, key: str) -> None:
        """Leave a stage run."""
        self._running.pop(key).close()

    def close(self) -> None:
        """Hold nothing."""

    def _wait(self, key: str) -> None:
        ends = self._now + self._rng.uniform(0.5, 1.5)
        heapq.heappush(self._next, (ends, next(self._order), key))


def search(slots: int, trials: int, sampler: str, profile: cProfile.Profile | None) -> list[str]:
    """Search in so many virtual slots; return a row of the table."""
    engine = VirtualEngine(slots)
    with (
        TemporaryDirectory(prefix="encore-bench-") as folder,
        searching(
            Path(folder), engine, LABELS, made=ClockedSuggestions,
            space=PHOTO_SPACE, trials=trials, sampler=sampler,
        ) as coordinator,
    ):  # fmt: skip
        began = time.perf_counter()
        if profile:
            profile.runcall(coordinator.run)
        else:
            coordinator.run()
        own = time.perf_counter() - began - engine.clock.seconds
        epochs = len(coordinator.store.epochs_of_study(coordinator.study.id))
        runs = len(coordinator.store.stage_runs(coordinator.study.id))
        optuna = coordinator.suggestions.clock.seconds  # type: ignore[attr-defined]
    return [
        *(f"{slots:,}", sampler, f"{trials:,}", f"{runs:,}", f"{epochs:,}"),
        *(f"{epochs / own:.0f}", f"{1000 * own / epochs:.2f}", f"{1000 * optuna / epochs:.2f}"),
    ]


def slots(given: argparse.Namespace) -> str:
    """Measure the coordinator by the number of slots."""
    profile = cProfile.Profile() if given.profile else None
    rows = []
    for sampler in given.samplers:
        for number in given.slots:
            rows.append(search(number, given.trials, sampler, profile))
            say("  ".join(rows[-1]))
    if profile:
        pstats.Stats(profile).strip_dirs().sort_stats("cumulative").print_stats(45)
    header = ("slots", "sampler", "trials", "stage runs", "epochs")
    return markdown((*header, "epochs a second", "ms an epoch", "Optuna's, within"), rows)


def trials(given: argparse.Namespace) -> str:
    """Measure what reading takes by the number of trials."""
    rows = []
    for number in given.trials:
        with TemporaryDirectory(prefix="encore-bench-") as name:
            study = write_study(Path(name), number, classes=2, each=150)
            rows.append([f"{number:,}", *_read(study.url, number)])
            size = (Path(name) / "runs" / "encore.db").stat().st_size
            rows[-1].append(f"{size / 1e6:,.0f}")
        say("  ".join(rows[-1]))
    return markdown(("trials", *QUESTIONS, "MB"), rows)


QUESTIONS: dict[str, Callable[[str, int], Any]] = {
    "`best`": lambda url, _: best(NAME, storage=url),
    "`ls`": lambda url, _: list_trials(NAME, storage=url),
    "`show`": lambda url, number: show_trial(number // 2, NAME, storage=url),
    "`tree`": lambda url, _: show_tree(NAME, storage=url),
    "to go on": lambda url, _: _load(url),
}
"""What is asked, by name; all of it is read from the database alone."""


def _load(url: str) -> None:
    """Read what a coordinator reads when it begins."""
    store = Store(open_database(url))
    study = store.study(NAME)
    store.trials(study.id), store.stage_runs(study.id), store.links(study.id), store.ranks(study)
    store.close()


def _read(url: str, number: int) -> list[str]:
    cells = []
    for ask in QUESTIONS.values():
        began = time.perf_counter()
        ask(url, number)
        cells.append(f"{time.perf_counter() - began:.2f}")
    return cells


def optuna(given: argparse.Namespace) -> str:
    """Measure what Optuna takes to read its trials again."""
    draw, rows = np.random.default_rng(0), []
    scale = FloatDistribution(0, 1)
    for number in given.trials:
        with TemporaryDirectory(prefix="encore-bench-") as folder:
            url = f"sqlite:///{Path(folder) / 'encore.db'}"
            storage = optuna_storage(url)
            study = create_study(storage=storage, study_name=NAME)
            for _ in range(number):
                params = {f"s{at}": draw.random() for at in range(PARAMETERS)}
                storage.create_new_trial(study._study_id, create_trial(
                    params=params, distributions=dict.fromkeys(params, scale),
                    value=draw.random(), intermediate_values={1: 0.5, 2: 0.6, 3: 0.7},
                ))  # fmt: skip
            storage.engine.dispose()
            began = time.perf_counter()
            storage = optuna_storage(url)
            load_study(study_name=NAME, storage=storage).get_trials(deepcopy=False)
            rows.append([f"{number:,}", f"{time.perf_counter() - began:.2f}"])
            storage.engine.dispose()
        say("  ".join(rows[-1]))
    return markdown(("trials", "seconds to read them"), rows)


def main() -> None:
    """Measure what is asked for, and print it as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(required=True)
    of_slots, of_trials = parts.add_parser("slots"), parts.add_parser("trials")
    of_slots.set_defaults(run=slots)
    of_slots.add_argument("--slots", type=int, nargs="+", default=[8, 64, 256, 1000])
    of_slots.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    of_slots.add_argument("--trials", type=int, default=3000)
    of_slots.add_argument("--profile", action="store_true")
    of_trials.set_defaults(run=trials)
    of_optuna = parts.add_parser("optuna")
    of_optuna.set_defaults(run=optuna)
    of_optuna.add_argument("--trials", type=int, nargs="+", default=[1000, 10_000])
    of_trials.add_argument("--trials", type=int, nargs="+", default=[1000, 10_000, 100_000])
    given = parser.parse_args()
    print(given.run(given))


if __name__ == "__main__":
    main()
