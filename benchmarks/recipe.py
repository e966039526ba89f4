"""Who makes the fewest errors on small sets of photos: runs, one JSON line each, and their table.

Each run is a process of its own. What is in the file is not run again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any

from ablation import VARIANTS
from contestants import rotated, say
from recipe_table import tables

from trainers.allowance import usable_cpus

Key = tuple[str, str, int]
"""Contestant, set and seed."""


@dataclass(frozen=True)
class Entry:
    """A script beside this file, the package it needs, and the names that it answers under."""

    name: str
    script: str
    answers: tuple[str, ...]
    package: str = "trainers"
    flags: tuple[str, ...] = ()
    seeded: bool = True


@dataclass(frozen=True)
class Run:
    """An entry on a set under a seed, as far as its answers are not there yet."""

    entry: Entry
    data: Path
    seed: int
    missing: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.entry.name} on {self.data.stem}, seed {self.seed}"


def entries(given: argparse.Namespace) -> list[Entry]:
    """Return who can compete."""
    moments = [f"{minutes:g}" for minutes in given.moments]
    return [
        Entry("probe", "sklearn_probe.py", ("probe",), "sklearn", seeded=False),
        Entry("fastai", "fastai_tuned.py", ("fastai",), "fastai"),
        Entry("timm", "timm_tuned.py", ("timm",), "timm"),
        Entry(
            "encore-first", "encore_tuned.py", ("encore-first",), flags=("--first", given.preset)
        ),
        Entry(
            "encore",
            "encore_tuned.py",
            tuple(f"encore-{moment}" for moment in moments),
            flags=("--moments", *moments),
        ),
        Entry("ablation", "ablation.py", tuple(VARIANTS)),
        *(
            Entry(
                name,
                "encore_tuned.py",
                tuple(f"{name}-{moment}" for moment in moments),
                flags=("--moments", *moments, "--name", name, "--search", flags),
            )
            for name, flags in POLICIES.items()
        ),
    ]


POLICIES = {
    "portfolio": "--strategy independent",
    "random": "--strategy independent --sampler random --no-portfolio",
    "tpe": "--strategy independent --sampler tpe --no-portfolio",
    "tpe-asha": "--strategy asha --sampler tpe --no-portfolio",
}
"""Other ways to search the same space with the same trainer, by their flags; see `policies.py`."""

PEERS = ("probe", "fastai", "timm", "encore-first", "encore")
NAMES = (*PEERS, "ablation", *POLICIES)


class Book:
    """The file of answers; a line is written whole as soon as it comes."""

    def __init__(self, file: Path) -> None:
        self._file, self._lock = file, Lock()

    def rows(self) -> list[dict[str, Any]]:
        """Return all answers; of those under one name, set and seed the latest counts."""
        if not self._file.exists():
            return []
        latest: dict[Key, dict[str, Any]] = {}
        for line in self._file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            latest[row["contestant"], row["data"], row["seed"]] = row
        return list(latest.values())

    def add(self, row: dict[str, Any]) -> None:
        """Add an answer."""
        with self._lock, self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def to_run(given: argparse.Namespace, rows: Iterable[dict[str, Any]]) -> Iterator[Run]:
    """Yield what is missing: sets and seeds in turn, each time another contestant first."""
    there = {(row["contestant"], row["data"], row["seed"]) for row in rows}
    chosen = [entry for entry in entries(given) if entry.name in given.contestants]
    for seed in range(given.seeds):
        for turn, data in enumerate(given.data):
            for entry in rotated(chosen, seed + turn):
                missing = tuple(
                    name for name in entry.answers if (name, data.stem, seed) not in there
                )
                if missing and (entry.seeded or seed == 0):
                    yield Run(entry, data, seed, missing)


def carry_out(run: Run, given: argparse.Namespace, book: Book) -> None:
    """Run a contestant, and write down each answer as it comes."""
    began = time.time()
    flags = ("--variants", *run.missing) if run.entry.name == "ablation" else run.entry.flags
    command = [
        *(sys.executable, str(Path(__file__).with_name(run.entry.script)), *flags),
        *("--data", str(run.data), "--seed", str(run.seed), "--minutes", str(given.minutes)),
        *("--threads", str(given.threads), "--began", str(began)),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(given.threads)}
    process = subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    with ThreadPoolExecutor(1) as reader:
        complaint = reader.submit(process.stderr.read)  # type: ignore[union-attr]
        for line in process.stdout:  # type: ignore[union-attr]
            row = json.loads(line) | {
                "data": run.data.stem,
                "seed": run.seed,
                "entry": run.entry.name,
                "minutes": given.minutes,
                "threads": given.threads,
            }
            book.add(row)
            errors = f"{len(row['test_wrong'])} of {row['test_photos']} test photos wrong"
            say(f"{run}: {row['contestant']}, {errors}, {row['seconds']:.0f} s")
        said = complaint.result().strip().splitlines() or ["it said nothing"]
    if code := process.wait():
        say(f"{run} failed with code {code}: {said[-1]}")


def measure(given: argparse.Namespace, book: Book) -> None:
    """Carry out all runs: one after the other, or as many side by side as there are lanes.

    Where not all CPUs are asked for, each lane has its own.
    """
    apart = given.threads < usable_cpus()
    waiting: SimpleQueue[Run] = SimpleQueue()
    for run in to_run(given, book.rows()):
        if find_spec(run.entry.package) is None:
            say(f"{run} is left out: the package {run.entry.package} is missing.")
        else:
            waiting.put(run)

    def lane(number: int) -> None:
        if apart:  # of this thread, and so of the processes that it starts
            first = number * given.threads
            os.sched_setaffinity(0, range(first, first + given.threads))
        while not waiting.empty():
            carry_out(waiting.get(), given, book)

    with ThreadPoolExecutor(given.lanes) as lanes:
        list(lanes.map(lane, range(given.lanes)))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", default=[], help="CSVs: path,label,split")
    parser.add_argument("--into", type=Path, help="the file of answers, one JSON line each")
    parser.add_argument("--contestants", nargs="+", choices=NAMES, default=list(PEERS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=15.0, help="for the peers' tuning")
    parser.add_argument("--moments", type=float, nargs="+", default=[5.0, 15.0], help="minutes")
    parser.add_argument("--preset", default="best", help="whose first schedule is encore-first")
    parser.add_argument("--threads", type=int, default=usable_cpus(), help="of each contestant")
    parser.add_argument("--lanes", type=int, default=1, help="contestants side by side")
    parser.add_argument("--table", type=Path, help="print the tables of a file of answers")
    parser.add_argument("--against", default="probe", help="whom the tables compare with")
    given = parser.parse_args()
    if not given.table and not (given.data and given.into):
        parser.error("give --data and --into to measure, or --table")
    if given.lanes * given.threads > usable_cpus():
        parser.error(f"{given.lanes} lanes of {given.threads} threads are more than the CPUs here")
    return given


def main() -> None:
    """Measure, or print tables."""
    given = parse()
    if given.into:
        measure(given, Book(given.into))
    if given.table:
        print(tables(Book(given.table).rows(), given.against))


if __name__ == "__main__":
    main()
