"""The estimated rest of a search, from its epochs. Pure, except for the clock."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean

from storage.records import Role, State, Trial
from study.budget import DeviceTime
from study.config.schema import Strategy, StudyConfig
from study.searching.policy import Standing
from study.searching.stage_costs import StageCosts
from study.stage_tree import Node, StageTree
from trainers.schedule import Schedule, Train

SETTLED = 4
"""Epochs per slot after which the time between epochs is included."""


class TimeLeft:
    """Estimates the rest of a search from the first epoch on.

    An epoch's cost is the median of its kind, as in `plan`: with folds, that of all networks, also
    where a last stage may stop after the first. `photos` are the training photos of one network,
    `given` the schedules that are tried first. The search ends at `deadline` (of `clock`) at the
    latest. The tree is traversed once; after that only stage runs in training are looked up.
    """

    def __init__(
        self,
        config: StudyConfig,
        photos: int,
        slots: int,
        given: Sequence[Schedule] = (),
        deadline: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._slots = slots
        self._given = given
        self._deadline = deadline
        self._clock = clock
        self._costs = StageCosts(photos)
        self._spent = 0.0  # on all stage runs
        self._walked = False
        self._new: list[tuple[str, float, float]] = []  # not yet added: new seconds, a whole epoch
        self._epochs: defaultdict[str, float] = defaultdict(float)  # already added, by stage run
        self._parts: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        self._told, self._learned = 0, 0.0  # how many, and their seconds
        self._since: float | None = None  # when the first of them began

    def learn(self, key: str, seconds: float, share: float = 1.0) -> None:
        """Add the seconds of an epoch of a stage run.

        A `share` below 1 is that of the first folds' networks: the whole epoch, which is told later
        if the others are trained, includes it.
        """
        if self._since is None:
            self._since = self._clock() - seconds
        before = (0.0, 0.0)
        if share < 1:
            self._parts[key].append((seconds, share))
        elif self._parts[key]:
            before = self._parts[key].pop(0)
        new = seconds - before[0]
        self._new.append((key, new, seconds / share))
        self._epochs[key] += share - before[1]
        self._told += 1
        self._learned += new

    def seconds(self, standing: Standing, to_go: int | None, spent: DeviceTime) -> float | None:
        """Return the seconds to the end; None if neither an epoch nor a limit is known."""
        bounds = [self._deadline - self._clock()]
        self._take_in(standing.tree)
        if spent.budget is not None:
            share = self._slots / self._config.workers_per_device
            in_training = self._in_training(standing) / self._slots if self._spent else 0.0
            bounds.append(max((spent.budget - spent.seconds) / share, in_training))
        if to_go is not None and self._spent:
            bounds.append(self._work(standing, to_go) / self._slots * self._slower)
        least = min(bounds)
        return max(least, 0.0) if least < math.inf else None

    @property
    def _slower(self) -> float:
        """The ratio of a search's wall time to the time of its epochs."""
        if self._since is None or self._told < SETTLED * self._slots:
            return 1.0
        return max((self._clock() - self._since) * self._slots / self._learned, 1.0)

    def _take_in(self, tree: StageTree) -> None:
        """Add earlier training, once, and the epochs since."""
        if not self._walked:
            before = (node for node in tree if node.key not in self._epochs)
            for node in before:
                self._spent += node.outcome.seconds if node.outcome else 0.0
                if node.trained:
                    epochs = node.prefix.stages[-1].epochs
                    self._costs.learn(node.prefix, node.trained.seconds / epochs, epochs)
            self._walked = True
        for key, seconds, whole in self._new:
            if (trained := tree.find(key)) is not None:
                self._spent += seconds
                self._costs.learn(trained.prefix, whole)
        self._new.clear()

    def _work(self, standing: Standing, to_go: int) -> float:
        """Return the seconds of training that `to_go` trials still take.

        A future trial takes the average of those begun and of those given first; a repeat takes the
        time of a whole trial.
        """
        running = [trial for trial in standing.trials if trial.state is State.RUNNING]
        rest = sum(self._rest(trial, standing) for trial in running)
        if self._given:
            begun = {trial.schedule_digest for trial in standing.trials}
            self._given = [given for given in self._given if given.digest not in begun]
        full = [sum(map(self._costs.rough, given.prefixes())) for given in self._given]
        each = (self._spent + rest + sum(full)) / (len(standing.trials) + len(full))
        coming = max(to_go - len(running), 0)
        repeats = min(coming, self._repeats(standing))
        whole = [trial.seconds for trial in standing.trials if trial.state is State.COMPLETE]
        return rest + (coming - repeats) * each + repeats * fmean(whole or full or [each])

    def _repeats(self, standing: Standing) -> int:
        """Return how many trials, beyond the exploration, are repeats of finalists."""
        seeds = self._config.seeds
        begun = sum(trial.role is Role.REPEAT for trial in standing.trials)
        return max(seeds.repeats * seeds.finalists - begun, 0)

    def _rest(self, trial: Trial, standing: Standing) -> float:
        """Return the remaining seconds of a trial that has begun.

        Under the forecast, one of the exploration waits after each stage except a probe, usually
        for good.
        """
        if trial.number in standing.waiting:
            return 0.0
        forecast = self._config.strategy is Strategy.FORECAST
        waits = forecast and trial.role is Role.EXPLORE
        left, tree, prefixes = 0.0, standing.tree, trial.schedule.prefixes()
        for position, prefix in enumerate(prefixes):
            if tree.has_entered(trial.number, position):
                left += self._rest_of_stage(tree.at(trial.number, position), trial)
            elif waits and position and prefixes[position - 1].stages[-1].train is not Train.PROBE:
                break
            else:
                left += self._costs.rough(prefix)
        return left

    def _in_training(self, standing: Standing) -> float:
        """Return the remaining seconds of the stage runs in training; no budget ends them."""
        tree = standing.tree
        return sum(
            self._rest_of_stage(tree.at(trial.number, position), trial)
            for trial in standing.trials
            if trial.state is State.RUNNING
            for position in range(len(trial.schedule.stages))
            if tree.has_entered(trial.number, position)
        )

    def _rest_of_stage(self, node: Node, trial: Trial) -> float:
        """Return the remaining seconds of a stage run, charged to the trial that entered first."""
        if node.trained or node.failed or node.trials[0] != trial.number:
            return 0.0
        epochs = node.prefix.stages[-1].epochs
        missing = max(epochs - self._epochs[node.key], 0.0)
        return self._costs.rough(node.prefix) * missing / epochs
