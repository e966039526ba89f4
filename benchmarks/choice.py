"""What choosing costs, and whether what is said of the choice holds on photos that took no part.

PYTHONPATH=. python benchmarks/choice.py speed [--candidates 1000 --photos 1000 --classes 2]
PYTHONPATH=. python benchmarks/choice.py ensembles [--worlds 200 --photos 60 --trials 300]
PYTHONPATH=. python benchmarks/choice.py soups [--worlds 200 --photos 60 --trials 300]
PYTHONPATH=. python benchmarks/choice.py costs [--worlds 200 --photos 60 --trials 300]
PYTHONPATH=. python benchmarks/choice.py holdout --storage URL --study NAME --cost "A>B=5"

`ensembles`, `soups` and `costs` simulate studies whose candidates' true quality is known: how far
is what is said of the choice from the truth? `holdout` takes a study whose data have a test split.
It writes nothing to its database.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from contestants import markdown, say
from numpy.typing import NDArray
from scipy.stats import norm

from storage.database import open_database
from storage.predictions import StoredPredictions
from storage.store import Store
from study.criterion import Criterion
from study.formatting import score_text
from study.selection.best import best
from study.selection.candidates import scorer_of
from study.selection.choosable import Choosable
from study.selection.ensemble import cross_fitted, ensemble, greedy
from study.selection.goals import Goal
from study.selection.result import Asked, Selection
from study.selection.soup import soup
from study.selection.soup_choice import FOLDS, choose_soup, corrected, held_out, of_predictions
from study.selection.thresholds import operate
from study.statistics.crossfit import compare, score
from study.statistics.folds import folds_of
from study.statistics.scoring import Candidates, Scorer
from study.statistics.selection_bias import By, Trials, bias_corrected, choose, chooser
from study.studies import find_study, manifest_of
from trainers.classifier import load
from trainers.data.manifest import Split
from trainers.decision import Decision
from trainers.ensemble import load_ensemble
from trainers.metrics import Metric

TIMES = 3
DEAR = ((0.0, 5.0), (1.0, 0.0))
ACCURACY, EPOCHS, KEPT, MEMBERS = 0.92, 3, 10, 5
NEW = 20_000
"""So many new photos tell the truth about a choice."""


@dataclass(frozen=True, eq=False)
class World:
    """A study's validation photos in 2 classes, and what epochs predict of them.

    A photo is right where `ease` of the photo + quality of the trial + luck of the epoch is above
    0; the epochs of a trial share 0.7 of their luck's variance.
    """

    labels: NDArray[np.int64]
    quality: NDArray[np.float64]
    tables: NDArray[np.float32]

    @classmethod
    def drawn(cls, rng: np.random.Generator, photos: int, trials: int, spread: float) -> "World":
        """Draw one whose trials differ by `spread`, in probits."""
        labels = np.arange(photos) % 2
        quality = norm.ppf(ACCURACY) * np.sqrt(2) + rng.normal(0, spread, trials)
        luck = np.sqrt(0.7) * rng.normal(size=(trials, 1, photos))
        luck = luck + np.sqrt(0.3) * rng.normal(size=(trials, EPOCHS, photos))
        found = quality[:, None, None] + rng.normal(size=photos) + luck
        return cls(labels, quality, _tables(labels, found.reshape(-1, photos)))

    @property
    def trials(self) -> Trials:
        """Each trial is its epochs, and a schedule of its own."""
        n = len(self.quality)
        return Trials(np.arange(n * EPOCHS), np.arange(0, n * EPOCHS + 1, EPOCHS), np.arange(n))

    def scorer(self, criterion: Criterion = Criterion.ACCURACY) -> Scorer:
        """Score all epochs."""
        true = self.tables[:, np.arange(len(self.labels)), self.labels]
        return Scorer(Candidates(self.labels, 2, self.tables.argmax(axis=2), true), criterion)

    def choosable(self) -> Choosable:
        """Keep files as a search does."""
        return Choosable(
            scorer=self.scorer(),
            epochs=[(column, 0) for column in range(len(self.tables))],
            columns=self.trials.columns,
            starts=self.trials.starts,
            most=KEPT,
            anyhow=np.zeros(len(self.quality), np.bool_),
            read=lambda epochs: self.tables[[column for column, _ in epochs]],
        )

    def new(self, rng: np.random.Generator, columns: Sequence[int]) -> "World":
        """Draw new photos, and what these epochs of different trials, which may recur, say."""
        labels, ease = np.arange(NEW) % 2, rng.normal(size=NEW)
        said = {
            column: self.quality[column // EPOCHS] + ease + rng.normal(size=NEW)
            for column in dict.fromkeys(columns)
        }
        tables = _tables(labels, np.stack([said[column] for column in columns]))
        return World(labels, self.quality, tables)


def _tables(labels: NDArray[np.int64], found: NDArray[np.float64]) -> NDArray[np.float32]:
    true = norm.cdf(found)
    first = np.where(labels == 0, true, 1 - true)
    return np.stack([first, 1 - first], axis=2).astype(np.float16).astype(np.float32)


def ensembles(given: argparse.Namespace) -> str:
    """Set what is said of ensembles beside the truth, in points, over simulated studies."""
    return _gains(given, _ensemble)


def soups(given: argparse.Namespace) -> str:
    """Set what is said of soups beside the truth, in points, over simulated studies.

    The mean of weights predicts what the mean of latents does, as near a minimum.
    """
    return _gains(given, _soup)


def _gains(
    given: argparse.Namespace,
    measured: Callable[[World, np.random.Generator], tuple[float, ...]],
) -> str:
    rows = []
    for photos, trials, spread in product(given.photos, given.trials, given.spread):
        rng = np.random.default_rng(given.seed)
        worlds = (World.drawn(rng, photos, trials, spread) for _ in range(given.worlds))
        found = [measured(world, rng) for world in worlds]
        rows.append([str(photos), str(trials), f"{spread:g}", *_summed(found, 100)])
        say(" ".join(rows[-1]))
    errors = ("as found", "cross-fitted", "gain")
    return markdown(("photos", "trials", "spread", *errors, "interval holds, %"), rows)


def _soup(world: World, rng: np.random.Generator) -> tuple[float, ...]:
    """Return by how much three figures are too high, and whether the gain's interval holds."""
    could, labels, metric = world.choosable(), world.labels, Metric.ACCURACY
    (kept,) = could.kept(np.ones((len(labels), 1), np.float32))
    mean, every = partial(_mean_weights, could.read(kept)), np.ones(len(labels), np.bool_)
    chosen = choose_soup(len(kept), mean, metric, labels, every)
    folds = folds_of(labels, FOLDS, 0)
    many, single = held_out(metric, labels, folds, [(len(kept), mean)] * len(folds))
    predicted = of_predictions(could, kept, metric)
    found = corrected(compare(metric, labels, [many], [single]), *predicted)
    new = world.new(rng, [kept[i][0] for i in chosen])
    everyone = range(len(chosen))
    truth = score(metric, new.labels, _mean_weights(new.tables, everyone))
    gain = truth - score(metric, new.labels, new.tables[0])
    low, high = found.gain_interval
    naive = score(metric, labels, mean(chosen))
    return naive - truth, found.score_ensemble - truth, found.gain - gain, low <= gain <= high


