"""What to train next? Pure: the trials so far in, the next action out."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from storage.records import Role, State, Trial
from study.config import Preset, StudyConfig
from trainers.metrics import Metric
from trainers.schedule import Schedule


@dataclass(frozen=True)
class RunPreset:
    """Run a preset's schedule."""

    preset: Preset


@dataclass(frozen=True)
class Explore:
    """Ask the sampler for a schedule."""


@dataclass(frozen=True)
class Repeat:
    """Train the schedule of a trial again, under a fresh seed."""

    of: Trial


Action = RunPreset | Explore | Repeat


def next_action(trials: Sequence[Trial], config: StudyConfig) -> Action | None:
    """Say what to start next, or None when there is nothing to start (now).

    First the preset, then exploration up to the total, then, once all of it has ended, repeats of
    the finalists in turn: each gets its first fresh seed before any gets its second.
    """
    exploring = [trial for trial in trials if trial.role is not Role.REPEAT]
    if len(exploring) < config.budget.trials:
        preset_has_run = any(trial.role is Role.PRESET for trial in trials)
        return RunPreset(config.preset) if config.preset and not preset_has_run else Explore()
    if any(trial.state is State.RUNNING for trial in exploring):
        return None
    repeated = _repeated(trials)
    open_finalists = [
        trial
        for trial in finalists(exploring, config.metric, config.seeds.finalists)
        if repeated[trial.schedule_digest] < config.seeds.repeats
    ]
    if not open_finalists:
        return None
    return Repeat(min(open_finalists, key=lambda trial: repeated[trial.schedule_digest]))


def to_go(trials: Sequence[Trial], config: StudyConfig) -> int:
    """Count the trials that are still to end, repeats included.

    Exact once exploration is over. Before, it is the most that can be: a trial that fails, or
    shares its schedule with another one, is no finalist to repeat.
    """
    exploring = [trial for trial in trials if trial.role is not Role.REPEAT]
    to_explore = max(config.budget.trials - len(exploring), 0)
    undecided = to_explore + sum(trial.state is State.RUNNING for trial in exploring)
    count, repeats, repeated = config.seeds.finalists, config.seeds.repeats, _repeated(trials)
    missing = [
        max(repeats - repeated[trial.schedule_digest], 0)
        for trial in finalists(exploring, config.metric, count)
    ]
    missing += [repeats] * min(undecided, count)
    running = sum(trial.state is State.RUNNING for trial in trials)
    return running + to_explore + sum(sorted(missing, reverse=True)[:count])


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


def _repeated(trials: Iterable[Trial]) -> Counter[str]:
    """Count each schedule's repeats, whatever came of them."""
    return Counter(trial.schedule_digest for trial in trials if trial.role is Role.REPEAT)


def _mean_rank(group: Sequence[Trial], metric: Metric) -> tuple[float, float]:
    scores = [math.nan if trial.score is None else trial.score for trial in group]
    losses = [math.inf if trial.loss is None else trial.loss for trial in group]
    return metric.rank(fmean(scores), fmean(losses))
