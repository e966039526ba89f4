"""Policies of a search beside each other in made-up worlds, at equal compute.

PYTHONPATH=. python benchmarks/policies.py --into FILE [--worlds 100 --lanes 2] [--table FILE]

The policies are the real ones (`study.searching`); the coordinator is a small
event loop with slots and a clock, the worlds are those of `policy_worlds.py`. Each policy meets
the same worlds under the same luck, and may spend the same seconds; a stage run that crosses the
budget is finished. What counts is the true accuracy of the weights that are chosen in the end.
"""

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from heapq import heappop, heappush
from multiprocessing import Pool
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

import numpy as np
import optuna
from contestants import say
from numpy.typing import NDArray
from optuna.trial import TrialState
from policies_table import MOMENTS, tables
from policy_worlds import PORTFOLIO, PROBES, SCENARIOS, WEIGHTS, Result, World

from storage.records import Role, State, Trial, stage_run_key
from study import forecast
from study.config.portfolio import TYPICAL
from study.config.schema import Budget, StudyConfig
from study.config.space import Space
from study.forecast import LEAST_SHARE, Forecast, point_of, shortfall_of
from study.searching import forecasting
from study.searching.candidates import anywhere
from study.searching.drafts import drafted, running
from study.searching.forecasting import Forecasting, Option
from study.searching.policy import (
    Begin,
    Explorer,
    GoOn,
    Halving,
    Independent,
    SearchPolicy,
    Standing,
    Stop,
    Verdict,
)
from study.searching.suggest import params_of
from study.stage_tree import Node, StageTree, Trained
from trainers.metrics import Metric
from trainers.schedule import Schedule

KEPT = 0.05
"""The part of its time that a probe takes under another seed."""

NOW = datetime(2026, 11, 28, tzinfo=UTC)


@dataclass(frozen=True)
class Without(Forecasting):
    """The forecast without candidates of some kinds; `whole`: trials never wait."""

    kinds: Collection[str] = ()
    whole: bool = False

    def between_stages(self, after: Node, standing: Standing) -> Verdict:
        """Go on with what was begun, or ask as ever."""
        return Verdict.GO_ON if self.whole else super().between_stages(after, standing)

    def _new_ones(self, *asked: Any) -> Iterator[Option]:
        every = super()._new_ones(*asked)
        return (option for option in every if option.why not in self.kinds)


def _as_long(explorer: Forecasting, options: Sequence[Option], *_: object) -> NDArray[np.float64]:  # noqa: ARG001
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

    def policy(self, config: StudyConfig) -> SearchPolicy:
        """Make it for a search."""
        explorer: Explorer
        if issubclass(self.explorer, Forecasting):
            explorer = Without(
                config, WEIGHTS, TYPICAL.training, kinds=self.kinds, whole=self.whole
            )
        else:
            explorer = self.explorer(config)
        given = (*PROBES, *PORTFOLIO) if self.portfolio else PROBES
        return SearchPolicy(config, explorer, given)


RANDOM = "random"
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


class Sampler:
    """Suggests schedules: at random, or as a sampler of Optuna's that is told of each trial."""

    def __init__(self, name: str, space: Space, seed: int) -> None:
        self._space = space
        self._anywhere = anywhere(space, WEIGHTS, np.random.default_rng([seed, 1]))
        self._chance = np.random.default_rng([seed, 2])
        self._study = None if name == RANDOM else _study(name, seed)

    def suggest(self) -> Schedule:
        """Suggest one; nothing is noted of it."""
        if self._study is None:
            return next(self._anywhere)
        return drafted(self._study, self._space, WEIGHTS, self._chance).schedule

    def begin(self, schedule: Schedule) -> optuna.Trial | None:
        """Note that a trial runs. One that lies outside of the space would tell nothing."""
        params = params_of(schedule, self._space) if self._study is not None else None
        if self._study is None or not params:
            return None
        storage, template = self._study._storage, running(params, {})
        identity = storage.create_new_trial(self._study._study_id, template_trial=template)
        return optuna.Trial(self._study, identity)

    def end(self, trial: optuna.Trial | None, score: float, stages: int, state: State) -> None:
        """Learn what came of a trial after so many stages."""
        if self._study is None or trial is None:
            return
        trial.report(score, stages)
        if state is State.COMPLETE:
            self._study.tell(trial, score)
        else:
            self._study.tell(trial, state=TrialState.PRUNED)


def _study(name: str, seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    if name == "gp":
        gp = optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)
        return optuna.create_study(direction="maximize", sampler=gp)
    tpe = optuna.samplers.TPESampler(seed=seed, group=True)
    return optuna.create_study(direction="maximize", sampler=tpe)


