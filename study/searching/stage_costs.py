"""What a stage run will take, by what others took. Pure."""

from collections import defaultdict
from collections.abc import Iterable
from statistics import median

from study.searching.work import Work, work_of
from trainers.schedule import Schedule, Train

UNKNOWN = 1.0
"""Seconds that a stage run takes as long as nothing was measured: all are alike then."""


class StageCosts:
    """Expected seconds of stage runs; `measured` are the schedules up to them, with theirs."""

    def __init__(self, photos: int, measured: Iterable[tuple[Schedule, float]] = ()) -> None:
        self._photos = photos
        self._epochs: dict[Work, list[float]] = defaultdict(list)
        self._prices: dict[Train, list[float]] = defaultdict(list)
        self._medians: dict[Work | Train, float] = {}  # of both, until more is learned
        for prefix, seconds in measured:
            self.learn(prefix, seconds / prefix.stages[-1].epochs)

    def learn(self, prefix: Schedule, seconds: float, times: int = 1) -> None:
        """Learn what an epoch of the last stage took, so many times."""
        work, train = self._work(prefix), prefix.stages[-1].train
        self._epochs[work] += [seconds] * times
        self._prices[train] += [seconds / _pixels(work)] * times
        for key in (work, train):
            self._medians.pop(key, None)

    def seconds(self, prefix: Schedule) -> float:
        """Return what the last stage is expected to take.

        It is what such stages took; where there was none, what its pixels cost in others.
        """
        work, stage = self._work(prefix), prefix.stages[-1]
        if work in self._epochs:
            return stage.epochs * self._median(work, self._epochs[work])
        if stage.train not in self._prices:
            return UNKNOWN
        price = self._median(stage.train, self._prices[stage.train])
        return stage.epochs * price * _pixels(work)

    def rough(self, prefix: Schedule) -> float:
        """Return the same, but what was never trained by what its pixels cost in a probe.

        It passes each training photo forward twice, as it is and mirrored, and those of validation:
        that comes to about one step forward and backward.
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
    """Return how many pixels of a photo pass through what trains, in an epoch."""
    return float(work.passes * work.image_size**2 * (1 - work.frozen / 2))
