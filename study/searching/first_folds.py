"""Stage runs of photos in folds that are stopped once the networks of the first folds have lost.

These are trained to the stage's end before the others. What they say of their photos is compared,
photo by photo, with what the best stage run so far says of the same ones; a repeat's gains, with
those of the race's leader. None of these networks was trained on the photo.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from storage.records import Role, StageRun
from storage.store import Store
from study.config.schema import Strategy, StudyConfig
from study.searching.policy import Policy, Standing
from study.searching.race_scores import Outcomes, Photos
from study.searching.racing import Race
from study.searching.running_trial import RunningTrial
from study.stage_tree import Node, StageTree
from study.statistics.groups import Groups, of_groups
from study.statistics.significance import p_value
from trainers.base import StageTask
from trainers.metrics import EpochMetrics, Evaluation, Metric
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

    `fold_of` is the fold of each of the labels of the validation `photos`, (n,), None where there
    are none. `policy` says which races there are, in which `outcomes` count.
    """

    def __init__(
        self,
        store: Store,
        config: StudyConfig,
        policy: Policy,
        photos: Photos,
        fold_of: NDArray[np.int64] | None,
    ) -> None:
        self._store, self._config, self._policy = store, config, policy
        self._folds = 0 if fold_of is None else int(fold_of.max()) + 1
        self._photos, self._labels = None, photos.labels
        if fold_of is not None and self._folds > FIRST:
            self._photos = photos.within(fold_of < FIRST)
        self.outcomes = Outcomes(store, config.metric, photos, self._photos)
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

    def was_stopped(self, running: RunningTrial, node: Node | None) -> bool:
        """Tell whether a trial ends with its stage at hand, which was stopped before.

        A repeat trains what others were stopped at: without weak seeds, its mean would be too high.
        """
        if node is None or node.trained or not node.stopped:
            return False
        if running.trial.role is Role.REPEAT:
            return node.trials[0] == running.trial.number
        return self._explores(running)

    def begin(
        self, running: RunningTrial, run: StageRun, task: StageTask, standing: Standing
    ) -> StageTask:
        """Return the task to begin with: of the first folds alone, where they may decide."""
        known = any(node.trained for node in standing.tree)
        may_stop = self._race(running, standing) or (known and self._explores(running))
        if not may_stop or self._store.epochs(run.id):
            return task
        self._training[run.key] = task, {}
        return replace(task, first_folds=FIRST)

    def learn(self, key: str, epoch: EpochMetrics) -> None:
        """Learn an epoch of the first folds, or again what a worker that died had told."""
        self._training[key][1][epoch.epoch] = epoch

    def forget(self, key: str) -> None:
        """Forget what has failed."""
        self._training.pop(key, None)

    def end(
        self, sharing: Sequence[RunningTrial], run: StageRun, standing: Standing
    ) -> tuple[StageTask, Beaten | None]:
        """Return the task for all folds, and whether it is beaten by what the first came to."""
        task, epochs = self._training.pop(run.key)
        metric = self._config.metric
        best = min(epochs.values(), key=lambda epoch: epoch.rank(metric)).calibrated(metric)
        loss, score = best.calibrated_loss, best.score(metric)
        if loss is None or not np.isfinite(score):
            return task, None
        if not all(self._has_lost(each, best.evaluation, run, standing) for each in sharing):
            return task, None
        return task, Beaten(score, loss, sum(epoch.seconds for epoch in epochs.values()))

    def _has_lost(
        self, running: RunningTrial, own: Evaluation, run: StageRun, standing: Standing
    ) -> bool:
        if self._explores(running):
            rival = self._rival(run.study_id, standing.tree)
            groups = self._photos.groups if self._photos else None
            return rival is not None and is_beaten(own, rival, self._config.metric, groups)
        race = self._race(running, standing)
        if race is None:
            return False
        before = None
        if running.best is not None and running.best_run is not None:
            before = running.best_run.id, running.best.epoch
        return race.is_lost(self.outcomes.of_first(own, before))

    def _explores(self, running: RunningTrial) -> bool:
        """Tell whether a trial of the exploration ends where its stage at hand is beaten.

        Not where more stages may make up for it, nor what was given.
        """
        explores = running.trial.role is Role.EXPLORE
        return explores and some_may_stop(self._config, self._folds) and running.in_last_stage

    def _race(self, running: RunningTrial, standing: Standing) -> Race | None:
        """Return the race that a trial may lose by its stage at hand, if there is one."""
        some = self._photos is not None and running.in_last_stage
        return self._policy.race(running.trial, standing) if some else None

    def _rival(self, study_id: int, tree: StageTree) -> Evaluation | None:
        """Return what the best stage run says of the photos of the first folds, if all is kept."""
        node = min((node for node in tree if node.rank), key=lambda each: each.rank or (0.0, 0.0))
        run = self._store.stage_run(study_id, node.key)
        if run is None or self._photos is None:
            return None
        epoch = min(self._store.epochs(run.id), key=lambda each: each.rank(self._config.metric))
        place = run.id, epoch.epoch
        found = self._store.readable_predictions([place], self._labels).get(place)
        if found is None or found.probabilities is None:
            return None
        mine = self._photos.inside
        halves = found.probabilities[mine].astype(np.float16)
        return Evaluation.kept(self._photos.labels, found.predicted[mine], halves)


def is_beaten(
    own: Evaluation, rival: Evaluation, metric: Metric, groups: Groups | None = None
) -> bool:
    """Tell whether predictions are worse than others of the same n photos beyond their luck.

    By calibrated log losses, paired; not where they are better by the metric.
    """
    labels, both = own.labels, (rival, own)
    weights = 1 / np.bincount(labels)[labels] if metric.classes_alike else np.ones(len(labels))
    losses = [_losses(each, weights) for each in both]
    best, this = (of_groups(-each * weights / weights.mean(), groups)[None] for each in losses)
    gained = [
        metric.gains(labels, each.predicted, loss).mean()
        for each, loss in zip(both, losses, strict=True)
    ]
    worse = best.mean() > this.mean() and gained[0] >= gained[1]
    return bool(worse and p_value(best, this, 0.0, 0) / 2 < ALPHA)


def _losses(evaluation: Evaluation, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    kept = evaluation.probabilities.astype(np.float16).astype(np.float32)
    return calibrated_losses(evaluation.columns, kept, weights)