class Search:
    """One search in a world, as the coordinator has it, with a clock in place of an engine."""

    def __init__(self, world: World, contestant: Contestant, slots: int) -> None:
        space = world.scenario.space
        config = StudyConfig(space=space, budget=Budget(trials=10**6))
        self.world, self.slots = world, slots
        self.policy = contestant.policy(config)
        self.sampler = Sampler(contestant.sampler, space, world.number)
        self.tree, self.trials, self.waiting = StageTree(), list[Trial](), set[int]()
        self.trained: list[tuple[float, Node]] = []
        """What was trained, in order, each with the seconds that had been paid by then."""
        self.deciding: list[float] = []
        """How long each decision took."""
        self._clock, self._paid = 0.0, 0.0
        self._running: list[tuple[float, str]] = []
        self._training: dict[str, list[int]] = {}
        self._position: dict[int, int] = {}
        self._suggested: dict[int, optuna.Trial | None] = {}

    def run(self) -> None:
        """Train until the budget is spent and what runs has ended."""
        self._fill()
        while self._running:
            self._clock, key = heappop(self._running)
            self._end(key)
            self._fill()

    @property
    def standing(self) -> Standing:
        """What has been run."""
        return Standing(self.trials, self.tree, {}, self.waiting, self.sampler.suggest)

    @property
    def spent(self) -> bool:
        """Whether nothing more may be begun."""
        ahead = sum(ends - self._clock for ends, _ in self._running)
        return self._paid - ahead >= self.world.budget

    def _fill(self) -> None:
        while len(self._training) < self.slots and not self.spent:
            began = time.perf_counter()
            action = self.policy.next_action(self.standing)
            self.deciding.append(time.perf_counter() - began)
            match action:
                case None:
                    return
                case Begin(schedule, seed, role):
                    self._advance(self._begin(schedule, seed, role))
                case GoOn(number):
                    self.waiting.remove(number)
                    self._advance(number, let_on=True)
                case Stop(number):
                    self.waiting.remove(number)
                    self._finish(number, State.PRUNED)

    def _begin(self, schedule: Schedule, seed: int, role: Role) -> int:
        number = len(self.trials)
        self.trials.append(
            Trial(
                id=number,
                study_id=1,
                number=number,
                schedule_json=schedule.to_json(),
                seed=seed,
                role=role,
                state=State.RUNNING,
                started_at=NOW,
            )
        )
        self._position[number] = 0
        self._suggested[number] = self.sampler.begin(schedule)
        return number

    def _advance(self, number: int, *, let_on: bool = False) -> None:
        """Walk over the stages that are done; train the first that is not, or finish."""
        trial = self.trials[number]
        prefixes = trial.schedule.prefixes()
        while (position := self._position[number]) < len(prefixes):
            key = stage_run_key("world", prefixes[position], trial.seed)
            node = self.tree.find(key)
            if position and not let_on and not (node and node.trained):
                after = self.tree.at(number, position - 1)
                verdict = self.policy.between_stages(trial, after, self.standing)
                if verdict is Verdict.WAIT:
                    self.waiting.add(number)
                if verdict is Verdict.STOP:
                    self._finish(number, State.PRUNED)
                if verdict is not Verdict.GO_ON:
                    return
            node = self.tree.enter(trial, position, key)
            if key in self._training:
                self._training[key].append(number)
                return
            if node.trained is None:
                if not self.spent:
                    self._train(node, number)
                return
            self._position[number] += 1
            let_on = False
        self._finish(number, State.COMPLETE)

    def _train(self, node: Node, number: int) -> None:
        seconds = self._seconds(node)
        self._paid += seconds
        self._training[node.key] = [number]
        heappush(self._running, (self._clock + seconds, node.key))

    def _seconds(self, node: Node) -> float:
        """Return what a stage run takes; a probe's features are kept for other seeds."""
        again = node.probe and any(other.prefix == node.prefix for _, other in self.trained)
        return self.world.result(node.prefix, node.seed).seconds * (KEPT if again else 1)

    def _end(self, key: str) -> None:
        node = self.tree.find(key)
        assert node is not None  # noqa: S101
        found = self.world.result(node.prefix, node.seed)
        rank = (-found.accuracy, found.raw_loss)
        self.tree.finish(key, Trained(rank, found.loss, self._seconds(node)))
        self.trained.append((self._paid - sum(e - self._clock for e, _ in self._running), node))
        for number in self._training.pop(key):
            self._position[number] += 1
            self._advance(number)

    def _finish(self, number: int, state: State) -> None:
        node = self.tree.last_trained(number)
        score = -node.rank[0] if node and node.rank else math.nan
        self.trials[number] = replace(self.trials[number], state=state, score=score)
        self.sampler.end(self._suggested[number], score, self._position[number], state)


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
        search = Search(World(scenario, self.world), contestant, self.slots)
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
