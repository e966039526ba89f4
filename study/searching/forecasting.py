"""The strategy `forecast`: train the candidate with the best expected improvement per second. Pure.

Candidates are the trials that wait between two stages, given schedules that were not tried yet,
other seeds and neighbours of the best schedules, and new suggestions. All are forecast to their
ends; one stage is trained, and all are forecast again. No trial is stopped for good before the
search ends.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count, islice

import numpy as np
from numpy.typing import NDArray

from storage.records import Role, State, Trial
from study.config.schema import Strategy, StudyConfig
from study.events import Outlook
from study.forecast import Forecast, Point, point_of, shortfall_of, to_model
from study.searching.candidates import anywhere, neighbours
from study.searching.policy import (
    Action,
    Begin,
    Explorer,
    GoOn,
    Halving,
    Independent,
    Standing,
    Stop,
    Verdict,
    given_or_suggested,
)
from study.searching.stage_costs import StageCosts
from study.stage_tree import Node
from trainers.schedule import Schedule

FEW = 3
"""Trained networks needed for a forecast; before that, given schedules are tried in order."""

BEST = 3
"""Number of best schedules whose other seeds and neighbours are candidates."""

NEIGHBOURS, FRESH = 8, 16
"""Number of neighbours of each, and number of random candidates."""

PRICED = 0.5
"""The exponent of the seconds that the improvement is divided by.

With 1, a search would mostly train the cheapest candidates (benchmarks/README.md).
"""

FLAT = 0.5
"""The gain expected of as much compute again must be this part of validation's noise."""

LEAST = 0.002
"""The expected reduction of the shortfall for which a waiting trial continues after the last."""


@dataclass(frozen=True)
class Proposal:
    """A candidate: `action` is its next step towards the end of `schedule` under `seed`."""

    action: Begin | GoOn
    schedule: Schedule
    seed: int
    why: str


class _Done:
    """The stage runs that were begun and trained, and their costs.

    It is updated as the study grows: hashing all schedules again would dominate the time of a
    decision.
    """

    def __init__(self, photos: int) -> None:
        self.begun: set[tuple[Schedule, int]] = set()
        self._trained: set[tuple[Schedule, int]] = set()
        self._probed: set[Schedule] = set()
        self._costs = StageCosts(photos)
        self._trials, self._keys = 0, set[str]()

    def learn(self, standing: Standing) -> None:
        """Add what is new."""
        new = standing.trials[self._trials :]
        self.begun.update((trial.schedule, trial.seed) for trial in new)
        self._trials = len(standing.trials)
        for node in standing.tree:
            if node.key in self._keys or not (node.trained or node.failed):
                continue
            self._keys.add(node.key)
            self._trained.add((node.prefix, node.seed))
            if node.probe:
                self._probed.add(node.prefix)
            if node.trained:
                self._costs.learn(node.prefix, node.trained.seconds / node.prefix.stages[-1].epochs)

    def is_trained(self, schedule: Schedule, seed: int) -> bool:
        """Whether all its stages are."""
        return (schedule, seed) in self._trained

    def left(self, schedule: Schedule, seed: int) -> float:
        """Return the seconds that it would still take.

        A probe that was fitted under one seed costs next to nothing under another: its features are
        cached.
        """
        missing = (
            prefix
            for prefix in schedule.prefixes()
            if prefix not in self._probed and (prefix, seed) not in self._trained
        )
        return max(sum(map(self._costs.seconds, missing)), 1e-3)


