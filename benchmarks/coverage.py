"""Does the interval that `best` states hold the truth as often as it says? Simulated studies.

PYTHONPATH=. python benchmarks/coverage.py --into cells.jsonl [--minutes 10] [--only auroc]

Each line of that file is a cell; those that it holds are not simulated again, so the same command
goes on where the time was out, and prints the table of what there is.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import fmean, median
from zlib import crc32

import numpy as np
from contestants import markdown, say
from numpy.typing import NDArray
from scipy.special import expit, ndtr, ndtri

from study.criterion import Criterion
from study.statistics import selection_bias
from study.statistics.scoring import Candidates, Scorer
from study.statistics.selection_bias import By, Trials, bias_corrected, choose, chooser
from trainers.metrics import Metric

PHOTOS, SHARES, CANDIDATES, ACCURACIES = (
    (60, 309, 2000),
    (0.05, 0.1, 0.5),
    (1, 30, 300),
    (
        0.85,
        0.92,
        0.97,
    ),
)
CRITERIA = [each for each in Criterion if each is not Criterion.COST]
BAR = 0.92
ROUNDS = 16
"""So many of the 400 rounds: the others only steady the estimate."""

SPREAD, HARD = 0.15, 1.0
"""Standard deviations, in probits: of candidates in truth; of photos, hard for all of them."""

POINTS, WEIGHTS = np.polynomial.hermite_e.hermegauss(150)


@dataclass(frozen=True)
class Cell:
    """What is simulated."""

    criterion: str
    photos: int
    share: float
    candidates: int
    accuracy: float

    @property
    def few(self) -> int:
        """How many photos the smaller class has."""
        return round(self.photos * self.share)

    @property
    def worlds(self) -> int:
        """How many studies are simulated: more where they cost nothing."""
        return 2000 if self.candidates == 1 else 400


def cells() -> Iterator[Cell]:
    """List the cells, the cheap ones first."""
    for photos, candidates in sorted(product(PHOTOS, CANDIDATES), key=lambda two: two[0] * two[1]):
        for criterion, share, accuracy in product(CRITERIA, SHARES, ACCURACIES):
            yield Cell(criterion.value, photos, share, candidates, accuracy)


def simulate(cell: Cell, worlds: int) -> dict[str, float]:
    """Choose in each world, and see whether the interval holds the truth."""
    selection_bias.REPEATS = ROUNDS if cell.candidates > 1 else 1
    rng = np.random.default_rng(crc32(repr(cell).encode()))
    each = np.arange(cell.candidates)
    trials = Trials(each, np.arange(cell.candidates + 1), each)
    whole = np.ones((cell.photos, 1), np.float32)
    labels = (np.arange(cell.photos) < cell.few).astype(np.int64)
    found = []
    for _ in range(worlds):
        quality = ndtri(cell.accuracy) * np.hypot(HARD, 1) + rng.normal(0, SPREAD, len(each))
        scorer = _scorer(cell, labels, quality, rng)
        chosen = int(choose(scorer.within(whole), trials, By.MAX)[0])
        told = bias_corrected(scorer, chooser(scorer, trials, By.MAX), chosen)
        truth = _truth(cell, float(quality[chosen]))
        if told.low is None or told.high is None:
            raise ValueError(f"each cell must have enough photos for an interval, got {cell}")
        found.append((told.low > truth, told.high < truth, told.high - told.low))
    below, above, width = np.array(found, float).T
    return {
        "worlds": worlds,
        "too_high": float(below.mean()),
        "too_low": float(above.mean()),
        "covered": 1 - float(below.mean() + above.mean()),
        "width": float(np.median(width)),
    }


def _scorer(
    cell: Cell, labels: NDArray[np.int64], quality: NDArray[np.float64], rng: np.random.Generator
) -> Scorer:
    """Let candidates of such quality answer photos, of which some are hard for all of them."""
    shape = (len(quality), len(labels))
    ease = quality[:, None] - rng.normal(0, HARD, len(labels)) + rng.normal(size=shape)
    second = expit(2 * np.where(labels == 1, ease, -ease)).astype(np.float32)
    candidates = Candidates(
        labels=labels,
        n_classes=2,
        predicted=np.where(ease > 0, labels, 1 - labels),
        p_true=expit(2 * ease).astype(np.float32),
        probabilities=np.stack([1 - second, second], axis=2),
    )
    return Scorer(candidates, Criterion(cell.criterion))


def _truth(cell: Cell, quality: float) -> float:
    """Return a candidate's score on photos without end."""
    spread = float(np.hypot(HARD, 1))
    right = float(ndtr(quality / spread))
    match Criterion(cell.criterion):
        case Criterion.AUROC:
            return float(ndtr(np.sqrt(2) * quality / spread))
        case Criterion.LOG_LOSS:
            losses = np.logaddexp(0, -2 * (quality + spread * POINTS))
            return float((losses @ WEIGHTS) / WEIGHTS.sum())
        case Criterion.MATTHEWS:
            photos = np.array([cell.few, cell.photos - cell.few])
            hits = right * photos
            counts = (hits, photos, hits + (photos - hits)[::-1])
            return float(Metric.MATTHEWS.of_counts(*counts))
        case Criterion.F1:
            few, many = cell.few, cell.photos - cell.few
            wrong = (1 - right) * cell.photos
            return float(np.mean([2 * right * n / (2 * right * n + wrong) for n in (few, many)]))
        case _:
            return right


def table(lines: list[str]) -> str:
    """Sum up cells by criterion, photos and those of the smaller class; name those below 92 %."""
    groups: dict[tuple[str, int, int], list[tuple[float, float]]] = defaultdict(list)
    failing = []
    for found in map(json.loads, lines):
        cell = Cell(**found["cell"])
        groups[cell.criterion, cell.photos, cell.few].append((found["covered"], found["width"]))
        if found["covered"] < BAR:
            failing.append(f"{cell}: {100 * found['covered']:.1f}")
    rows = [
        [
            *map(str, key),
            str(len(own)),
            f"{100 * min(covered for covered, _ in own):.1f}",
            f"{100 * fmean(covered for covered, _ in own):.1f}",
            f"{median(width for _, width in own):.3f}",
        ]
        for key, own in groups.items()
    ]
    header = ("criterion", "photos", "smaller class", "cells", "worst", "mean", "median width")
    return "\n".join([markdown(header, rows), "below the bar:", *(failing or ["none"])])


def main() -> None:
    """Simulate the cells that the file lacks, until the time is out; print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", choices=[each.value for each in CRITERIA])
    parser.add_argument("--worlds", type=int, help="instead of each cell's own number")
    given = parser.parse_args()
    lines = given.into.read_text().splitlines() if given.into.exists() else []
    known = {Cell(**json.loads(line)["cell"]) for line in lines}
    end = time.process_time() + 60 * given.minutes
    for cell in cells():
        if time.process_time() > end:
            break
        if cell not in known and given.only in (None, cell.criterion):
            found = simulate(cell, given.worlds or cell.worlds)
            lines.append(json.dumps({"cell": asdict(cell), **found}))
            given.into.write_text("\n".join(lines) + "\n")
            say(lines[-1])
    print(table(lines))


if __name__ == "__main__":
    main()
