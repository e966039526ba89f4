"""Policies of a search beside each other in made-up worlds, at equal compute.

PYTHONPATH=. python benchmarks/policies.py --into FILE [--worlds 100 --lanes 2] [--table FILE]

The policies are the real ones (`study.searching`), the coordinator is that of `policy_search.py`,
the worlds are those of `policy_worlds.py`. Each policy meets the same worlds under the same luck,
and may spend the same seconds; a stage run that crosses the budget is finished. What counts is the
true accuracy of the weights that are chosen in the end.
"""

import argparse
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import Pool
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

import numpy as np
from contestants import say
from numpy.typing import NDArray
from policies_table import MOMENTS, tables
from policy_search import RANDOM, Sampler, Search
from policy_worlds import PORTFOLIO, PROBES, SCENARIOS, WEIGHTS, Result, World

from study import forecast
from study.config.portfolio import TYPICAL
from study.config.schema import Budget, StudyConfig
from study.config.space import Space
from study.forecast import LEAST_SHARE, Forecast, point_of, shortfall_of
from study.searching import forecasting
from study.searching.forecasting import Forecasting, Proposal
from study.searching.policy import (
    Explorer,
    Halving,
    Independent,
    SearchPolicy,
    Standing,
    Verdict,
)
from study.stage_tree import Node
from trainers.metrics import Metric


@dataclass(frozen=True)
class Without(Forecasting):
    """The forecast without candidates of some kinds; `whole`: trials never wait."""

    kinds: Collection[str] = ()
    whole: bool = False

    def between_stages(self, after: Node, standing: Standing) -> Verdict:
        """Go on with what was begun, or ask as ever."""
        return Verdict.GO_ON if self.whole else super().between_stages(after, standing)

    def _new_ones(self, *asked: Any) -> Iterator[Proposal]:
        every = super()._new_ones(*asked)
        return (option for option in every if option.why not in self.kinds)


def _as_long(explorer: Forecasting, options: Sequence[Proposal], *_: object) -> NDArray[np.float64]:  # noqa: ARG001
    return np.ones(len(options))


def _of_loss(metric: Metric, node: Node) -> float:  # noqa: ARG001
    return math.log(node.trained.loss) if node.trained and node.trained.loss else math.inf


def _of_score(metric: Metric, node: Node) -> float:
    score = metric.score_of(node.rank) if node.rank else None
    return math.inf if score is None else math.log(1 - score + LEAST_SHARE)


FORECAST = forecast.__name__
TRIED = forecasting.__name__
SIGNAL = f"{TRIED}.shortfall_of"


@dataclass(frozen=True)
class Contestant:
    """A policy: `constants` of modules are others while it decides."""

    name: str
    explorer: type[Independent] | type[Forecasting] = Without
    sampler: str = "random"
    portfolio: bool = True
    kinds: Collection[str] = ()
    whole: bool = False
    constants: Mapping[str, Any] = field(default_factory=dict)

    def policy(self, space: Space) -> SearchPolicy:
        """Make it for a search of a space."""
        config = StudyConfig(space=space, budget=Budget(trials=10**6))
        explorer: Explorer
        if issubclass(self.explorer, Forecasting):
            explorer = Without(
                config, WEIGHTS, TYPICAL.training, kinds=self.kinds, whole=self.whole
            )
        else:
            explorer = self.explorer(config)
        given = (*PROBES, *PORTFOLIO) if self.portfolio else PROBES
        return SearchPolicy(config, explorer, given)


CONTESTANTS = (
    Contestant(RANDOM, Independent, portfolio=False),
    Contestant("TPE", Independent, "tpe", portfolio=False),
    Contestant("TPE + ASHA", Halving, "tpe", portfolio=False),
    Contestant("GP", Independent, "gp", portfolio=False),
    Contestant("portfolio, random", Independent),
    Contestant("portfolio, TPE", Independent, "tpe"),
    Contestant("forecast", sampler="tpe"),
    Contestant("- portfolio", sampler="tpe", portfolio=False),
    Contestant("- other seeds", sampler="tpe", kinds=("another seed",)),
    Contestant("- neighbours", sampler="tpe", kinds=("a neighbour of the best",)),
    Contestant("- inheritance", sampler="tpe", constants={f"{FORECAST}.INHERITED": 0.0}),
    Contestant(
        "- luck", sampler="tpe", constants={f"{FORECAST}.INHERITED": 0.0, f"{FORECAST}.LUCK": 0.0}
    ),
    Contestant("- loss", sampler="tpe", constants={SIGNAL: _of_score}),
    Contestant("- accuracy", sampler="tpe", constants={SIGNAL: _of_loss}),
    Contestant("- waiting", sampler="tpe", whole=True),
    Contestant("- seconds", sampler="tpe", constants={f"{TRIED}.Forecasting._seconds": _as_long}),
)
"""A name that begins with "-" is the forecast without that."""