@dataclass(frozen=True)
class Forecasting:
    """Explores by a forecast; `photos` are the training photos."""

    config: StudyConfig
    weights: str
    photos: int
    _points: dict[str, Point] = field(default_factory=dict, compare=False)
    _shortfalls: dict[str, float] = field(default_factory=dict, compare=False)
    _latest: dict[tuple[str, ...], Forecast] = field(default_factory=dict, compare=False)

    @cached_property
    def _done(self) -> _Done:
        return _Done(self.photos)

    def next_action(
        self, standing: Standing, given: Sequence[Schedule], *, may_begin: bool
    ) -> Action | None:
        """Choose by expected improvement of the best final result and the seconds to it."""
        known = self._known(standing)
        if sum(not node.probe and not node.failed for node in known) < FEW:
            if may_begin:
                return given_or_suggested(standing, given, self.config)
            return GoOn(min(standing.waiting)) if standing.waiting else None
        forecast = self._forecast(known)
        options = list(self._waiting(standing))
        if may_begin:
            best = self._best(standing, known, forecast)
            new = self._new_ones(standing, given, [standing.suggest()], best)
            # A trial whose stages are all trained already would add no information.
            options += (each for each in new if not self._done.is_trained(each.schedule, each.seed))
        if options:
            chosen, gain = self._choose(options, standing, forecast)
            if may_begin or gain >= LEAST:
                return chosen
        if not standing.waiting or self._in_training(standing):
            return None
        return Stop(min(standing.waiting))

    def between_stages(self, after: Node, standing: Standing) -> Verdict:  # noqa: ARG002
        """Let it wait until it is the best candidate."""
        return Verdict.WAIT

    def outlook(self, standing: Standing) -> Outlook | None:
        """Translate the expected shortfall into the metric, by a regression over all trials."""
        known = self._known(standing)
        pairs = list(self._pairs(known))
        line = _line(*zip(*pairs, strict=True)) if pairs else None
        if line is None:
            return None
        intercept, slope = line
        forecast = self._forecast(known)
        best = known[int(forecast.known.argmin())]
        (mean,), (sd,) = forecast.at([self._point(best)])
        further = self._further(standing, known, forecast)
        ends = sorted(intercept + slope * (mean + 1.96 * sign * sd) for sign in (-1, 1))
        return Outlook(
            score=float(intercept + slope * mean),
            low=float(ends[0]),
            high=float(ends[1]),
            gain=abs(slope) * further,
            flat=further < forecast.seen_noise * FLAT,
        )

    def _choose(
        self,
        options: Sequence[Proposal],
        standing: Standing,
        forecast: Forecast,
    ) -> tuple[Action, float]:
        pending = [point_of(trial.schedule, trial.seed) for trial in self._in_training(standing)]
        mean, sd = forecast.at([_end_of(option) for option in options], pending)
        gain = forecast.improvement(mean, sd)
        seconds = self._seconds(options)
        place = int((gain / seconds**PRICED).argmax())
        low, middle, high = np.exp(mean[place] + np.array([-1.96, 0, 1.96]) * sd[place]).round(4)
        notes = {
            "why": options[place].why,
            "expected shortfall": float(middle),
            "interval": [float(low), float(high)],
            "seconds to go": round(float(seconds[place])),
        }
        return replace(options[place].action, notes=notes), float(gain[place])

    def _further(self, standing: Standing, known: Sequence[Node], forecast: Forecast) -> float:
        """Return the expected reduction of the best shortfall for as much compute again."""
        new = self._new_ones(standing, (), (), self._best(standing, known, forecast))
        options = [*self._waiting(standing), *new]
        points = [_end_of(option) for option in options]
        seconds = self._seconds(options)
        gain = forecast.improvement(*forecast.at(points))
        order = np.argsort(-gain / seconds**PRICED, kind="stable")
        paid = sum(node.trained.seconds for node in known if node.trained)
        affordable = max(1, int((seconds[order].cumsum() <= paid).sum()))
        return forecast.least_of([points[place] for place in order[:affordable]])

    def _seconds(self, options: Sequence[Proposal]) -> NDArray[np.float64]:
        """Return the seconds still needed for each."""
        return np.array([self._done.left(option.schedule, option.seed) for option in options])

    def _waiting(self, standing: Standing) -> Iterator[Proposal]:
        trials = {trial.number: trial for trial in standing.trials}
        for number in sorted(standing.waiting):
            of = trials[number]
            yield Proposal(GoOn(number), of.schedule, of.seed, "goes on")

    def _new_ones(
        self,
        standing: Standing,
        given: Sequence[Schedule],
        suggested: Sequence[Schedule],
        best: Sequence[Schedule],
    ) -> Iterator[Proposal]:
        space, first = self.config.resolved_space, self.config.seeds.first
        ended = sum(trial.state is not State.RUNNING for trial in standing.trials)
        rng = np.random.default_rng([first, len(standing.trials), ended])
        begun = self._done.begun

        def option(schedule: Schedule, why: str, role: Role = Role.EXPLORE) -> Proposal:
            seed = next(seed for seed in count(first) if (schedule, seed) not in begun)
            return Proposal(Begin(schedule, seed, role), schedule, seed, why)

        yield from (option(schedule, "fits such data", Role.PRESET) for schedule in given)
        yield from (option(schedule, "suggested by the sampler") for schedule in suggested)
        for good in best:
            yield option(good, "another seed")
            for near in islice(neighbours(good, space, rng), NEIGHBOURS):
                if (near, first) not in begun:
                    yield option(near, "a neighbour of the best")
        for fresh in islice(anywhere(space, self.weights, rng), FRESH):
            if (fresh, first) not in begun:
                yield option(fresh, "from anywhere")

    def _best(
        self, standing: Standing, known: Sequence[Node], forecast: Forecast
    ) -> list[Schedule]:
        """Return the schedules of the best complete trials, each once."""
        trials = {trial.number: trial for trial in standing.trials}
        found: dict[Schedule, None] = {}
        for place in forecast.known.argsort(kind="stable"):
            node = known[place]
            ended = (trials[number].schedule for number in node.trials)
            if not node.probe and node.trained and node.prefix in ended:
                found[node.prefix] = None
            if len(found) == BEST:
                break
        return list(found)

    def _in_training(self, standing: Standing) -> list[Trial]:
        running = (trial for trial in standing.trials if trial.state is State.RUNNING)
        return [trial for trial in running if trial.number not in standing.waiting]

    def _forecast(self, known: Sequence[Node]) -> Forecast:
        """Forecast from stage runs; one that failed counts as the worst of the others.

        The latest is cached: an outlook and the next decision use the same one.
        """
        shortfalls = np.array([self._shortfall(node) for node in known])
        told = tuple(f"{node.key} {found}" for node, found in zip(known, shortfalls, strict=True))
        if told not in self._latest:
            worst = shortfalls[shortfalls < math.inf].max()
            points = [self._point(node) for node in known]
            self._latest.clear()
            self._latest[told] = Forecast(points, np.minimum(shortfalls, worst))
        return self._latest[told]

    def _known(self, standing: Standing) -> list[Node]:
        """Return the stage runs to model, the most informative ones if there are many."""
        self._done.learn(standing)
        nodes = [n for n in standing.tree if n.failed or self._shortfall(n) < math.inf]
        return [nodes[place] for place in to_model([self._shortfall(node) for node in nodes])]

    def _shortfall(self, node: Node) -> float:
        found = self._shortfalls.get(node.key, math.inf)
        if found == math.inf:
            found = shortfall_of(self.config.metric, node)
            self._shortfalls[node.key] = found
        return found

    def _pairs(self, known: Sequence[Node]) -> Iterator[tuple[float, float]]:
        """Yield shortfall and score of each."""
        for node in known:
            score = node.rank and self.config.metric.score_of(node.rank)
            if score is not None and not node.failed:
                yield self._shortfall(node), score

    def _point(self, node: Node) -> Point:
        if node.key not in self._points:
            self._points[node.key] = point_of(node.prefix, node.seed)
        return self._points[node.key]


def _end_of(option: Proposal) -> Point:
    return point_of(option.schedule, option.seed)


def explorer_of(config: StudyConfig, weights: str, photos: int) -> Explorer:
    """Return the explorer of a config's strategy; `photos` are the training photos."""
    match config.strategy:
        case Strategy.FORECAST:
            return Forecasting(config, weights, photos)
        case Strategy.ASHA:
            return Halving(config)
        case Strategy.INDEPENDENT | Strategy.GRID:
            return Independent(config)


def _line(shortfalls: Sequence[float], scores: Sequence[float]) -> tuple[float, float] | None:
    """Return intercept and slope of scores over shortfalls; None if there are too few."""
    if len(set(shortfalls)) < FEW:
        return None
    slope, intercept = np.polyfit(shortfalls, scores, 1)
    return float(intercept), float(slope)
