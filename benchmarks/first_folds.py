"""What stopping after two of five folds saves, and how often it stops the best: drawn searches.

Twenty schedules, three of them given first, judge the same photos of four classes: each photo is
more or less hard, for all of them and for each. A schedule is stopped as a search would stop it.
With `--races`: the best of them by one seed race under fresh seeds, which have luck of their own.
"""

import argparse
from collections.abc import Iterator
from itertools import product
from statistics import fmean

import numpy as np
from contestants import markdown
from numpy.typing import NDArray

from study.searching.first_folds import FIRST, is_beaten
from study.searching.racing import Race, beaten
from study.statistics.significance import Gains
from trainers.metrics import Evaluation, Metric

TRIALS, GIVEN, FOLDS, CLASSES = 20, 3, 5, 4
LUCK = 0.1
"""The sd of a seed's luck, in logits."""


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


def trained(
    rng: np.random.Generator, photos: int, spread: float, count: int, seeds: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return finalists' worths (m,), and which photos they get right by fresh seeds, (m, seeds, n).

    They are the `count` best of all schedules by a seed that does not race. Luck is half that of
    the seed, half that of each fold's network.
    """
    kinds, fold = rng.normal(0, 1, (5, photos)), np.arange(photos) % FOLDS
    taste = rng.normal(0, 1, (TRIALS, 5))
    taste *= 0.9 / np.linalg.norm(taste, axis=1, keepdims=True)
    worths = rng.normal(0, spread, TRIALS)
    ease = rng.normal(1.8, 1.8, photos) + worths[:, None] + taste @ kinds
    shape = (TRIALS, 1 + seeds)
    luck = rng.normal(0, LUCK, (*shape, 1)) + rng.normal(0, LUCK, (*shape, FOLDS))
    right = ease[:, None] + luck[..., fold] / 2**0.5 + rng.logistic(size=(*shape, photos)) > 0
    best = np.argsort(-right[:, 0].mean(axis=1), kind="stable")[:count]
    return worths[best], right[best, 1:].astype(float)


def raced(right: NDArray[np.float64], *, looks: bool) -> tuple[int, set[str]]:
    """Return how many networks a race trains, and which schedules it drops."""
    names, rounds = [str(number) for number in range(len(right))], right.shape[1]
    inside = np.arange(right.shape[2]) % FOLDS < FIRST
    gains: dict[str, list[Gains | None]] = {name: [] for name in names}
    stopped, networks = dict[str, int](), 0
    for seed, name in product(range(rounds), names):
        out = beaten(gains, rounds, stopped)
        if name in out:
            continue
        told = right[int(name), seed]
        first = {k: [g[inside] for g in found if g is not None] for k, found in gains.items()}
        racing = {k: found for k, found in first.items() if found and k not in out}
        known = looks and name in racing and len(racing) > 1
        lost = known and Race(name, racing, len(right), rounds).is_lost(told[inside])
        networks += FIRST if lost else FOLDS
        gains[name].append(None if lost else told)
        if lost:
            stopped[name] = seed + 1
    return networks, beaten(gains, rounds, stopped)


def races(draws: int) -> None:
    """Print a table of races with and without a look at the first folds."""
    rows = []
    for (count, rounds), photos, spread in product(
        ((5, 3), (3, 5)), (150, 300, 1000), (0.0, 0.4, 1.0)
    ):
        found = []
        for seed in range(draws):
            rng = np.random.default_rng([photos, seed])
            worths, right = trained(rng, photos, spread, count, rounds)
            best, whole = str(int(worths.argmax())), raced(right, looks=False)
            parts = raced(right, looks=True)
            dropped = [best in out for _, out in (whole, parts)]
            found.append((*(n / (FOLDS * count * rounds) for n, _ in (whole, parts)), *dropped))
        shares = (f"{100 * each:.1f} %" for each in map(fmean, zip(*found, strict=True)))
        rows.append((f"{count}", f"{rounds}", f"{photos}", f"{spread}", *shares))
    names = ("finalists", "repeats", "photos", "spread", "trained: whole rounds", "looks too")
    print(markdown((*names, "best dropped: whole rounds", "looks too"), rows))


def searches(count: int) -> None:
    """Print a table of searches."""
    rows = []
    for photos in (150, 300, 1000):
        for spread in (0.15, 0.4, 1.0):
            found = [
                searched(np.random.default_rng([photos, seed]), photos, spread)
                for seed in range(count)
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


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=300)
    parser.add_argument("--races", action="store_true")
    given = parser.parse_args()
    (races if given.races else searches)(given.searches)


if __name__ == "__main__":
    main()
