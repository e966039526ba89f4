"""What each validation photo came to under each fresh seed, as races are decided by."""

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from storage.records import Role, State, Trial
from storage.store import Store
from study.racing import Gains, gains
from trainers.metrics import Metric


class Outcomes:
    """Collects the gains of repeats, by schedule digest. `labels` are of validation, int64 (n,)."""

    def __init__(self, store: Store, metric: Metric, labels: NDArray[np.int64]) -> None:
        self._store = store
        self._metric = metric
        self._labels = labels
        self.by_schedule: dict[str, list[Gains]] = defaultdict(list)

    def learn(self, trial: Trial) -> None:
        """Read a trial's predictions, if it is a repeat that is complete.

        Exploration is left out: who was chosen for a lucky score there must not race with it.
        """
        if trial.role is not Role.REPEAT or trial.state is not State.COMPLETE:
            return
        if trial.best_stage_run is None or trial.best_epoch is None:
            return
        found = self._store.predictions(trial.best_stage_run, trial.best_epoch, self._labels)
        right = (found.predicted == self._labels).astype(float)
        p_true = found.true_probability.astype(float)
        gained = gains(self._metric, self._labels, right, p_true)
        self.by_schedule[trial.schedule_digest].append(gained)
