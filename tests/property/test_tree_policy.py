"""A whole tree search in the head: whatever is suggested, comes out, fails or is killed."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from study.halving import goes_on, is_halved, promising

from storage.records import Role, StageRun, State, Trial, stage_run_key
from study.choices import Space, StageChoices
from study.config import StudyConfig
from study.policy import (
    SUGGESTED,
    Action,
    Branch,
    Explore,
    Repeat,
    RunGiven,
    SearchPolicy,
    Standing,
    fresh_seed,
    may_enter,
)
from study.racing import Gains
from study.settings import load_config
from study.space import stage_of, suggest_schedule
from study.tree import Node, Rank, StageTree, grow
from trainers.schedule import Schedule, Stage

NOW = datetime.now(UTC)
FEW_ASKS = 3
"""How often a suggestion that leads nowhere is thrown away."""

SPACES = st.builds(
    lambda n_stages, first: Space(
        backbone=("net",),
        n_stages=n_stages,
        image_size=(32, 64),
        batch_size=(8,),
        lrs=(1e-3, 1e-2),
        stages=(StageChoices(image_size=(32,), lrs=first),),
    ),
    st.sampled_from([(1,), (2,), (2, 3), (1, 2, 3)]),
    st.sampled_from([(1e-3,), (1e-3, 1e-2), tuple(n / 100 for n in range(1, 9))]),
)
CONFIGS = st.builds(
    lambda space, strategy, budget, seeds, halving: load_config(
        {
            "space": space.model_dump(),
            "strategy": strategy,
            "budget": budget,
            "seeds": seeds,
            "halving": halving,
        }
    ),
    SPACES,
    st.sampled_from(["tree", "tree", "tree", "asha", "independent"]),
    st.fixed_dictionaries({"trials": st.integers(1, 4) | st.integers(10, 30)}),
    st.fixed_dictionaries(
        {
            "first": st.integers(0, 2),
            "repeats": st.integers(0, 3),
            "finalists": st.integers(1, 3),
        }
    ),
    st.fixed_dictionaries({"eta": st.integers(2, 4), "free_every": st.integers(2, 5)}),
)
SCORES = st.integers(0, 8).map(lambda eighths: eighths / 8)
ENDS = st.integers(-1, 8).map(lambda eighths: None if eighths < 0 else eighths / 8)
"""What comes of a stage run: a score, or None for a failure."""


@dataclass
class Chooser:
    """Chooses at random, but for what a beginning has fixed; notes what it chose."""

    random: random.Random
    fixed: dict[str, Any]
    params: dict[str, Any] = field(default_factory=dict)

    def choose(self, name: str, values: Sequence[Any], allowed: Sequence[Any]) -> Any:
        """Return one of the allowed values."""
        chosen = self.fixed[name] if name in self.fixed else self.random.choice(allowed)
        assert chosen in allowed
        assert chosen in values
        self.params[name] = chosen
        return chosen


class Search:
    """A coordinator without a database: it begins trials and takes them through their stages."""

    def __init__(
        self, config: StudyConfig, given: Sequence[Schedule], slots: int, chance: random.Random
    ) -> None:
        self.config, self.slots, self.chance = config, slots, chance
        self.policy = SearchPolicy(config, given)
        self.tree = StageTree()
        self.trials: list[Trial] = []
        self.params: dict[int, dict[str, Any]] = {}
        self.runs: dict[str, StageRun] = {}
        self.links: list[tuple[int, int, int]] = []
        self.ranks: dict[int, Rank] = {}
        self.outcomes: dict[str, list[Gains]] = defaultdict(list)
        self.position: dict[int, int] = {}
        self.training: dict[str, list[int]] = {}
        self.completed: Counter[str] = Counter()

    @property
    def standing(self) -> Standing:
        """Give what has been run."""
        return Standing(self.trials, self.tree, self.outcomes)

    @property
    def exploring(self) -> list[Trial]:
        """Give the trials that count in the total."""
        return [trial for trial in self.trials if trial.role is not Role.REPEAT]

    def fill(self) -> None:
        """Begin trials while there is room and something to begin."""
        while len(self.training) < self.slots and (
            sum(len(waiting) for waiting in self.training.values()) < 2 * self.slots
        ):
            action = self.policy.next_action(self.standing)
            if action is None:
                return
            assert self.policy.to_go(self.standing) > 0
            self._begin(action)

    def finish(self, key: str, score: float) -> None:
        """Finish a stage run, and take all that waited for it further."""
        run = self.runs[key]
        self.runs[key] = replace(run, state=State.COMPLETE)
        self.completed[key] += 1
        self.ranks[run.id] = (-score, 1 - score)
        self.tree.finish(key, self.ranks[run.id])
        for number in self.training.pop(key):
            self.position[number] += 1
            self._advance(number)

    def fail(self, key: str) -> None:
        """Fail a stage run, and all that waited for it."""
        self.runs[key] = replace(self.runs[key], state=State.FAILED)
        self.tree.fail(key)
        for number in self.training.pop(key):
            self._end(number, State.FAILED)

    def restart(self) -> None:
        """Lose all but the rows, as a killed coordinator does, and go on from them."""
        before = shape(self.tree)
        self.tree = grow(self.trials, self.runs.values(), self.links, self.ranks)
        assert shape(self.tree) == before
        self.training.clear()
        for trial in list(self.trials):
            if trial.state is State.RUNNING:
                self.position[trial.number] = 0
                self._advance(trial.number)

    def key(self, trial: Trial, position: int) -> str:
        """Give the key of the stage run that a trial needs."""
        return stage_run_key("photos", trial.schedule.prefixes()[position], trial.seed)

    def _begin(self, action: Action) -> None:
        number = len(self.trials)
        match action:
            case RunGiven(schedule):
                role, self.params[number] = Role.PRESET, {}
            case Explore(free):
                role = Role.FREE if free else Role.EXPLORE
                schedule = self._suggest(number, {}, asks=1 if free else FEW_ASKS)
            case Branch(of, stages, n_stages):
                role = Role.BRANCH
                self._check(action)
                fixed = {
                    name: value
                    for name, value in self.params[of.number].items()
                    if stage_of(name) is None or stage_of(name) in range(stages)
                }
                schedule = self._suggest(number, fixed | {"n_stages": n_stages}, asks=FEW_ASKS)
                assert len(schedule.stages) == n_stages
                assert schedule.stages[:stages] == of.schedule.stages[:stages]
            case Repeat(of):
                assert len(self.exploring) >= self.config.budget.trials
                assert all(trial.state is not State.RUNNING for trial in self.exploring)
                assert of.state is State.COMPLETE
                role, schedule = Role.REPEAT, of.schedule
                self.params[number] = self.params[of.number]
        seed = fresh_seed(self.trials, schedule, self.config.seeds.first)
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
        self.position[number] = 0
        self._advance(number)

    def _check(self, branch: Branch) -> None:
        beginning = branch.of.schedule.prefixes()[branch.stages - 1]
        node = self.tree.find(stage_run_key("photos", beginning, self.config.seeds.first))
        assert self.config.strategy == "tree"
        assert branch.of.role in SUGGESTED
        assert node is not None
        assert node.rank is not None
        reached = self.tree.reached(branch.stages - 1)
        assert node in promising(reached, self.config.halving.eta)
        assert goes_on(node.rank, reached, self.config.halving.eta)
        assert branch.n_stages > branch.stages
        assert branch.n_stages in self.config.resolved_space.n_stages

    def _suggest(self, number: int, fixed: dict[str, Any], *, asks: int) -> Schedule:
        for ask in range(asks):
            chooser = Chooser(self.chance, fixed)
            schedule = suggest_schedule(chooser, self.config.resolved_space, "random")
            if ask == asks - 1 or not self._leads_nowhere(schedule):
                break
        self.params[number] = chooser.params
        return schedule

    def _leads_nowhere(self, schedule: Schedule) -> bool:
        trained = None
        for prefix in schedule.prefixes():
            node = self.tree.find(stage_run_key("photos", prefix, self.config.seeds.first))
            if node is None or node.rank is None:
                break
            trained = node
        else:
            return False
        if trained is None or trained.rank is None:
            return False
        reached = self.tree.reached(trained.position)
        return not goes_on(trained.rank, reached, self.config.halving.eta)

    def _advance(self, number: int) -> None:
        trial = self.trials[number]
        while self.position[number] < len(trial.schedule.stages):
            position = self.position[number]
            key = self.key(trial, position)
            if not may_enter(trial, position, key, self.tree, self.config):
                self._end(number, State.PRUNED)
                return
            run = self.runs.setdefault(key, self._row(key, trial, position))
            if (number, position, run.id) not in self.links:
                self.links.append((number, position, run.id))
            node = self.tree.enter(trial, position, key)
            if run.state is not State.COMPLETE:
                assert node.parent is None or node.parent.rank is not None
                self.runs[key] = replace(run, state=State.RUNNING)
                self.training.setdefault(key, []).append(number)
                return
            self.position[number] += 1
        self._end(number, State.COMPLETE)

    def _row(self, key: str, trial: Trial, position: int) -> StageRun:
        return StageRun(
            id=len(self.runs),
            study_id=1,
            key=key,
            position=position,
            seed=trial.seed,
            image_size=trial.schedule.stages[position].image_size,
            epochs=1,
            state=State.RUNNING,
            trial_number=trial.number,
            seconds=0.0,
            started_at=NOW,
            finished_at=None,
        )

    def _end(self, number: int, state: State) -> None:
        trial = self.trials[number]
        assert trial.state is State.RUNNING
        nodes = [self.tree.find(self.key(trial, p)) for p in range(self.position[number])]
        ranks = [node.rank for node in nodes if node and node.rank]
        score, loss = (-min(ranks)[0], min(ranks)[1]) if ranks else (None, None)
        self.trials[number] = replace(trial, state=state, score=score, loss=loss)
        if state is State.COMPLETE and trial.role is Role.REPEAT and score is not None:
            right = np.arange(40) < 20 + int(trial.schedule_digest[0], 16)
            self.outcomes[trial.schedule_digest].append(right.astype(float))


def shape(tree: StageTree) -> object:
    """Give all of a tree that decisions are made of, but for the order of ties."""
    reached = [sorted(node.key for node in tree.reached(position)) for position in range(4)]
    return reached, {node.key: described(node) for node in tree}


def described(node: Node) -> tuple[object, ...]:
    """Give a node without its neighbours."""
    parent = node.parent.key if node.parent else None
    children = sorted(child.key for child in node.children)
    return (
        *(node.position, node.seed, parent, children),
        *(sorted(node.trials), node.explored, node.rank),
    )


class TreeSearch(RuleBasedStateMachine):
    """Stage runs end, fail and are lost in any order; the plan is kept at every step."""

    @initialize(
        config=CONFIGS,
        given=st.lists(st.integers(100, 102), max_size=2),
        slots=st.integers(1, 4),
        chance=st.integers(0, 2**32).map(random.Random),
    )
    def begin(
        self, config: StudyConfig, given: list[int], slots: int, chance: random.Random
    ) -> None:
        """Begin a search; the user's own schedules lie outside the space, or inside it."""
        sizes = [32 if size == 100 else size for size in given]
        schedules = [
            Schedule(
                backbone="net",
                weights="random",
                stages=(Stage(image_size=size, batch_size=8, lrs=1e-3),) * 2,
            )
            for size in sizes
        ]
        self.search = Search(config, schedules, slots, chance)
        self.search.fill()

    @precondition(lambda self: self.search.training)
    @rule(data=st.data(), end=ENDS)
    def end_one(self, data: st.DataObject, end: float | None) -> None:
        """End the training of a stage run, be it well or not."""
        key = data.draw(st.sampled_from(sorted(self.search.training)))
        if end is None:
            self.search.fail(key)
        else:
            self.search.finish(key, end)
        self.search.fill()

    @precondition(lambda self: self.search.training)
    @rule(scores=st.lists(SCORES, min_size=5, max_size=20))
    def finish_many(self, scores: list[float]) -> None:
        """Finish several, always the one that was begun first."""
        for score in scores:
            if self.search.training:
                self.search.finish(next(iter(self.search.training)), score)
                self.search.fill()

    @rule()
    def restart(self) -> None:
        """Kill the search and give the same command again."""
        self.search.restart()
        self.search.fill()

    @invariant()
    def no_stage_run_is_trained_twice(self) -> None:
        """Complete each key at most once; then it is no longer in training."""
        search = self.search
        assert set(search.completed.values()) <= {1}
        assert not search.completed.keys() & search.training.keys()

    @invariant()
    def no_trial_is_lost(self) -> None:
        """Whoever runs waits for one stage run; whoever ended waits for none."""
        waiting = [number for courses in self.search.training.values() for number in courses]
        running = [t.number for t in self.search.trials if t.state is State.RUNNING]
        assert sorted(waiting) == running

    @invariant()
    def ended_trials_went_as_far_as_they_say(self) -> None:
        """Complete ones through all stages, stopped ones not; only the weak can be stopped."""
        search = self.search
        for trial in search.trials:
            last = len(trial.schedule.stages) - 1
            entered = search.tree.has_entered(trial.number, last)
            if trial.state is State.COMPLETE:
                assert entered
            if trial.state is State.PRUNED:
                assert not entered
                assert is_halved(trial, search.config)

    @invariant()
    def the_tree_is_a_tree(self) -> None:
        """Parents come first, are trained, have the same seed and one stage less."""
        seen: set[str] = set()
        for node in self.search.tree:
            seen.add(node.key)
            if node.parent is None:
                assert node in self.search.tree.roots
                assert node.position == 0
                continue
            assert node.parent.key in seen
            assert node in node.parent.children
            assert node.parent.rank is not None
            assert (node.parent.seed, node.parent.position) == (node.seed, node.position - 1)
            assert set(node.trials) <= set(node.parent.trials)

    @invariant()
    def the_budget_is_kept(self) -> None:
        """Exploring trials never exceed it, no schedule has a seed twice, repeats are bounded."""
        search = self.search
        assert len(search.exploring) <= search.config.budget.trials
        assert len({(t.schedule_digest, t.seed) for t in search.trials}) == len(search.trials)
        repeats = Counter(t.schedule_digest for t in search.trials if t.role is Role.REPEAT)
        assert all(count <= search.config.seeds.repeats for count in repeats.values())
        assert len(repeats) <= search.config.seeds.finalists

    @invariant()
    def every_so_many_suggestions_one_is_free(self) -> None:
        """In a tree search alone, and what is free is not stopped."""
        search, every = self.search, self.search.config.halving.free_every
        suggested = [trial for trial in search.trials if trial.role in SUGGESTED]
        for index, trial in enumerate(suggested):
            due = search.config.strategy == "tree" and index % every == every - 1
            assert (trial.role is Role.FREE) == due
            assert not (due and trial.state is State.PRUNED)

    @invariant()
    def what_runs_is_to_go(self) -> None:
        """No trial in flight is forgotten in the count of what is still to end."""
        running = sum(trial.state is State.RUNNING for trial in self.search.trials)
        assert self.search.policy.to_go(self.search.standing) >= running

    def teardown(self) -> None:
        """Let all that is left come out well: the search ends, and knows that it has ended."""
        if not hasattr(self, "search"):
            return
        search, steps = self.search, 0
        while search.training:
            search.finish(next(iter(search.training)), search.chance.random())
            search.fill()
            steps += 1
            assert steps < 500
        assert search.policy.next_action(search.standing) is None
        assert search.policy.to_go(search.standing) == 0
        assert len(search.exploring) == search.config.budget.trials
        self.no_stage_run_is_trained_twice()
        self.ended_trials_went_as_far_as_they_say()
        self.the_tree_is_a_tree()
        self.the_budget_is_kept()
        self.every_so_many_suggestions_one_is_free()


TestTreeSearch = TreeSearch.TestCase
TestTreeSearch.settings = settings(deadline=None, max_examples=60, stateful_step_count=25)
