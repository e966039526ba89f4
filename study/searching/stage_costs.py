"""What a stage run will take, by what others took. Pure."""

from collections import defaultdict
from collections.abc import Iterable
from statistics import median

from study.searching.work import Work, work_of
from trainers.schedule import Schedule, Train

UNKNOWN = 1.0
"""Seconds that a stage run takes as long as nothing was measured: all are alike then."""

BACKWARD = 3.0
"""A step forward and backward costs so many times what one forward costs."""


class StageCosts:
    """Expected seconds of stage runs; `measured` are the schedules up to them, with theirs."""

    def __init__(self, photos: int, measured: Iterable[tuple[Schedule, float]]) -> None:
        self._photos = photos
        epochs: dict[Work, list[float]] = defaultdict(list)
        prices: dict[Train, list[float]] = defaultdict(list)
        for prefix, seconds in measured:
            work, stage = self._work(prefix), prefix.stages[-1]
            epochs[work].append(seconds / stage.epochs)
            prices[stage.train].append(seconds / stage.epochs / _pixels(work))
        self._epochs = {work: median(found) for work, found in epochs.items()}
        self._prices = {train: median(found) for train, found in prices.items()}

    def seconds(self, prefix: Schedule) -> float:
        """Return what the last stage is expected to take.

        It is what such stages took; where there was none, what its pixels cost in others.
        """
        work, stage = self._work(prefix), prefix.stages[-1]
        if work in self._epochs:
            return stage.epochs * self._epochs[work]
        price = self._prices.get(stage.train)
        return UNKNOWN if price is None else stage.epochs * price * _pixels(work)

    def rough(self, prefix: Schedule) -> float:
        """Return the same, but what was never trained by what its pixels cost in a probe.

        A probe passes them forward alone.
        """
        train = prefix.stages[-1].train
        probe = self._prices.get(Train.PROBE)
        if train is Train.PROBE or train in self._prices or probe is None:
            return self.seconds(prefix)
        return prefix.stages[-1].epochs * BACKWARD * probe * _pixels(self._work(prefix))

    def _work(self, prefix: Schedule) -> Work:
        return work_of(prefix, len(prefix.stages) - 1, self._photos)


def _pixels(work: Work) -> float:
    """Return how many pixels of a photo pass through what trains, in an epoch."""
    return float(work.passes * work.image_size**2 * (1 - work.frozen / 2))
