"""How long a search still takes, as far as its epochs tell. Pure, but for the clock."""

import math
import time
from collections import Counter
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
"""After so many epochs a slot, what passes between epochs is counted as well."""


class TimeLeft:
    """Estimates the rest of a search from the first epoch on.

    An epoch costs what `plan` makes of those that were trained: the median of its kind. `photos`
    are the training photos, `given` the schedules that are tried first. The search ends at
    `deadline` (of `clock`) at the latest. The tree is walked over once; from then on it is asked
    for the stage runs alone that train.
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
        self._new: list[tuple[str, float]] = []  # epochs of which the costs know nothing yet
        self._epochs: Counter[str] = Counter()  # that were learned, by stage run
        self._learned = 0.0  # the seconds of these
        self._since: float | None = None  # when the first of them began

    def learn(self, key: str, seconds: float) -> None:
        """Learn what an epoch of a stage run took."""
        if self._since is None:
            self._since = self._clock() - seconds
        self._new.append((key, seconds))
        self._epochs[key] += 1
        self._learned += seconds

    def seconds(self, standing: Standing, to_go: int | None, spent: DeviceTime) -> float | None:
        """Return the seconds to the end; None where no epoch is known, and no bound."""
        bounds = [self._deadline - self._clock()]
        if spent.budget is not None:
            share = self._slots / self._config.workers_per_device
            bounds.append((spent.budget - spent.seconds) / share)
        self._take_in(standing.tree)
        if to_go is not None and self._spent:
            bounds.append(self._work(standing, to_go) / self._slots * self._slower)
        least = min(bounds)
        return max(least, 0.0) if least < math.inf else None

    @property
    def _slower(self) -> float:
        """How many times as long as its epochs a search takes, with all that is between them."""
        if self._since is None or self._epochs.total() < SETTLED * self._slots:
            return 1.0
        return max((self._clock() - self._since) * self._slots / self._learned, 1.0)

    def _take_in(self, tree: StageTree) -> None:
        """Take in what was trained before, once, and the epochs since."""
        if not self._walked:
            before = (node for node in tree if node.key not in self._epochs)
            for node in before:
                if node.trained:
                    seconds, epochs = node.trained.seconds, node.prefix.stages[-1].epochs
                    self._spent += seconds
                    self._costs.learn(node.prefix, seconds / epochs, epochs)
            self._walked = True
        for key, seconds in self._new:
            if (trained := tree.find(key)) is not None:
                self._spent += seconds
                self._costs.learn(trained.prefix, seconds)
        self._new.clear()

    def _work(self, standing: Standing, to_go: int) -> float:
        """Return the seconds of training that `to_go` trials still take.

        A trial to come takes what those begun take on average, and those that are given first; a
        repeat takes what a whole trial did.
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
        """Return how many trials, beyond those that explore, are repeats of finalists."""
        seeds = self._config.seeds
        begun = sum(trial.role is Role.REPEAT for trial in standing.trials)
        return max(seeds.repeats * seeds.finalists - begun, 0)

    def _rest(self, trial: Trial, standing: Standing) -> float:
        """Return what a trial that has begun still takes by itself.

        Under the forecast, one that explores waits after each stage but a probe, mostly for good.
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

    def _rest_of_stage(self, node: Node, trial: Trial) -> float:
        """Return what is left of a stage run; the trial that entered it first pays for it."""
        if node.trained or node.failed or node.trials[0] != trial.number:
            return 0.0
        epochs = node.prefix.stages[-1].epochs
        missing = max(epochs - self._epochs[node.key], 0)
        return self._costs.rough(node.prefix) * missing / epochs
