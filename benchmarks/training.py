"""How fast Encore and its peers train and validate, and in how much memory, on this machine."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from contestants import (
    NAMES,
    Contestant,
    RunFailed,
    markdown,
    present,
    rotated,
    say,
    surroundings,
)
from originals import make_originals
from task import Outcome

HOME = "encore"
USUAL = ["encore", "fastai", "timm", "timm, channels_last"]
HEADER = (
    "pixels",
    "contestant",
    "images/s",
    "encore is faster by (lowest - highest round)",
    "first epoch, s",
    "peak memory, MB",
)


@dataclass(frozen=True)
class Run:
    """One contestant once on one size; `round` is None where memory was watched, not time."""

    size: int
    round: int | None
    contestant: str
    outcome: Outcome


@dataclass(frozen=True)
class Row:
    """What all runs of one contestant on one size come to, as medians over the rounds."""

    size: int
    contestant: str
    images_per_second: float
    encore_ratios: list[float]
    first_epoch_seconds: float
    peak_memory_mb: float | None

    def cells(self) -> list[str]:
        """Write it as a line of the table."""
        return [
            str(self.size),
            self.contestant,
            f"{self.images_per_second:.1f}",
            self._ratio(),
            f"{self.first_epoch_seconds:.1f}",
            f"{self.peak_memory_mb:.0f}" if self.peak_memory_mb else "-",
        ]

    def _ratio(self) -> str:
        ratios = self.encore_ratios
        if self.contestant == HOME or not ratios:
            return "-"
        return f"{median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"


def measure(
    contestants: Sequence[Contestant], sizes: Sequence[int], rounds: int, task: dict[str, Any]
) -> Iterator[Run]:
    """Run everything, one after the other: for each size the timed rounds, then memory once."""
    for size in sizes:
        for turn in range(rounds):
            for contestant in rotated(contestants, turn):
                yield from _try(contestant, size, turn, {**task, "seed": turn})
        for contestant in contestants:
            # Two epochs: the second is the first that has all of the first still in memory.
            yield from _try(contestant, size, None, {**task, "epochs": 2, "memory": True})


def _try(
    contestant: Contestant, size: int, turn: int | None, task: dict[str, Any]
) -> Iterator[Run]:
    what = "memory" if turn is None else f"round {turn + 1}"
    try:
        outcome = contestant.run(size=size, **task)
    except RunFailed as failure:
        say(f"{size} pixels, {what}: {failure}")
        return
    speed = "" if turn is None else f", {outcome.images_per_second:.1f} images/s"
    say(f"{size} pixels, {what}: {contestant.name}{speed}")
    yield Run(size, turn, contestant.name, outcome)


def summarise(runs: Sequence[Run]) -> list[Row]:
    """Return a row for each size and contestant, in the order of the first round."""
    timed = [run for run in runs if run.round is not None]
    pairs = dict.fromkeys((run.size, run.contestant) for run in timed)
    return [_row(size, name, runs) for size, name in pairs]


def _row(size: int, name: str, runs: Sequence[Run]) -> Row:
    speeds, home = _speeds(size, name, runs), _speeds(size, HOME, runs)
    own = [run for run in runs if (run.size, run.contestant) == (size, name)]
    peaks = [run.outcome.peak_rss_mb for run in own if run.outcome.peak_rss_mb]
    return Row(
        size=size,
        contestant=name,
        images_per_second=median(speeds.values()),
        encore_ratios=[home[turn] / speed for turn, speed in speeds.items() if turn in home],
        first_epoch_seconds=median(
            run.outcome.epoch_seconds[0] for run in own if run.round is not None
        ),
        peak_memory_mb=median(peaks) if peaks else None,
    )


def _speeds(size: int, name: str, runs: Sequence[Run]) -> dict[int, float]:
    """Return the images per second in each round."""
    return {
        run.round: run.outcome.images_per_second
        for run in runs
        if (run.size, run.contestant) == (size, name) and run.round is not None
    }


def save(path: Path, rows: Sequence[Row], runs: Sequence[Run], settings: dict[str, Any]) -> None:
    """Write all that was measured as JSON; no names of folders or machines."""
    result = {
        "surroundings": surroundings(),
        "settings": settings,
        "table": [asdict(row) for row in rows],
        "runs": [asdict(run) for run in runs],
    }
    path.write_text(json.dumps(result, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder {train,val}/CLASS/*")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128], help="pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4, help="at least 2")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, help="default: the cores")
    parser.add_argument("--contestants", nargs="+", choices=NAMES, default=USUAL)
    parser.add_argument("--out", type=Path, help="a JSON file for everything measured")
    given = parser.parse_args()
    if given.epochs < 2:
        parser.error("--epochs must be at least 2: the speed is that from the second epoch on")
    return given


def main() -> None:
    """Measure, and print the table."""
    given = parse()
    contestants = present(given.contestants)
    shared = {"epochs": given.epochs, "batch": given.batch, "workers": given.workers}
    runs: list[Run] = []
    rows: list[Row] = []
    with TemporaryDirectory() as folder:
        originals = make_originals(given.data, Path(folder))
        task = {**shared, "data": originals}
        for run in measure(contestants, given.sizes, given.rounds, task):
            runs.append(run)
            rows = summarise(runs)
            if given.out:  # after every run, so that a long measurement is never lost
                save(given.out, rows, runs, shared)
    print(markdown(HEADER, [row.cells() for row in rows]))


if __name__ == "__main__":
    main()
