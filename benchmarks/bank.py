"""A bank of real runs: schedules of the portfolio and of the default space, each judged twice.

Each run's validation photos say what it would be chosen by, its test photos what that was worth.
So ways to choose, and the portfolio's members, are compared on the same runs, trained once. A set's
runs are one JSON line each; what is in the file is not run again.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import numpy as np
import torch
from contestants import markdown, say
from numpy.typing import NDArray
from recipe_task import BACKBONE, PhotoList, cpu_seconds

from study.config.portfolio import DataFacts, portfolio, probes, space_for
from study.forecast import shortfall
from study.searching.candidates import anywhere
from study.searching.fitting import data_facts
from trainers.base import BEST, LAST, StageTask
from trainers.classifier import load
from trainers.data.cache import Cache
from trainers.data.manifest import Split, build_manifest
from trainers.device import choose_compute
from trainers.finetuner import Finetuner
from trainers.metrics import EpochMetrics, Metric
from trainers.schedule import Schedule

DRAWN = 40
"""So many schedules are drawn from the default space, at random."""

CHOICES, OF = 4000, 8
"""So often a choice is made anew, among so many runs drawn at random."""

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""What the errors count for, beside the calibrated loss, in a choice by both."""


Run = tuple[str, Schedule, int]
"""A name that is the same on all sets, a schedule and a seed."""


def to_run(facts: DataFacts, seeds: int) -> Iterator[Run]:
    """Yield probes and the portfolio, and then draws from the space and other seeds in turn."""
    members = [
        *((f"probe {n}", each) for n, each in enumerate(probes(facts, BACKBONE, "pretrained"), 1)),
        *((f"member {n}", m) for n, m in enumerate(portfolio(facts, BACKBONE, "pretrained"), 1)),
    ]
    yield from ((name, schedule, 0) for name, schedule in members)
    again = ((*member, seed) for seed in range(1, seeds) for member in members[2:])
    drawn = anywhere(space_for(facts), "pretrained", np.random.default_rng(0))
    for schedule in islice(drawn, DRAWN):
        yield "drawn", schedule, 0
        yield from islice(again, 1)


@dataclass
class Runs:
    """Trains on one set of photos, in a folder; stages that runs have in common once."""

    data: Path
    folder: Path

    def __post_init__(self) -> None:
        """Read the photos."""
        self.photos = PhotoList.read(self.data)
        manifest = build_manifest(self.data)
        self.facts = data_facts(manifest, ())
        self.trainer = Finetuner(
            manifest, compute=choose_compute("cpu"), cache=Cache(self.folder / "cache", manifest)
        )
        self.valid = len(manifest.of_split(Split.VALID))

    def run(self, name: str, schedule: Schedule, seed: int) -> dict[str, Any]:
        """Train a schedule under a seed; return what validation and what test say of it."""
        start, epochs, began = None, list[EpochMetrics](), cpu_seconds()
        for prefix in schedule.prefixes():
            home = self.folder / f"{prefix.digest[:16]} {seed}"
            if not home.exists():
                home.mkdir()
                self.trainer.prepare(prefix.stages, lambda _done, _of: None)
                task = StageTask(schedule=prefix, seed=seed, folder=home, start=start)
                epochs = list(self.trainer.train(task))
            start = home / LAST
        cpu = cpu_seconds() - began
        best = min(epochs, key=lambda epoch: epoch.rank(Metric.ACCURACY))
        found = load(home / BEST).predict(self.photos.test.paths)
        return {
            "data": self.data.stem,
            "name": name,
            "seed": seed,
            "schedule": schedule.to_dict(),
            "cpu_seconds": cpu,
            "valid": self.valid,
            "valid_score": best.accuracy,
            "calibrated_loss": best.calibrated(Metric.ACCURACY).calibrated_loss,
            "test_errors": len(self.photos.test.wrong(found.argmax(1))),
        }