def _mean_weights(tables: NDArray[np.float32], members: Sequence[int]) -> NDArray[np.float32]:
    first = norm.ppf(np.clip(tables[list(members), :, 0], 1e-4, 1 - 1e-4)).mean(axis=0)
    found: NDArray[np.float32] = norm.cdf(np.stack([first, -first], axis=1)).astype(np.float32)
    return found


def _ensemble(world: World, rng: np.random.Generator) -> tuple[float, ...]:
    """Return by how much three figures are too high, and whether the gain's interval holds."""
    could, labels = world.choosable(), world.labels
    (kept,) = could.kept(np.ones((len(labels), 1), np.float32))
    tables = could.read(kept)
    chosen = greedy(tables, labels, MEMBERS)
    found = cross_fitted(could, MEMBERS, Metric.ACCURACY)
    new = world.new(rng, [kept[i][0] for i in (*chosen, 0)])
    many, single = (
        score(Metric.ACCURACY, new.labels, table)
        for table in (new.tables[:-1].mean(axis=0), new.tables[-1])
    )
    low, high = found.gain_interval
    naive = score(Metric.ACCURACY, labels, tables[list(chosen)].mean(axis=0))
    gain = many - single
    return naive - many, found.score_ensemble - many, found.gain - gain, low <= gain <= high


