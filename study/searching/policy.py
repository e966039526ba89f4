"""What to train next. Pure: from the state of the study to the next action."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from statistics import fmean
from typing import Any, Protocol

from storage.records import Role, State, Trial
from study.config.schema import Strategy, StudyConfig
from study.events import Outlook
from study.searching.racing import Race, beaten
from study.stage_tree import Node, StageTree
from study.statistics.significance import Gains
from trainers.metrics import Metric
from trainers.schedule import Schedule


@dataclass(frozen=True)
class Begin:
    """Begin a trial. `notes` are its forecast, for display."""

    schedule: Schedule
    seed: int
    role: Role
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GoOn:
    """Train another stage of a trial that waits."""

    number: int
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stop:
    """End a trial that waits."""

    number: int


Action = Begin | GoOn | Stop


class Verdict(Enum):
    """The decision on a trial between two stages."""

    GO_ON = auto()
    WAIT = auto()
    STOP = auto()


def _nobody() -> Schedule:
    raise LookupError("suggest must be a sampler's function where schedules are explored, got none")


@dataclass(frozen=True)
class Standing:
    """The state of a study.

    `outcomes` are each repeated schedule's gains, by seed (see `racing`), `on_first` those on the
    photos of the first folds, and `stopped` says which were stopped after these, and at which seed.
    `waiting` are the numbers of the trials that wait between two stages. `suggest` asks the sampler
    for a schedule.
    """

    trials: Sequence[Trial]
    tree: StageTree
    outcomes: Mapping[str, Sequence[Gains | None]]
    waiting: Collection[int] = ()
    suggest: Callable[[], Schedule] = _nobody
    on_first: Mapping[str, Sequence[Gains]] = field(default_factory=dict)
    stopped: Mapping[str, int] = field(default_factory=dict)


class Policy(Protocol):
    """Makes a coordinator's decisions."""

    @property
    def compute(self) -> float | None:
        """The limit of the study's device time in seconds; None for no limit."""
        ...

    def next_action(self, standing: Standing) -> Action | None:
        """Return the next action; None if there is nothing to do (now)."""
        ...

    def between_stages(self, trial: Trial, after: Node, standing: Standing) -> Verdict:
        """Decide whether a trial continues after a stage run."""
        ...

    def race(self, trial: Trial, standing: Standing) -> Race | None:
        """Return the race that a repeat may lose on its first folds, if there is one."""
        ...

    def to_go(self, standing: Standing) -> int | None:
        """Count the trials that are still to end, as far as it is known."""
        ...

    def outlook(self, standing: Standing) -> Outlook | None:
        """Say what is expected, where anything is."""
        ...

    def is_flat(self, standing: Standing) -> bool:
        """Return whether the search should end because little more is expected."""
        ...


class Explorer(Protocol):
    """A strategy: how a search's trials are chosen, and which continue between stages."""

    def next_action(
        self, standing: Standing, given: Sequence[Schedule], *, may_begin: bool
    ) -> Action | None:
        """Return the next action; begin a trial only if that is allowed.

        `given` are the schedules to try first that are left, the best first.
        """
        ...

    def between_stages(self, after: Node, standing: Standing) -> Verdict:
        """Decide whether one of its own trials continues after a stage run."""
        ...

    def outlook(self, standing: Standing) -> Outlook | None:
        """Say what is expected, where anything is."""
        ...


@dataclass(frozen=True)
class Independent:
    """Trains given schedules, and then the sampler's suggestions, to their ends."""

    config: StudyConfig

    def next_action(
        self, standing: Standing, given: Sequence[Schedule], *, may_begin: bool
    ) -> Action | None:
        """Begin a given schedule, or ask the sampler."""
        return given_or_suggested(standing, given, self.config) if may_begin else None

    def between_stages(self, after: Node, standing: Standing) -> Verdict:  # noqa: ARG002
        """Go on."""
        return Verdict.GO_ON

    def outlook(self, standing: Standing) -> None:
        """Expect nothing."""


