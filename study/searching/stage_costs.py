"""The expected time of a stage run, from the times of others. Pure."""

from collections import defaultdict
from collections.abc import Iterable
from statistics import median

from study.searching.work import Work, work_of
from trainers.schedule import Schedule, Train

UNKNOWN = 1.0
"""Seconds assumed for a stage run before anything was measured."""


class StageCosts:
    """Expected seconds of stage runs; `measured` are the schedules up to them, with theirs."""

    def __init__(self, photos: int, measured: Iterable[tuple[Schedule, float]] = ()) -> None:
        self._photos = photos
        self._epochs: dict[Work, list[float]] = defaultdict(list)
        self._prices: dict[Train, list[float]] = defaultdict(list)
        self._medians: dict[Work | Train, float] = {}  # until more is known
        for prefix, seconds in measured:
            self.learn(prefix, seconds / prefix.stages[-1].epochs)

    def learn(self, prefix: Schedule, seconds: float, times: int = 1) -> None:
        """Add measured seconds per epoch of the last stage, with a number of epochs."""
        work, train = self._work(prefix), prefix.stages[-1].train
        self._epochs[work] += [seconds] * times
        self._prices[train] += [seconds / _pixels(work)] * times
        for key in (work, train):
            self._medians.pop(key, None)

    def seconds(self, prefix: Schedule) -> float:
        """Return the expected seconds of the last stage.

        It is the time of stages of that kind; if there was none, the cost per pixel in others.
        """
        work, stage = self._work(prefix), prefix.stages[-1]
        if work in self._epochs:
            return stage.epochs * self._median(work, self._epochs[work])
        if stage.train not in self._prices:
            return UNKNOWN
        price = self._median(stage.train, self._prices[stage.train])
        return stage.epochs * price * _pixels(work)

    def rough(self, prefix: Schedule) -> float:
        """Return the same costs, but kinds that were never trained by a probe's cost per pixel.

        A probe passes each training photo forward twice, once mirrored, and those of validation:
        about the cost of one step forward and backward.
        """
        train = prefix.stages[-1].train
        if train is Train.PROBE or train in self._prices or Train.PROBE not in self._prices:
            return self.seconds(prefix)
        probe = self._median(Train.PROBE, self._prices[Train.PROBE])
        return prefix.stages[-1].epochs * probe * _pixels(self._work(prefix))

    def _median(self, key: Work | Train, found: list[float]) -> float:
        if key not in self._medians:
            self._medians[key] = median(found)
        return self._medians[key]

    def _work(self, prefix: Schedule) -> Work:
        return work_of(prefix, len(prefix.stages) - 1, self._photos)


def _pixels(work: Work) -> float:
    """Return how many pixels of a photo pass through the trained part in an epoch."""
    return float(work.passes * work.image_size**2 * (1 - work.frozen / 2))
