"""The gain of each validation photo under each fresh seed, by which races are decided."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage.predictions import StoredPredictions
from storage.records import Role, State, Trial
from storage.store import Store
from study.statistics.groups import Groups, of_groups
from study.statistics.significance import Gains
from trainers.metrics import Evaluation, Metric, negative_log


@dataclass(frozen=True, eq=False)
class Photos:
    """The photos that schedules are compared on.

    `labels` are int64 (n,), as are `groups`, where there are any. `inside` says which of all
    validation photos they are, bool; None for all.
    """

    labels: NDArray[np.int64]
    groups: Groups | None = None
    inside: NDArray[np.bool_] | None = None

    def within(self, inside: NDArray[np.bool_]) -> "Photos":
        """Return some of all photos, which part no group."""
        groups = self.groups
        if groups is not None:
            groups = np.unique(groups[inside], return_inverse=True)[1]
        return Photos(self.labels[inside], groups, inside)


class Outcomes:
    """Collects the gains of repeats, by schedule digest, on all validation photos.

    Where a repeat may be stopped after its first folds, `first` are their photos, and gains are
    collected on them as well.
    """

    def __init__(
        self, store: Store, metric: Metric, photos: Photos, first: Photos | None = None
    ) -> None:
        self._store, self._metric, self._photos, self._first = store, metric, photos, first
        self.by_schedule: dict[str, list[Gains | None]] = defaultdict(list)
        self.on_first: dict[str, list[Gains]] = defaultdict(list)
        self.stopped: dict[str, int] = {}

    def learn(self, trial: Trial) -> None:
        """Read the predictions of a repeat that has ended.

        None stands for one that failed or was stopped; `stopped` says at which seed of its
        schedule: the first, second, ... Trials of the exploration are excluded: their scores
        decided who the finalists are, and so are biased.
        """
        if trial.role is not Role.REPEAT or trial.state is State.RUNNING:
            return
        name, run, epoch = trial.schedule_digest, trial.best_stage_run, trial.best_epoch
        gained = None
        if trial.state is State.COMPLETE and run is not None and epoch is not None:
            found = self._store.predictions(run, epoch, self._photos.labels)
            gained = self._gains(found, self._photos)
            if self._first is not None:
                self.on_first[name].append(self._gains(found, self._first))
        self.by_schedule[name].append(gained)
        if trial.was_beaten:
            self.stopped.setdefault(name, len(self.by_schedule[name]))

    def of_first(self, own: Evaluation, before: tuple[int, int] | None) -> Gains:
        """Return the gains on the photos of the first folds of a repeat in training.

        They are those of its last stage's predictions of these photos or, if it was better, of the
        best epoch `before` that stage, (stage run's id, epoch).
        """
        if self._first is None:
            raise ValueError("photos must be in folds for some of them to be looked at")
        losses = own.losses(stored=True).astype(float)
        found = [self._worth(own.predicted, losses, self._first)]
        if before is not None:
            said = self._store.predictions(*before, self._photos.labels)
            found.append(self._gains(said, self._first))
        return max(found, key=np.mean)

    def _gains(self, found: StoredPredictions, photos: Photos) -> Gains:
        inside = slice(None) if photos.inside is None else photos.inside
        losses = negative_log(found.true_probability[inside].astype(float))
        return self._worth(found.predicted[inside], losses, photos)

    def _worth(
        self, predicted: NDArray[np.int64], losses: NDArray[np.float64], photos: Photos
    ) -> Gains:
        return of_groups(self._metric.gains(photos.labels, predicted, losses), photos.groups)