@dataclass(frozen=True)
class Halving(Independent):
    """Trains suggestions as long as they are among the best 1/eta after each stage.

    Asynchronous successive halving, with stages as rungs (Li et al., A System for Massively
    Parallel Hyperparameter Tuning, 2020): each is compared with those that reached the same stage
    before it, and the best so far always continues.
    """

    def between_stages(self, after: Node, standing: Standing) -> Verdict:
        """Compare with the trials that have reached the same stage."""
        rank, reached = after.rank, standing.tree.reached(after.position)
        if rank is None:
            return Verdict.GO_ON
        better = sum(node.outcome is not None and node.outcome.rank < rank for node in reached)
        among = better < max(1, len(reached) // self.config.halving.eta)
        return Verdict.GO_ON if among else Verdict.STOP


@dataclass(frozen=True)
class SearchPolicy:
    """What `search` does. `given` are the schedules that are tried first, or all of a grid."""

    config: StudyConfig
    explorer: Explorer
    given: Sequence[Schedule] = ()

    @property
    def compute(self) -> float | None:
        """The budget's limit, for all runs of the same command together."""
        return self.config.budget.compute

    def next_action(self, standing: Standing) -> Action | None:
        """Explore, then race the finalists.

        Races begin once all exploration has ended. Each finalist gets its first fresh seed before
        any gets its second; eliminated ones get no more.
        """
        exploring = _exploring(standing)
        may_begin = self._to_explore(exploring) != 0 and not self.is_flat(standing)
        missing = _missing(self.given, exploring)
        action = self.explorer.next_action(standing, missing, may_begin=may_begin)
        if action is not None:
            return action
        if any(trial.state is State.RUNNING for trial in exploring):
            return None
        return self._race(standing, exploring)

    def is_flat(self, standing: Standing) -> bool:
        """Return whether the search should end because little more is expected."""
        if not self.config.budget.until_flat:
            return False
        outlook = self.outlook(standing)
        return outlook is not None and outlook.flat

    def between_stages(self, trial: Trial, after: Node, standing: Standing) -> Verdict:
        """Ask the explorer about its own trials, unless only a probe was trained."""
        if trial.role is not Role.EXPLORE or after.probe:
            return Verdict.GO_ON
        return self.explorer.between_stages(after, standing)

    def race(self, trial: Trial, standing: Standing) -> Race | None:
        """Return the race of a finalist that is trained under its second seed, or a later one."""
        seeds, name, exploring = self.config.seeds, trial.schedule_digest, _exploring(standing)
        if trial.role is not Role.REPEAT or seeds.repeats < 2:
            return None
        racing = [each.schedule_digest for each in _racing(standing, exploring, self.config)]
        gains = {each: standing.on_first[each] for each in racing if each in standing.on_first}
        if name not in gains or len(gains) < 2:
            return None
        count = len(finalists(exploring, self.config.metric, seeds.finalists))
        return Race(name, gains, count, seeds.repeats)

    def outlook(self, standing: Standing) -> Outlook | None:
        """Ask the explorer."""
        return self.explorer.outlook(standing)

    def to_go(self, standing: Standing) -> int | None:
        """Count the trials that are still to end, repeats included.

        None if the search is not ended by their number. Exact once exploration and the races are
        over. Before, it is an upper bound: a trial that fails, or shares its schedule with another
        one, is not a finalist, and eliminated ones get no more seeds.
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

    def _race(self, standing: Standing, exploring: Sequence[Trial]) -> Begin | None:
        repeated = _repeated(standing.trials)
        waiting = [
            trial
            for trial in _racing(standing, exploring, self.config)
            if repeated[trial.schedule_digest] < self.config.seeds.repeats
        ]
        if not waiting:
            return None
        chosen = min(waiting, key=lambda trial: repeated[trial.schedule_digest])
        return repeat_of(chosen, standing, self.config)

    def _to_explore(self, exploring: Sequence[Trial]) -> int | None:
        """Count the trials that are still to begin; None for as many as the budget buys."""
        if self.config.strategy is Strategy.GRID:
            return len(_missing(self.given, exploring))
        trials = self.config.budget.trials
        return None if trials is None else max(trials - len(exploring), 0)


@dataclass(frozen=True)
class SeedsPolicy:
    """The policy of `repeat`: train a trial's schedule until it has `seeds` seeds."""

    of: Trial
    seeds: int
    config: StudyConfig

    @property
    def compute(self) -> None:
        """No limit: the number of seeds is fixed, whatever the search has spent."""
        return

    def next_action(self, standing: Standing) -> Action | None:
        """Train it under another seed, if there are too few."""
        return repeat_of(self.of, standing, self.config) if self._missing(standing) else None

    def between_stages(self, trial: Trial, after: Node, standing: Standing) -> Verdict:  # noqa: ARG002
        """Go on."""
        return Verdict.GO_ON

    def race(self, trial: Trial, standing: Standing) -> None:
        """Race nothing."""

    def outlook(self, standing: Standing) -> None:
        """Expect nothing."""

    def is_flat(self, standing: Standing) -> bool:  # noqa: ARG002
        """Continue, as the number of seeds is fixed."""
        return False

    def to_go(self, standing: Standing) -> int:
        """Count running and missing trials."""
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


def given_or_suggested(standing: Standing, given: Sequence[Schedule], config: StudyConfig) -> Begin:
    """Begin a given schedule, or the sampler's suggestion.

    A schedule that was run already gets another seed.
    """
    role = Role.PRESET if given else Role.EXPLORE
    schedule = given[0] if given else standing.suggest()
    return Begin(schedule, fresh_seed(standing.trials, schedule, config.seeds.first), role)


def repeat_of(trial: Trial, standing: Standing, config: StudyConfig) -> Begin:
    """Begin the schedule of a trial again, under a fresh seed.

    Pruned seeds are trained as well: without weak seeds a mean would be optimistic.
    """
    tried = [each for each in standing.trials if each.state is not State.PRUNED]
    seed = fresh_seed(tried, trial.schedule, config.seeds.first)
    return Begin(trial.schedule, seed, Role.REPEAT)


def finalists(exploring: Sequence[Trial], metric: Metric, count: int) -> list[Trial]:
    """Return one complete trial of each of the `count` best schedules, best first.

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
    """Return the smallest seed, from `first` on, that a schedule was not yet trained under."""
    digest = schedule.digest
    used = {trial.seed for trial in trials if trial.schedule_digest == digest}
    seed = first
    while seed in used:
        seed += 1
    return seed


def _exploring(standing: Standing) -> list[Trial]:
    return [trial for trial in standing.trials if trial.role is not Role.REPEAT]


def _missing(given: Sequence[Schedule], exploring: Sequence[Trial]) -> list[Schedule]:
    """Return the given schedules that were not run yet; one given twice is run twice."""
    run = Counter(trial.schedule_digest for trial in exploring if trial.role is Role.PRESET)
    missing = []
    for schedule in given:
        if run[schedule.digest]:
            run[schedule.digest] -= 1
        else:
            missing.append(schedule)
    return missing


def _racing(standing: Standing, exploring: Sequence[Trial], config: StudyConfig) -> list[Trial]:
    """Return the finalists that could still be the best."""
    found = finalists(exploring, config.metric, config.seeds.finalists)
    names = [trial.schedule_digest for trial in found]
    outcomes = {name: standing.outcomes.get(name, ()) for name in names}
    out = beaten(outcomes, config.seeds.repeats, standing.stopped)
    return [trial for trial in found if trial.schedule_digest not in out]


def _repeated(trials: Iterable[Trial]) -> Counter[str]:
    """Count each schedule's repeats, including failed ones."""
    return Counter(trial.schedule_digest for trial in trials if trial.role is Role.REPEAT)


def _mean_rank(group: Sequence[Trial], metric: Metric) -> tuple[float, float]:
    scores = [math.nan if trial.score is None else trial.score for trial in group]
    losses = [math.inf if trial.loss is None else trial.loss for trial in group]
    return metric.rank(fmean(scores), fmean(losses))