def costs(given: argparse.Namespace) -> str:
    """Set what a choice by cost and its rule are said to cost beside the truth, in percent."""
    rows = []
    for photos, trials, spread in product(given.photos, given.trials, given.spread):
        rng = np.random.default_rng(given.seed)
        found = np.array(
            [_cost(World.drawn(rng, photos, trials, spread), rng) for _ in range(given.worlds)]
        )
        truth = found[:, 0].mean()
        errors = [(*(told - true for told in rest[:-1]), rest[-1]) for true, *rest in found]
        summed = _summed(errors, 100 / truth)
        rows.append([str(photos), str(trials), f"{spread:g}", f"{truth:.3f}", *summed])
        say(" ".join(rows[-1]))
    header = ("photos", "trials", "spread", "true cost", "as found", "the rule cross-fitted")
    return markdown((*header, "choice and rule", "interval holds, %"), rows)


def _cost(world: World, rng: np.random.Generator) -> tuple[float, ...]:
    """Return the true cost, three figures for it, and whether the last one's interval holds it."""
    goal, labels, trials = Goal(DEAR), world.labels, world.trials
    stored = [
        StoredPredictions(t.argmax(1), t.max(1), t[np.arange(len(labels)), labels], t)
        for t in world.tables
    ]
    scorer = scorer_of(stored, labels, 2, Criterion.COST, goal)

    def winners(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
        return choose(scorer.within(inside.T.astype(np.float32)), trials, By.MAX)

    (best_of_all,) = winners(np.ones((1, len(labels)), np.bool_))
    table = world.tables[best_of_all]
    found = operate(labels, table, goal, chosen=lambda inside: list(world.tables[winners(inside)]))
    new = world.new(rng, [int(best_of_all)])
    true = goal.priced.prices(new.labels, found.decision.decide(new.tables[0])).mean()
    low, high = found.cost_interval
    rule_alone = operate(labels, table, goal).cost
    return float(true), found.apparent_cost, rule_alone, found.cost, low <= true <= high


def _summed(found: Sequence[tuple[float, ...]], unit: float) -> list[str]:
    """Return the mean of each error, with its own error, and how often an interval held."""
    *errors, held = np.array(found, np.float64).T
    means = [
        f"{unit * each.mean():+.2f} ± {unit * each.std(ddof=1) / len(each) ** 0.5:.2f}"
        for each in errors
    ]
    return [*means, f"{100 * held.mean():.1f}"]


def speed(given: argparse.Namespace) -> str:
    """Time the bias correction by each criterion; the median of `TIMES`."""
    m, n, c = given.candidates, given.photos, given.classes
    rng = np.random.default_rng(0)
    labels = rng.integers(0, c, n)
    probabilities = rng.dirichlet(np.ones(c), (m, n)).astype(np.float32)
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
    bias_corrected(scorer, chooser(scorer, trials, By.MAX), 0)
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
    told = chosen.bias_corrected
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
    for part in (ensembles, soups, costs):
        below = parts.add_parser(part.__name__, help=part.__doc__)
        below.add_argument("--photos", type=int, nargs="+", default=[60, 309])
        below.add_argument("--trials", type=int, nargs="+", default=[30, 100, 300])
        below.add_argument("--spread", type=float, nargs="+", default=[0.0, 0.3])
        below.add_argument("--worlds", type=int, default=200)
        below.add_argument("--seed", type=int, default=0)
    below = parts.add_parser("holdout", help=holdout.__doc__)
    below.add_argument("--storage", required=True)
    below.add_argument("--study")
    below.add_argument("--cost", action="append", default=[], help='"A>B=5", joined by ","')
    below.add_argument("--ensemble", type=int, default=10)
    given = parser.parse_args()
    told = {
        "speed": speed,
        "ensembles": ensembles,
        "soups": soups,
        "costs": costs,
        "holdout": holdout,
    }
    print(told[given.part](given))


if __name__ == "__main__":
    main()
