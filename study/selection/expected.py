"""Which stage run is expected to be the best, by all photos or by some of them.

The highest score is partly luck. A forecast combines it with the loss, and with the results of
similar stage runs.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage.records import StudyRecord
from storage.store import Store
from study.forecast import Forecast, point_of, shortfall, shortfall_of, to_model
from study.selection.candidates import Pool, best_epoch
from study.stage_tree import StageTree
from study.statistics.scoring import Inside
from trainers.metrics import Metric


@dataclass(frozen=True)
class Expected:
    """A forecast of trained stage runs: their `shortfalls` and calibrated `losses`, (n,).

    `places` maps a stage run's id to its index.
    """

    metric: Metric
    forecast: Forecast
    shortfalls: NDArray[np.float64]
    losses: NDArray[np.float64]
    places: dict[int, int]

    def of(self, run: int | None) -> float:
        """Return the expected shortfall of a stage run; infinite if it is unknown."""
        place = self.places.get(run or 0)
        return math.inf if place is None else float(self.forecast.known[place])

    def choose(self, pool: Pool, inside: Inside) -> NDArray[np.int64]:
        """Return which trial's best epoch each set of photos would choose, (B,).

        Other stage runs keep their shortfalls on all photos.
        """
        epochs = {best_epoch(trial) for same in pool.seeds.values() for trial in same}
        columns = np.array(sorted(pool.epochs[e] for e in epochs if e[0] in self.places))
        by_column = {column: run for (run, _), column in pool.epochs.items()}
        places = np.array([self.places[by_column[column] or 0] for column in columns])
        photos, losses = inside.sum(axis=0), pool.scorer.candidates.losses[columns]
        # The temperatures stay: the loss is assumed to change as without them.
        change, mean = losses @ inside / photos, losses.mean(axis=1, keepdims=True)
        change = np.divide(change, mean, out=np.ones_like(change), where=mean > 0)
        scores = pool.scorer.within(inside)[columns] * (1 if self.metric.higher_is_better else -1)
        told = np.repeat(self.shortfalls[:, None], inside.shape[1], axis=1)
        told[places] = shortfall(self.metric, scores, self.losses[places, None] * change)
        expected = self.forecast.smoothed(told)[places]
        return np.asarray(columns[expected.argmin(axis=0)], np.int64)


def expected_of(store: Store, study: StudyRecord) -> Expected | None:
    """Forecast a study's stage runs; None if none has a result."""
    ids = {run.key: run.id for run in store.stage_runs(study.id)}
    told = {node: shortfall_of(study.metric, node) for node in StageTree.of(store, study)}
    known = [node for node, found in told.items() if found < math.inf]
    if not known:
        return None
    known = [known[place] for place in to_model([told[node] for node in known])]
    shortfalls = np.array([told[node] for node in known])
    return Expected(
        metric=study.metric,
        forecast=Forecast([point_of(node.prefix, node.seed) for node in known], shortfalls),
        shortfalls=shortfalls,
        losses=np.array([node.outcome.loss for node in known if node.outcome], np.float64),
        places={ids[node.key]: place for place, node in enumerate(known)},
    )
