"""What to train next? Pure: what has been run so far in, the next action out."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

from storage.records import Role, State, Trial
from study.config import Strategy, StudyConfig
from study.halving import goes_on, is_halved, promising
from study.racing import Gains, beaten
from study.tree import Node, StageTree
from trainers.metrics import Metric
from trainers.schedule import Schedule

SUGGESTED = (Role.EXPLORE, Role.BRANCH, Role.FREE)
"""The roles of trials that the sampler had a say in."""

PLACE_WORTH = 2
"""How many children more the better of two neighbours at a boundary gets."""


@dataclass(frozen=True)
class RunGiven:
    """Run a schedule that the sampler has no say in: a probe, a preset's, a line of a grid."""

    schedule: Schedule


@dataclass(frozen=True)
class Explore:
    """Ask the sampler for a whole schedule. A free one is trained to its end."""

    free: bool = False


@dataclass(frozen=True)
class Branch:
    """Ask the sampler how to go on after the first `stages` stages of trial `of`."""

    of: Trial
    stages: int
    n_stages: int


@dataclass(frozen=True)
class Repeat:
    """Train the schedule of a trial again, under a fresh seed."""

    of: Trial


Action = RunGiven | Explore | Branch | Repeat


@dataclass(frozen=True)
class Standing:
    """What has been run. `outcomes` are each repeated schedule's gains, by seed (see `racing`)."""

    trials: Sequence[Trial]
    tree: StageTree
    outcomes: Mapping[str, Sequence[Gains | None]]


class Policy(Protocol):
    """Decides for a coordinator."""

    @property
    def compute(self) -> float | None:
        """How many seconds of devices the study may take in all; None is without a bound."""
        ...

    def next_action(self, standing: Standing) -> Action | None:
        """Say what to start next, or None when there is nothing to start (now)."""
        ...

    def to_go(self, standing: Standing) -> int | None:
        """Count the trials that are still to end, as far as it can be known."""
        ...


@dataclass(frozen=True)
class SearchPolicy:
    """What `search` does. `given` are the schedules that come first, or all of a grid."""

    config: StudyConfig
    given: Sequence[Schedule] = ()

    @property
    def compute(self) -> float | None:
        """The budget's, for all runs of the same command together."""
        return self.config.budget.compute

    def next_action(self, standing: Standing) -> Action | None:
        """Start what is given, then explore, then race the finalists.

        Races begin once all exploration has ended. Each finalist gets its first fresh seed before
        any gets its second, and those that are beaten get no more.
        """
        exploring = _exploring(standing)
        if self._to_explore(exploring) != 0:
            missing = _missing(self.given, exploring)
            return RunGiven(missing[0]) if missing else _explore(standing, self.config)
        if any(trial.state is State.RUNNING for trial in exploring):
            return None
        repeated = _repeated(standing.trials)
        waiting = [
            trial
            for trial in _racing(standing, exploring, self.config)
            if repeated[trial.schedule_digest] < self.config.seeds.repeats
        ]
        if not waiting:
            return None
        return Repeat(min(waiting, key=lambda trial: repeated[trial.schedule_digest]))

    def to_go(self, standing: Standing) -> int | None:
        """Count the trials that are still to end, repeats included.

        None where not their number ends the search. Exact once exploration and the races are over.
        Before, it is the most that can be: a trial that fails, or shares its schedule with another
        one, is no finalist, and a beaten one drops out.
        """
        exploring = _exploring(standing)
        to_explore = self._to_explore(exploring)
        if to_explore is None:
            return None
        undecided = to_explore + sum(trial.state is State.RUNNING for trial in exploring)
        count, repeats = self.config.seeds.finalists, self.config.seeds.repeats
        repeated = _repeated(standing.trials)
        missing = [repeats] * min(undecided, count)
        if undecided < count:
            missing += [
                max(repeats - repeated[trial.schedule_digest], 0)
                for trial in _racing(standing, exploring, self.config)
            ]
        running = sum(trial.state is State.RUNNING for trial in standing.trials)
        return running + to_explore + sum(sorted(missing, reverse=True)[:count])

    def _to_explore(self, exploring: Sequence[Trial]) -> int | None:
        """Count the trials that are still to begin; None for as many as the budget buys."""
        if self.config.strategy is Strategy.GRID:
            return len(_missing(self.given, exploring))
        trials = self.config.budget.trials
        return None if trials is None else max(trials - len(exploring), 0)


@dataclass(frozen=True)
class SeedsPolicy:
    """What `repeat` does: the schedule of a trial, until it was trained under `seeds` seeds."""

    of: Trial
    seeds: int

    @property
    def compute(self) -> None:
        """No bound: so many seeds were asked for, whatever the search has spent."""
        return

    def next_action(self, standing: Standing) -> Action | None:
        """Train it under one more seed, if there are too few."""
        return Repeat(self.of) if self._missing(standing) else None

    def to_go(self, standing: Standing) -> int:
        """Count what runs and what is missing."""
        running = sum(trial.state is State.RUNNING for trial in standing.trials)
        return running + self._missing(standing)

    def _missing(self, standing: Standing) -> int:
        digest = self.of.schedule_digest
        tried = {
            trial.seed
            for trial in standing.trials
            if trial.schedule_digest == digest and trial.state not in (State.FAILED, State.PRUNED)
        }
        return max(self.seeds - len(tried), 0)


