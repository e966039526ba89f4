"""The gain of each validation photo under each fresh seed, by which races are decided."""

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from storage.records import Role, State, Trial
from storage.store import Store
from study.statistics.groups import Groups, of_groups
from study.statistics.significance import Gains
from trainers.metrics import Metric, negative_log


class Outcomes:
    """Collects the gains of repeats, by schedule digest.

    `labels` are those of the validation photos, int64 (n,), and `groups` theirs, where they have
    any.
    """

    def __init__(
        self,
        store: Store,
        metric: Metric,
        labels: NDArray[np.int64],
        groups: Groups | None = None,
    ) -> None:
        self._store = store
        self._metric = metric
        self._labels = labels
        self._groups = groups
        self.by_schedule: dict[str, list[Gains | None]] = defaultdict(list)

    def learn(self, trial: Trial) -> None:
        """Read the predictions of a repeat that has ended; None stands for one that failed.

        Trials of the exploration are excluded: their scores decided who the finalists are, and so
        are biased.
        """
        if trial.role is Role.REPEAT and trial.state is not State.RUNNING:
            self.by_schedule[trial.schedule_digest].append(self._gains(trial))

    def _gains(self, trial: Trial) -> Gains | None:
        if trial.state is not State.COMPLETE:
            return None
        if trial.best_stage_run is None or trial.best_epoch is None:
            return None
        found = self._store.predictions(trial.best_stage_run, trial.best_epoch, self._labels)
        losses = negative_log(found.true_probability.astype(float))
        gained = self._metric.gains(self._labels, found.predicted, losses)
        return of_groups(gained, self._groups)
