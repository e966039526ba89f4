"""Part `coordinator`: what a search costs beside training and beside Optuna's own bookkeeping.

The trainer takes 0 s (its own arithmetic and files are counted apart). Beside it, in the same
minute: what Optuna takes for the same number of ask, suggest, report and tell on a file of its own.
"""

import argparse
import cProfile
import io
import pstats
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
from contestants import markdown, say
from lists import Lists
from optuna.storages import RDBStorage
from plain_optuna import sampler_of
from stamped import LABELS, N_CLASSES, StampedRecipe
from surface import AnyOf
from wiring import METRIC, STUDY, Clocked, ClockedSuggestions, searching

from storage.database import open_database
from storage.records import Role
from storage.store import Store
from study.config.space import PHOTO_SPACE
from study.engines.base import Engine
from study.engines.inline import InlineEngine
from study.engines.processes import ProcessEngine
from study.engines.slots import slots_of
from study.searching.optuna_storage import optuna_storage
from study.searching.suggest import suggest_schedule
from trainers.base import StageTask
from trainers.synthetic import SyntheticTrainer

JOURNALS = ["wal", "default"]

HEADER = (
    "engine",
    "strategy",
    "sampler",
    "trials",
    "stage runs",
    "epochs",
    "ms per trial",
    "trainer's",
    "Optuna's, within",
    "the rest",
    "CPU of the coordinator",
    "bare Optuna, WAL",
    "bare Optuna, its default",
    "beyond bare Optuna, WAL",
    "beyond bare Optuna, its default",
)


@dataclass(frozen=True)
class Overhead:
    """Seconds of one search. `bare` are those of Optuna alone, by the journal of its file.

    `trained` is what the trainer took in the coordinator's process: None with processes, where it
    goes on beside it.
    """

    engine: str
    strategy: str
    sampler: str
    trials: int
    stage_runs: int
    epochs: int
    seconds: float
    trained: float | None
    in_optuna: float
    cpu: float
    bare: dict[str, float]

    def cells(self) -> list[str]:
        """Write it as a line of the table, in milliseconds per trial."""
        trained = self.trained or 0.0
        rest = self.seconds - trained - self.in_optuna
        bare = [self.bare["wal"], self.bare.get("default")]
        beyond = [None if one is None else self.seconds - trained - one for one in bare]
        numbers = [self.seconds, self.trained, self.in_optuna, rest, self.cpu, *bare, *beyond]
        names = (self.engine, self.strategy, self.sampler)
        counts = (self.trials, self.stage_runs, self.epochs)
        return [*names, *map(str, counts), *(self._per_trial(number) for number in numbers)]

    def _per_trial(self, seconds: float | None) -> str:
        return "-" if seconds is None else f"{1000 * seconds / self.trials:.1f}"


@contextmanager
def _engine(slots: int) -> Iterator[tuple[Engine, Clocked | None]]:
    """Return an engine whose workers are awake: starting them is no cost of a trial."""
    recipe = StampedRecipe(0.0, None)
    if slots == 1:
        trainer = Clocked(recipe())
        yield InlineEngine(trainer), trainer
        return
    with closing(ProcessEngine(recipe, slots_of(f"cpu:{slots}"))) as engine:
        with (
            TemporaryDirectory(prefix="encore-bench-") as folder,
            searching(
                Path(folder), engine, LABELS, space=PHOTO_SPACE, sampler="random",
                strategy="independent", trials=2 * slots,
            ) as coordinator,
        ):  # fmt: skip
            coordinator.run()
        yield engine, None


def measure(
    slots: int, strategy: str, sampler: str, trials: int, journals: Sequence[str],
    profile: cProfile.Profile | None = None,
) -> Overhead:  # fmt: skip
    """Search once, then let Optuna alone do its part of it."""
    with (
        TemporaryDirectory(prefix="encore-bench-") as name,
        _engine(slots) as (engine, trainer),
        searching(
            Path(name), engine, LABELS, made=ClockedSuggestions,
            space=PHOTO_SPACE, trials=trials, sampler=sampler, strategy=strategy,
        ) as coordinator,
    ):  # fmt: skip
        suggestions = coordinator.suggestions
        assert isinstance(suggestions, ClockedSuggestions)  # noqa: S101 - as it was made above
        suggestions.clock.seconds = 0.0
        began, cpu = time.perf_counter(), time.process_time()
        if profile:
            profile.runcall(coordinator.run)
        else:
            coordinator.run()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        runs = coordinator.store.stage_runs(coordinator.study.id)
        epochs = coordinator.store.epochs_of_study(coordinator.study.id)
        steps = _steps(coordinator.config.storage)
        return Overhead(
            engine="inline" if slots == 1 else f"{slots} processes",
            strategy=strategy,
            sampler=sampler,
            trials=trials,
            stage_runs=len(runs),
            epochs=len(epochs),
            seconds=seconds,
            trained=trainer.clock.seconds if trainer else None,
            in_optuna=suggestions.clock.seconds,
            cpu=cpu,
            bare={journal: bare_optuna(Path(name), sampler, steps, journal)
                  for journal in journals},
        )  # fmt: skip


