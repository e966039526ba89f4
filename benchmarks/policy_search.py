"""A search in a made-up world: the real policy, a small event loop with slots, and a clock.

Nothing is stored and nothing trained; what a stage run would bring tells `policy_worlds.py`.
"""

import math
import time
import warnings
from dataclasses import replace
from datetime import UTC, datetime
from heapq import heappop, heappush

import numpy as np
import optuna
from optuna.trial import TrialState
from policy_worlds import WEIGHTS, World

from storage.records import Role, State, Trial, stage_run_key
from study.config.space import Space
from study.searching.candidates import anywhere
from study.searching.drafts import drafted, running
from study.searching.policy import Begin, GoOn, SearchPolicy, Standing, Stop, Verdict
from study.searching.suggest import params_of
from study.stage_tree import Node, StageTree, Trained
from tests.lab import trial_of
from trainers.schedule import Schedule

RANDOM = "random"

KEPT = 0.05
"""The part of its time that a probe takes under another seed."""

NOW = datetime(2026, 11, 28, tzinfo=UTC)


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

    def __init__(self, world: World, policy: SearchPolicy, sampler: Sampler, slots: int) -> None:
        self.world, self.policy, self.sampler, self.slots = world, policy, sampler, slots
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
            trial_of(schedule, number, id=number, seed=seed, role=role, started_at=NOW)
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
