"""Stage runs of photos in folds that are stopped once the networks of the first folds have lost.

These are trained to the stage's end before the others. What they say of their photos is compared,
photo by photo, with what the best stage run so far says of the same ones: none of these networks
was trained on the photo.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from storage.records import Role, StageRun
from storage.store import Store
from study.config.schema import Strategy, StudyConfig
from study.searching.running_trial import RunningTrial
from study.stage_tree import StageTree
from study.statistics.groups import Groups, of_groups
from study.statistics.significance import p_value
from trainers.base import StageTask
from trainers.metrics import EpochMetrics, Evaluation, Metric
from trainers.schedule import Train
from trainers.temperature import calibrated_losses

FIRST = 2
"""After so many folds a stage run may be stopped."""

ALPHA = 0.02
"""How often one that is as good as the best would be, at most: one-sided, by its photos."""


def some_may_stop(config: StudyConfig, folds: int) -> bool:
    """Tell whether a search of so many folds may stop trials after the first ones."""
    return folds > FIRST and config.strategy in (Strategy.FORECAST, Strategy.ASHA)


@dataclass(frozen=True)
class Beaten:
    """What a stage run came to on the photos of its first folds, which the best is better at."""

    score: float
    loss: float
    seconds: float


class FirstFolds:
    """The stage runs of which the networks of the first folds are trained now.

    `fold_of` is the fold of each validation photo, (n,), None where there are none.
    """

    def __init__(
        self,
        store: Store,
        config: StudyConfig,
        labels: NDArray[np.int64],
        groups: Groups | None,
        fold_of: NDArray[np.int64] | None,
    ) -> None:
        self._store, self._config, self._labels = store, config, labels
        self._folds = 0 if fold_of is None else int(fold_of.max()) + 1
        self._inside = np.zeros(len(labels), np.bool_) if fold_of is None else fold_of < FIRST
        of_inside = None if groups is None else np.unique(groups[self._inside], return_inverse=True)
        self._groups = None if of_inside is None else of_inside[1]
        self._training: dict[str, tuple[StageTask, dict[int, EpochMetrics]]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._training

    @property
    def why(self) -> str:
        """Why a stage run was stopped, for people."""
        return f"beaten after {FIRST} of {self._folds} folds"

    @property
    def share(self) -> float:
        """Their share of all folds."""
        return FIRST / self._folds

    def may_stop(self, running: RunningTrial) -> bool:
        """Tell whether a trial ends where its stage at hand is beaten.

        Not where more stages may make up for it, nor what was given or is repeated.
        """
        trial, stages = running.trial, running.trial.schedule.stages
        last = running.position == len(stages) - 1 and stages[-1].train is not Train.PROBE
        return some_may_stop(self._config, self._folds) and trial.role is Role.EXPLORE and last

    def begin(
        self, running: RunningTrial, run: StageRun, task: StageTask, tree: StageTree
    ) -> StageTask:
        """Return the task to begin with: of the first folds alone, where they may decide."""
        known = any(node.trained for node in tree)
        if not (known and self.may_stop(running)) or self._store.epochs(run.id):
            return task
        self._training[run.key] = task, {}
        return replace(task, first_folds=FIRST)

    def learn(self, key: str, epoch: EpochMetrics) -> None:
        """Learn an epoch of the first folds, or again what a worker that died had told."""
        self._training[key][1][epoch.epoch] = epoch

    def forget(self, key: str) -> None:
        """Forget what has failed."""
        self._training.pop(key, None)

    def end(self, key: str, study_id: int, tree: StageTree) -> tuple[StageTask, Beaten | None]:
        """Return the task for all folds, and whether it is beaten by what the first came to."""
        task, epochs = self._training.pop(key)
        metric, rival = self._config.metric, self._rival(study_id, tree)
        best = min(epochs.values(), key=lambda epoch: epoch.rank(metric)).calibrated(metric)
        loss, score = best.calibrated_loss, best.score(metric)
        if rival is None or loss is None or not np.isfinite(score):
            return task, None
        if not is_beaten(best.evaluation, rival, metric, self._groups):
            return task, None
        return task, Beaten(score, loss, sum(epoch.seconds for epoch in epochs.values()))

    def _rival(self, study_id: int, tree: StageTree) -> Evaluation | None:
        """Return what the best stage run says of the photos of the first folds, if all is kept."""
        node = min((node for node in tree if node.rank), key=lambda each: each.rank or (0.0, 0.0))
        run = self._store.stage_run(study_id, node.key)
        if run is None:
            return None
        epoch = min(self._store.epochs(run.id), key=lambda each: each.rank(self._config.metric))
        place = run.id, epoch.epoch
        found = self._store.readable_predictions([place], self._labels).get(place)
        if found is None or found.probabilities is None:
            return None
        return Evaluation(self._labels[self._inside], found.probabilities[self._inside])


def is_beaten(
    own: Evaluation, rival: Evaluation, metric: Metric, groups: Groups | None = None
) -> bool:
    """Tell whether predictions are worse than others of the same n photos beyond their luck.

    By calibrated log losses, paired; not where they are better by the metric.
    """
    labels = own.labels
    losses = [_losses(each, metric) for each in (rival, own)]
    best, this = (of_groups(-each, groups)[None] for each in losses)
    gained = [
        metric.gains(labels, each.probabilities.argmax(axis=1), loss).mean()
        for each, loss in zip((rival, own), losses, strict=True)
    ]
    worse = best.mean() > this.mean() and gained[0] >= gained[1]
    return bool(worse and p_value(best, this, 0.0, 0) / 2 < ALPHA)


def _losses(evaluation: Evaluation, metric: Metric) -> NDArray[np.float64]:
    labels, kept = evaluation.labels, evaluation.probabilities.astype(np.float16)
    weights = 1 / np.bincount(labels)[labels] if metric.classes_alike else None
    found = calibrated_losses(labels, kept.astype(np.float32), weights)
    return found if weights is None else found * weights / weights.mean()