def _steps(url: str) -> list[int]:
    """Count what was reported of each trial that Optuna was asked for."""
    storage = optuna_storage(url)
    try:
        trials = storage.get_all_trials(storage.get_study_id_from_name(STUDY))
        return [len(trial.intermediate_values) for trial in trials]
    finally:
        storage.engine.dispose()


def bare_optuna(folder: Path, sampler: str, steps: Sequence[int], journal: str) -> float:
    """Return the seconds that Optuna takes for as much asking, reporting and telling.

    Either as Optuna opens a file by itself, or as Encore does: with a write-ahead log and fewer
    syncs, which is quicker.
    """
    place = folder / f"bare-{journal}.db"
    if journal == "default":
        storage = RDBStorage(f"sqlite:///{place}")
    else:
        with closing(sqlite3.connect(place)) as connection:
            connection.execute("PRAGMA journal_mode = wal")
        storage = optuna_storage(f"sqlite:///{place}")
    try:
        study = optuna.create_study(
            storage=storage, direction="maximize", sampler=sampler_of(sampler, 0)
        )
        draw = np.random.default_rng(0)
        began = time.perf_counter()
        for count in steps:
            trial = study.ask()
            suggest_schedule(Lists(trial), PHOTO_SPACE, "random")
            for step in range(1, count + 1):
                trial.report(draw.random(), step)
            study.tell(trial, draw.random())
        return time.perf_counter() - began
    finally:
        storage.engine.dispose()


def record_seconds(photos: int, classes: int, count: int) -> list[float]:
    """Return the seconds that recording an epoch takes, each time."""
    trainer = SyntheticTrainer(np.arange(photos) % classes, classes)
    schedule = suggest_schedule(AnyOf(0), PHOTO_SPACE, "random").prefixes()[0]
    with TemporaryDirectory(prefix="encore-bench-") as name:
        folder = Path(name)
        store = Store(open_database(f"sqlite:///{folder / 'encore.db'}"))
        study = store.create_study(STUDY, METRIC, "d" * 64, {}, {})
        seconds = []
        for number in range(count):
            trial = store.add_trial(study.id, number, schedule, number, Role.EXPLORE)
            run = store.begin_stage_run(trial, f"{number:064x}", 0)
            work = folder / str(number)
            work.mkdir()
            task = StageTask(schedule=schedule, seed=number, folder=work)
            metrics = next(trainer.train(task))
            began = time.perf_counter()
            store.record_epoch(run.id, metrics)
            seconds.append(time.perf_counter() - began)
        store.close()
    return seconds


def profiled(trials: int, strategy: str, sampler: str, lines: int = 45) -> str:
    """Return the functions in which a search spends its time, those below them included."""
    profile = cProfile.Profile()
    measure(1, strategy, sampler, trials, ["wal"], profile)
    text = io.StringIO()
    stats = pstats.Stats(profile, stream=text).strip_dirs()
    stats.sort_stats("cumulative").print_stats(lines)
    stats.sort_stats("tottime").print_stats(25)
    return text.getvalue()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this part's options."""
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 500, 2000])
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 8], help="1 is inline")
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    parser.add_argument("--strategies", nargs="+", default=["independent", "forecast"])
    parser.add_argument("--journals", nargs="+", choices=JOURNALS, default=JOURNALS)
    parser.add_argument("--records", type=int, default=1000, help="epochs to record")
    parser.add_argument("--profile", action="store_true", help="profile the first case instead")


def run(given: argparse.Namespace) -> tuple[str, Any]:
    """Measure; return the tables and what they were made of."""
    if given.profile:
        text = profiled(given.trials[0], given.strategies[0], given.samplers[0])
        return text, {"profile": text}
    cases = [
        (slots, strategy, sampler, trials)
        for trials in given.trials
        for sampler in given.samplers
        for strategy in given.strategies
        for slots in given.slots
    ]
    found = []
    for case in cases:
        found.append(measure(*case, given.journals))
        say(" | ".join(found[-1].cells()))
    text = markdown(HEADER, [each.cells() for each in found])
    recorded = record_seconds(1000, N_CLASSES, given.records) if given.records else []
    if recorded:
        p50, p99 = median(recorded), quantiles(recorded, n=100, method="inclusive")[-1]
        text += (
            f"\n\nRecording an epoch of 1,000 photos in {N_CLASSES} classes, {len(recorded)} times:"
            f" p50 {1000 * p50:.2f} ms, p99 {1000 * p99:.2f} ms."
        )
    return text, {"searches": [asdict(each) for each in found], "recording": recorded}