def measure(given: argparse.Namespace) -> None:
    """Run what is missing, the sets in turn."""
    torch.set_num_threads(given.threads)
    there = {
        (row["data"], Schedule.from_dict(row["schedule"]).digest, row["seed"])
        for row in read(given.into)
    }
    with TemporaryDirectory() as folder:
        sets = [Runs(data, Path(mkdtemp(dir=folder))) for data in given.data]
        queues = [(each, to_run(each.facts, given.seeds)) for each in sets]
        while queues:
            for pair in list(queues):
                each, queue = pair
                missing = (r for r in queue if (each.data.stem, r[1].digest, r[2]) not in there)
                if (following := next(missing, None)) is None:
                    queues.remove(pair)
                    continue
                row = each.run(*following)
                with given.into.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                say(f"{each.data.stem}: {row['test_errors']} test errors")


def read(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, if there is one."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Return what each member of the portfolio made, and what choosing by each signal is worth."""
    by_set: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_set[row["data"]].append(row)
    return f"{_members(by_set)}\n\n{_choices(by_set)}"


def _members(by_set: dict[str, list[dict[str, Any]]]) -> str:
    found: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for name, rows in by_set.items():
        for row in rows:
            found[row["name"]][name].append((row["test_errors"], row["cpu_seconds"]))
    shared = {text: each for text, each in found.items() if len(each) == len(by_set)}
    cells = [
        (
            text,
            *(
                f"{fmean(e for e, _ in each[name]):.0f} ({len(each[name])}), "
                f"{fmean(s for _, s in each[name]):.0f} s"
                for name in by_set
            ),
        )
        for text, each in shared.items()
    ]
    return markdown(("test errors (runs), CPU s", *by_set), cells)


def _choices(by_set: dict[str, list[dict[str, Any]]]) -> str:
    """Return by how much the chosen run's test errors exceed those of the best of `OF`."""
    cells = []
    for name, rows in by_set.items():
        lost, least = _lost(rows)
        shares = [f"{100 * each / least:.1f} %" for each in lost]
        cells.append((f"{name}, {len(rows)} runs", f"{least:.0f}", *shares))
    names = [f"{weight:g}" for weight in WEIGHTS]
    names[0], names[-1] = "the loss", "errors"
    return markdown((f"best of {OF}", "test errors", *(f"more by {n}" for n in names)), cells)


def _lost(rows: Sequence[dict[str, Any]]) -> tuple[list[float], float]:
    rng = np.random.default_rng(0)
    worth = np.array([row["test_errors"] for row in rows], float)
    among = min(OF, len(rows))
    drawn = np.array([rng.choice(len(rows), among, replace=False) for _ in range(CHOICES)])
    least = worth[drawn].min(axis=1)
    chosen = [_signal(rows, weight)[drawn].argmin(axis=1) for weight in WEIGHTS]
    made = [worth[np.take_along_axis(drawn, each[:, None], 1)[:, 0]] for each in chosen]
    return [float((each - least).mean()) for each in made], float(least.mean())


def _signal(rows: Sequence[dict[str, Any]], weight: float) -> NDArray[np.float64]:
    """Return what is chosen by, the smaller the better; at a half it is the shortfall."""
    score = np.array([row["valid_score"] for row in rows])
    loss = np.array([row["calibrated_loss"] for row in rows])
    of_loss = shortfall(Metric.LOG_LOSS, score, loss)
    of_errors = 2 * shortfall(Metric.ACCURACY, score, loss) - of_loss
    return weight * of_errors + (1 - weight) * of_loss


def main() -> None:
    """Train, or print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", default=[], help="CSVs: path,label,split")
    parser.add_argument("--into", type=Path, required=True, help="the file of runs")
    parser.add_argument("--seeds", type=int, default=3, help="of each member of the portfolio")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.data:
        measure(given)
    if given.table:
        print(tables(read(given.into)))


if __name__ == "__main__":
    main()
