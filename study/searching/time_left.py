"""How long a search still takes, as far as its epochs tell. Pure, but for the clock."""

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from storage.records import Role, State, Trial
from study.budget import DeviceTime
from study.config.schema import Strategy, StudyConfig
from study.searching.policy import Standing
from study.searching.stage_costs import StageCosts
from study.stage_tree import Node
from trainers.schedule import Schedule


class TimeLeft:
    """Estimates the rest of a search from the first epoch on.

    `photos` are the training photos, `given` the schedules that are tried first. The search ends at
    `deadline` (of `time.monotonic`) at the latest. Its `slots` are taken to be busy throughout.
    """

    def __init__(
        self,
        config: StudyConfig,
        photos: int,
        slots: int,
        given: Sequence[Schedule] = (),
        deadline: float = math.inf,
    ) -> None:
        self._config = config
        self._photos = photos
        self._slots = slots
        self._given = given
        self._deadline = deadline
        self._epochs: dict[str, list[float]] = defaultdict(list)  # seconds, by stage run

    def learn(self, key: str, seconds: float) -> None:
        """Learn what an epoch of a stage run took."""
        self._epochs[key].append(seconds)

    def seconds(self, standing: Standing, to_go: int | None, spent: DeviceTime) -> float | None:
        """Return the seconds to the end; None where no epoch is known, and no bound."""
        bounds = [self._deadline - time.monotonic()]
        if spent.budget is not None:
            share = self._slots / self._config.workers_per_device
            bounds.append((spent.budget - spent.seconds) / share)
        work = None if to_go is None else self._work(standing, to_go)
        if work is not None:
            bounds.append(work / self._slots)
        least = min(bounds)
        return max(least, 0.0) if least < math.inf else None

    def _work(self, standing: Standing, to_go: int) -> float | None:
        """Return the seconds of training that `to_go` trials still take.

        A trial to come takes what those begun take on average, and those that are given first; a
        repeat takes what a whole schedule does.
        """
        nodes = list(standing.tree)
        known = [(node.prefix, node.trained.seconds) for node in nodes if node.trained]
        under_way = [node for node in nodes if node.trained is None and self._epochs[node.key]]
        spent = sum(seconds for _, seconds in known)
        for node in under_way:
            taken = self._epochs[node.key]
            spent += sum(taken)
            known.append((node.prefix, sum(taken) / len(taken) * node.prefix.stages[-1].epochs))
        if not known:
            return None
        costs = StageCosts(self._photos, known)
        running = [trial for trial in standing.trials if trial.state is State.RUNNING]
        rest = sum(self._rest(trial, standing, costs) for trial in running)
        begun = {trial.schedule_digest for trial in standing.trials}
        given = [schedule for schedule in self._given if schedule.digest not in begun]
        full = [sum(map(costs.rough, schedule.prefixes())) for schedule in given]
        each = (spent + rest + sum(full)) / (len(standing.trials) + len(given))
        coming = max(to_go - len(running), 0)
        repeats = min(coming, self._repeats(standing))
        ended = [trial.schedule for trial in standing.trials if trial.state is State.COMPLETE]
        whole = [sum(map(costs.rough, schedule.prefixes())) for schedule in ended] or full or [each]
        return rest + (coming - repeats) * each + repeats * fmean(whole)

    def _repeats(self, standing: Standing) -> int:
        """Return how many trials, beyond those that explore, are repeats of finalists."""
        seeds = self._config.seeds
        begun = sum(trial.role is Role.REPEAT for trial in standing.trials)
        return max(seeds.repeats * seeds.finalists - begun, 0)

    def _rest(self, trial: Trial, standing: Standing, costs: StageCosts) -> float:
        """Return what a trial that has begun still takes by itself.

        Under the forecast it waits after each stage, and mostly for good.
        """
        if trial.number in standing.waiting:
            return 0.0
        stops = self._config.strategy is Strategy.FORECAST and trial.role is not Role.REPEAT
        left, entered = 0.0, standing.tree.has_entered
        for position, prefix in enumerate(trial.schedule.prefixes()):
            if entered(trial.number, position):
                left += self._rest_of_stage(standing.tree.at(trial.number, position), trial, costs)
            elif not stops:
                left += costs.rough(prefix)
        return left

    def _rest_of_stage(self, node: Node, trial: Trial, costs: StageCosts) -> float:
        """Return what is left of a stage run; the trial that entered it first pays for it."""
        if node.trained or node.failed or node.trials[0] != trial.number:
            return 0.0
        stage = node.prefix.stages[-1]
        missing = stage.epochs - len(self._epochs[node.key])
        return costs.rough(node.prefix) * max(missing, 0) / stage.epochs
