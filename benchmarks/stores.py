"""What recording an epoch takes: a PostgreSQL server against an SQLite file, 1 and 8 coordinators.

PYTHONPATH=. python benchmarks/stores.py [--records 300 --photos 1000]

Each coordinator is a process with a study of its own in the one database, and records epochs one
after the other, as fast as it can. The server is the machine's own PostgreSQL, started here with
its default settings, so that a commit is on the disk; SQLite runs as Encore opens it.
"""

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory

import numpy as np
from contestants import markdown, say
from surface import AnyOf
from wiring import METRIC

from storage.database import open_database
from storage.records import Role
from storage.store import Store
from study.config.space import PHOTO_SPACE
from study.searching.suggest import suggest_schedule
from tests.postgres import Server
from trainers.base import StageTask
from trainers.synthetic import SyntheticTrainer

CLASSES = 5


def record_seconds(url: str, name: str, photos: int, records: int, begin: float) -> list[float]:
    """Return the seconds that recording an epoch takes, each time, from a moment on."""
    trainer = SyntheticTrainer(np.arange(photos) % CLASSES, CLASSES)
    schedule = suggest_schedule(AnyOf(0), PHOTO_SPACE, "random").prefixes()[0]
    store = Store(open_database(url))
    study = store.create_study(name, METRIC, "d" * 64, {}, {})
    seconds = []
    with TemporaryDirectory(prefix="encore-bench-") as folder:
        task = StageTask(schedule=schedule, seed=0, folder=Path(folder))
        metrics = next(trainer.train(task))
    time.sleep(max(0.0, begin - time.time()))
    for number in range(records):
        trial = store.add_trial(study.id, number, schedule, number, Role.EXPLORE)
        run = store.begin_stage_run(trial, f"{number:064x}", 0)
        began = time.perf_counter()
        store.record_epoch(run.id, metrics)
        seconds.append(time.perf_counter() - began)
    store.close()
    return seconds


def measure(url: str, coordinators: int, given: argparse.Namespace) -> list[str]:
    """Record in so many processes at once; return p50, p99 and epochs a second of all together."""
    begin = time.time() + 3 + coordinators  # so long, at most, they take to be there
    with ProcessPoolExecutor(coordinators, get_context("spawn")) as pool:
        asked = [
            pool.submit(
                record_seconds, url, f"{coordinators}-{number}", given.photos, given.records, begin
            )
            for number in range(coordinators)
        ]
        seconds = [one for each in asked for one in each.result()]
    rate = coordinators * len(seconds) / sum(seconds)
    return [*_cells(seconds), f"{rate:.0f}"]


def _cells(seconds: Sequence[float]) -> list[str]:
    p99 = quantiles(seconds, n=100, method="inclusive")[-1]
    return [f"{1000 * median(seconds):.2f}", f"{1000 * p99:.2f}"]


def main() -> None:
    """Measure, and print it as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=300, help="epochs, by each coordinator")
    parser.add_argument("--photos", type=int, default=1000)
    given = parser.parse_args()
    rows = []
    with TemporaryDirectory(prefix="encore-bench-") as folder, Server(()) as server:
        file = f"sqlite:///{Path(folder) / 'encore.db'}"
        served = server.url(server.create())
        for coordinators in (1, 8):
            for name, url in (("SQLite", file), ("PostgreSQL", served)):
                rows.append([name, str(coordinators), *measure(url, coordinators, given)])
                say("  ".join(rows[-1]))
    print(markdown(("database", "coordinators", "p50, ms", "p99, ms", "epochs a second"), rows))


if __name__ == "__main__":
    main()
