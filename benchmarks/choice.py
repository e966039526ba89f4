"""What choosing costs, and whether what is said of the choice holds on photos that took no part.

PYTHONPATH=. python benchmarks/choice.py speed [--candidates 1000 --photos 1000 --classes 2]
PYTHONPATH=. python benchmarks/choice.py holdout --storage URL --study NAME --cost "A>B=5"

`holdout` takes a study whose data have a test split. It writes nothing to its database.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from contestants import markdown, say
from numpy.typing import NDArray

from storage.database import open_database
from storage.store import Store
from study.ensemble import ensemble
from study.naming import score_text
from study.scoring import Candidates, Criterion, Scorer
from study.selection import Asked, Selection
from study.selector import best, find_study, manifest_of
from study.soup import soup
from study.statistics import By, Trials, honest_number
from trainers.classifier import load
from trainers.data.manifest import Split
from trainers.decision import Decision
from trainers.ensemble import load_ensemble

TIMES = 3


def speed(given: argparse.Namespace) -> str:
    """Time the honest number by each criterion; the median of `TIMES`."""
    m, n, c = given.candidates, given.photos, given.classes
    dice = np.random.default_rng(0)
    labels = dice.integers(0, c, n)
    probabilities = dice.dirichlet(np.ones(c), (m, n)).astype(np.float32)
    probabilities[:, np.arange(n), labels] += 0.3
    probabilities /= probabilities.sum(axis=2, keepdims=True)
    candidates = Candidates(
        labels=labels,
        n_classes=c,
        predicted=probabilities.argmax(axis=2),
        p_true=probabilities[:, np.arange(n), labels],
        probabilities=probabilities,
    )
    # Trials of 10 epochs, schedules of 5 seeds.
    trials = Trials(np.arange(m), np.arange(0, m + 1, 10), np.arange(m // 10) // 5)
    rows = []
    for criterion in Criterion:
        rule = Decision.plain(c) if criterion is Criterion.COST else None
        took = [_timed(Scorer(candidates, criterion, rule), trials) for _ in range(TIMES)]
        rows.append([criterion.value, f"{median(took):.2f}", f"{min(took):.2f} - {max(took):.2f}"])
    return markdown(("criterion", "s", "lowest - highest"), rows)


def _timed(scorer: Scorer, trials: Trials) -> float:
    began = time.perf_counter()
    honest_number(scorer, trials, By.MAX, 0)
    return time.perf_counter() - began


def holdout(given: argparse.Namespace) -> str:
    """Set what is said of each choice beside what came of it on the test photos."""
    store = Store(open_database(given.storage, create=False))
    manifest = manifest_of(store, find_study(store, given.study))
    store.close()
    labels = manifest.labels(Split.TEST)
    paths = [manifest.root / photo.path for photo in manifest.of_split(Split.TEST)]
    rows = []
    for by in By:
        chosen = best(given.study, storage=given.storage, asked=Asked(by=by))
        found = load(chosen.file).predict(paths)
        rows.append([f"weights, by {by}", *_said(chosen), *_accuracy(found, labels)])
        say(rows[-1][0])
    for prices in given.cost:
        asked = Asked(criterion=Criterion.COST, costs=tuple(prices.split(",")))
        chosen = best(given.study, storage=given.storage, asked=asked)
        rows.append([f"weights and rule, by cost {prices}", *_rule(chosen, paths, labels)])
        say(rows[-1][0])
    together = ensemble(given.study, storage=given.storage, size=given.ensemble)
    found = load_ensemble([(each.file, each.count) for each in together.members]).predict(paths)
    naive, fair = (
        score_text(together.metric, s) for s in (together.score, together.cross.score_ensemble)
    )
    rows.append([f"ensemble of {given.ensemble}", naive, fair, *_accuracy(found, labels)])
    with TemporaryDirectory() as folder:
        made = soup(given.study, storage=given.storage, copy_to=Path(folder))
        kept = "kept" if made.file else f"not better, p = {made.p_value:.2f}"
        naive, fair = (score_text(made.metric, s) for s in (made.score, made.cross.score_ensemble))
        tested = _accuracy(load(made.file).predict(paths), labels) if made.file else ["-"]
        rows.append([f"soup ({kept})", naive, fair, *tested])
    header = ("choice", "validation, naive", "corrected (95 %)", f"{len(labels)} test photos")
    return markdown(header, rows)


def _said(chosen: Selection) -> list[str]:
    told = chosen.honest
    if told is None:
        return [score_text(chosen.metric, chosen.score), "-"]
    naive, estimate = (score_text(chosen.metric, s) for s in (chosen.score, told.estimate))
    return [naive, f"{estimate} ({chosen.interval})"]


def _rule(chosen: Selection, paths: Sequence[Path], labels: NDArray[np.int64]) -> list[str]:
    rule, goal = chosen.operation, chosen.goal
    if rule is None or goal is None:
        raise ValueError("a choice by cost must have a rule")
    found = load(chosen.file).predict(paths)
    plain = goal.priced.prices(labels, found.argmax(axis=1)).mean()
    ruled = goal.priced.prices(labels, rule.decision.decide(found)).mean()
    low, high = rule.cost_interval
    return [
        f"{rule.apparent_cost:.4f} (argmax {rule.plain_cost:.4f})",
        f"{rule.cost:.4f} ({low:.4f} - {high:.4f})",
        f"{ruled:.4f} (argmax {plain:.4f})",
    ]


def _accuracy(found: NDArray[np.float32], labels: NDArray[np.int64]) -> list[str]:
    return [f"{100 * float((found.argmax(axis=1) == labels).mean()):.2f}"]


def main() -> None:
    """Measure one part and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    below = parts.add_parser("speed", help=speed.__doc__)
    for name, default in (("candidates", 1000), ("photos", 1000), ("classes", 2)):
        below.add_argument(f"--{name}", type=int, default=default)
    below = parts.add_parser("holdout", help=holdout.__doc__)
    below.add_argument("--storage", required=True)
    below.add_argument("--study")
    below.add_argument("--cost", action="append", default=[], help='"A>B=5", joined by ","')
    below.add_argument("--ensemble", type=int, default=10)
    given = parser.parse_args()
    print({"speed": speed, "holdout": holdout}[given.part](given))


if __name__ == "__main__":
    main()