def may_enter(trial: Trial, position: int, key: str, tree: StageTree, config: StudyConfig) -> bool:
    """Tell whether a trial goes on to its stage at `position`, the stage run `key`.

    Halving stops spending, so what is trained already may always be entered. Whoever was let on is
    not asked again, and who comes from a probe not at all.
    """
    if position == 0 or tree.has_entered(trial.number, position) or not is_halved(trial, config):
        return True
    onward, node = tree.find(key), tree.at(trial.number, position - 1)
    if (onward is not None and onward.rank is not None) or node.rank is None or node.probe:
        return True
    return goes_on(node.rank, tree.reached(position - 1), config.halving.eta)


def finalists(exploring: Sequence[Trial], metric: Metric, count: int) -> list[Trial]:
    """Give one complete trial of each of the `count` best schedules, best first.

    Schedules are ranked by their mean score in exploration alone: the repeats themselves must not
    change who is repeated.
    """
    by_schedule: dict[str, list[Trial]] = defaultdict(list)
    for trial in exploring:
        if trial.state is State.COMPLETE:
            by_schedule[trial.schedule_digest].append(trial)
    ranked = sorted(by_schedule.values(), key=lambda group: _mean_rank(group, metric))
    return [group[0] for group in ranked[:count]]


def fresh_seed(trials: Iterable[Trial], schedule: Schedule, first: int) -> int:
    """Give the smallest seed, from `first` on, under which a schedule was not yet trained."""
    digest = schedule.digest
    used = {trial.seed for trial in trials if trial.schedule_digest == digest}
    seed = first
    while seed in used:
        seed += 1
    return seed


def _explore(standing: Standing, config: StudyConfig) -> Explore | Branch:
    if config.strategy is not Strategy.TREE:
        return Explore()
    suggested = sum(trial.role in SUGGESTED for trial in standing.trials)
    if suggested % config.halving.free_every == config.halving.free_every - 1:
        return Explore(free=True)
    return _branch(standing, config) or Explore()


def _branch(standing: Standing, config: StudyConfig) -> Branch | None:
    """Find the promising beginning from which to go on, unless a new one is due.

    The one with the fewest children is next, and of these the deeper; but the best at a boundary
    gets some before the second best gets any. New beginnings count 1/eta: of eta of them, one is
    promising.
    """
    eta, by_number = config.halving.eta, {trial.number: trial for trial in standing.trials}
    best: tuple[tuple[float, ...], Branch | None] = (_beginnings(standing, config), None)
    for position in range(max(config.resolved_space.n_stages) - 1):
        longer = [n for n in config.resolved_space.n_stages if n > position + 1]
        for place, node in enumerate(promising(standing.tree.reached(position), eta)):
            of = _suggested_by(node, by_number)
            children = len(node.children)
            if of is None or node.seed != config.seeds.first:
                continue
            if children >= _ways_on(of.schedule, position, config):
                continue
            branch = Branch(of, position + 1, longer[children % len(longer)])
            turn = (children + PLACE_WORTH * place, -position, place)
            best = min(best, (turn, branch), key=lambda each: each[0])
    return best[1]


def _beginnings(standing: Standing, config: StudyConfig) -> tuple[float, ...]:
    """Give the place in the queue of a new beginning; the last one if all are known."""
    space = config.resolved_space
    mine = [node for node in standing.tree.roots if node.seed == config.seeds.first]
    by_number = {trial.number: trial for trial in standing.trials}
    known = sum(_suggested_by(node, by_number) is not None for node in mine)
    ways = math.prod(len(values) for values in space.of_stage(0).values())
    if known >= ways * len(space.backbone) * len(space.hidden):
        return (math.inf,)
    return (known / config.halving.eta, 1)


def _ways_on(schedule: Schedule, position: int, config: StudyConfig) -> int:
    """Count the stages that can follow the one at `position`."""
    choices = config.resolved_space.of_stage(position + 1)
    smallest = schedule.stages[position].image_size
    sizes = len([size for size in choices["image_size"] if size >= smallest])
    others = [len(values) for name, values in choices.items() if name != "image_size"]
    return max(sizes, 1) * math.prod(others)


def _suggested_by(node: Node, trials: Mapping[int, Trial]) -> Trial | None:
    """Give a trial whose parameters lead to a stage run, if the sampler suggested one."""
    return next((trials[n] for n in node.trials if trials[n].role in SUGGESTED), None)


def _exploring(standing: Standing) -> list[Trial]:
    return [trial for trial in standing.trials if trial.role is not Role.REPEAT]


def _missing(given: Sequence[Schedule], exploring: Sequence[Trial]) -> list[Schedule]:
    """Return what of that was not run yet; a schedule given twice is run twice."""
    run = Counter(trial.schedule_digest for trial in exploring if trial.role is Role.PRESET)
    missing = []
    for schedule in given:
        if run[schedule.digest]:
            run[schedule.digest] -= 1
        else:
            missing.append(schedule)
    return missing


def _racing(standing: Standing, exploring: Sequence[Trial], config: StudyConfig) -> list[Trial]:
    """Give the finalists that could still be the best."""
    found = finalists(exploring, config.metric, config.seeds.finalists)
    names = [trial.schedule_digest for trial in found]
    outcomes = {name: standing.outcomes.get(name, ()) for name in names}
    out = beaten(outcomes, config.seeds.repeats)
    return [trial for trial in found if trial.schedule_digest not in out]


def _repeated(trials: Iterable[Trial]) -> Counter[str]:
    """Count each schedule's repeats, whatever came of them."""
    return Counter(trial.schedule_digest for trial in trials if trial.role is Role.REPEAT)


def _mean_rank(group: Sequence[Trial], metric: Metric) -> tuple[float, float]:
    scores = [math.nan if trial.score is None else trial.score for trial in group]
    losses = [math.inf if trial.loss is None else trial.loss for trial in group]
    return metric.rank(fmean(scores), fmean(losses))
