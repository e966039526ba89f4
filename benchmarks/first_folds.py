"""What stopping after two of five folds saves, and how often it stops the best: drawn searches.

Twenty schedules, three of them given first, judge the same photos of four classes: each photo is
more or less hard, for all of them and for each. A schedule is stopped as a search would stop it.
"""

import argparse
from collections.abc import Iterator
from statistics import fmean

import numpy as np
from contestants import markdown

from study.searching.first_folds import FIRST, is_beaten
from trainers.metrics import Evaluation, Metric

TRIALS, GIVEN, FOLDS, CLASSES = 20, 3, 5, 4


def drawn(
    rng: np.random.Generator, photos: int, spread: float
) -> Iterator[tuple[float, Evaluation]]:
    """Yield what schedules are worth, and what they say of the photos."""
    labels, hard = rng.integers(0, CLASSES, photos), rng.normal(1.8, 1.8, photos)
    kinds = rng.normal(0, 1, (5, photos))  # photos that one schedule finds harder than another
    for worth in rng.normal(0, spread, TRIALS):
        logits, taste = rng.normal(0, 0.5, (photos, CLASSES)), rng.normal(0, 1, 5)
        own = 0.9 * taste / np.linalg.norm(taste) @ kinds + rng.normal(0, 0.6, photos)
        logits[np.arange(photos), labels] += hard + worth + own
        table = np.exp(logits - logits.max(1, keepdims=True))
        table /= table.sum(1, keepdims=True)
        yield float(worth), Evaluation(labels, table.astype(np.float32))


def searched(rng: np.random.Generator, photos: int, spread: float) -> tuple[float, ...]:
    """Return what share of a search is saved, whether its best was stopped, and points lost."""
    worths, said = zip(*drawn(rng, photos, spread), strict=True)
    metric, inside = Metric.ACCURACY, np.arange(photos) % FOLDS < FIRST
    parts = [Evaluation(each.labels[inside], each.probabilities[inside]) for each in said]
    ranks = [metric.rank(metric.of(each), Metric.LOG_LOSS.of(each)) for each in said]
    best, stopped = 0, set[int]()
    for this in range(1, TRIALS):
        if this >= GIVEN and is_beaten(parts[this], parts[best], metric):
            stopped.add(this)
        elif ranks[this] < ranks[best]:
            best = this
    observed, truly = min(range(TRIALS), key=ranks.__getitem__), int(np.argmax(worths))
    lost = metric.of(said[observed]) - metric.of(said[best])
    saved = len(stopped) / TRIALS * (1 - FIRST / FOLDS)
    return saved, observed in stopped, truly in stopped, lost


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=300)
    given = parser.parse_args()
    rows = []
    for photos in (150, 300, 1000):
        for spread in (0.15, 0.4, 1.0):
            found = [
                searched(np.random.default_rng([photos, seed]), photos, spread)
                for seed in range(given.searches)
            ]
            saved, observed, truly, lost = map(fmean, zip(*found, strict=True))
            shares = (f"{100 * each:.1f} %" for each in (saved, observed, truly))
            rows.append((f"{photos}", f"{spread}", *shares, f"{100 * lost:.3f}"))
    names = (
        "photos",
        "spread",
        "saved",
        "best stopped",
        "truly best stopped",
        "points lost",
    )
    print(markdown(names, rows))


if __name__ == "__main__":
    main()