Signal = Callable[[Metric, Node], float]


def chosen(search: Search, nodes: Sequence[Node], signal: Signal) -> dict[str, float]:
    """Return the true accuracy of what is chosen of these stage runs, in three ways."""

    def result(node: Node) -> Result:
        return search.world.result(node.prefix, node.seed)

    points = [point_of(node.prefix, node.seed) for node in nodes]
    told = [signal(Metric.ACCURACY, node) for node in nodes]
    best = {
        "metric": min(nodes, key=lambda node: node.rank or (math.inf, math.inf)),
        "loss": min(nodes, key=lambda node: result(node).loss),
        "forecast": nodes[int(Forecast(points, told).known.argmin())],
    }
    return {by: result(node).truth for by, node in best.items()}


@dataclass(frozen=True)
class Task:
    """A contestant in a world of a scenario, by their names."""

    scenario: str
    world: int
    policy: str
    slots: int

    def run(self) -> dict[str, Any]:
        """Search, and tell what would be chosen at each moment."""
        contestant = next(each for each in CONTESTANTS if each.name == self.policy)
        scenario = next(each for each in SCENARIOS if each.name == self.scenario)
        policy = contestant.policy(scenario.space)
        sampler = Sampler(contestant.sampler, scenario.space, self.world)
        search = Search(World(scenario, self.world), policy, sampler, self.slots)
        with ExitStack() as others:
            for name, value in contestant.constants.items():
                others.enter_context(patch(name, value))
            search.run()
            budget = search.world.budget
            until = [budget * (place + 1) / MOMENTS for place in range(MOMENTS - 1)]
            last = search.trained[-1][0]
            nodes = [[n for paid, n in search.trained if paid <= t] for t in (*until, last)]
            first = [search.trained[0][1]]
            signal = contestant.constants.get(SIGNAL, shortfall_of)
            found = [chosen(search, each or first, signal) for each in nodes]
        return vars(self) | {
            "accuracy": {by: [round(each[by], 5) for each in found] for by in found[0]},
            "trials": len(search.trials),
            "stage_runs": len(search.trained),
            "ms_a_decision": round(1000 * fmean(search.deciding), 1),
            "ceiling": round(search.world.ceiling, 5) if self.policy == RANDOM else None,
        }


def read(file: Path) -> list[dict[str, Any]]:
    """Return what a file of answers holds."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


def measure(given: argparse.Namespace) -> None:
    """Run what is missing, world by world, and write down each answer as it comes."""
    there = {Task(**{n: row[n] for n in Task.__annotations__}) for row in read(given.into)}
    tasks = [
        task
        for world in range(given.worlds)
        for scenario in given.scenarios
        for policy in given.policies
        if (task := Task(scenario, world, policy, given.slots)) not in there
    ]
    with Pool(given.lanes) as pool, given.into.open("a", encoding="utf-8") as file:
        for done, row in enumerate(pool.imap_unordered(Task.run, tasks), 1):
            file.write(json.dumps(row) + "\n")
            file.flush()
            if done % 100 == 0 or done == len(tasks):
                say(f"{done} of {len(tasks)} searches have ended")


def parse() -> argparse.Namespace:
    """Read the command line."""
    scenarios, policies = ([each.name for each in every] for every in (SCENARIOS, CONTESTANTS))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=100, help="of each scenario")
    parser.add_argument("--scenarios", nargs="+", choices=scenarios, default=scenarios)
    parser.add_argument("--policies", nargs="+", choices=policies, default=policies)
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--lanes", type=int, default=1, help="processes of this benchmark")
    parser.add_argument("--into", type=Path, help="the file of answers, one JSON line each")
    parser.add_argument("--table", type=Path, help="print the tables of a file of answers")
    parser.add_argument("--against", default=RANDOM, help="whom the tables compare with")
    given = parser.parse_args()
    if not (given.into or given.table):
        parser.error("give --into to measure, or --table")
    return given


def main() -> None:
    """Measure, or print tables."""
    given = parse()
    if given.into:
        measure(given)
    if given.table:
        print(tables(read(given.table), given.against))


if __name__ == "__main__":
    main()
