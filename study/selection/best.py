"""Use case `best`: choose among the weights of all runs, and evaluate the choice.

Reads rows only, so it is fast: no torch, no Optuna.
"""

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.errors import RowDamaged
from storage.paths import open_vault
from storage.predictions import StoredPredictions
from storage.records import Checkpoint, RankedTrial, Role, StudyRecord, Trial
from storage.store import Store, open_store
from storage.vault import Vault
from study.config.costs import Costs
from study.config.schema import StudyConfig
from study.errors import ConfigError, NothingToSelect
from study.formatting import path_text
from study.selection.candidates import Pool, best_epoch, gather
from study.selection.expected import Expected, expected_of
from study.selection.goals import goal_of
from study.selection.leaks import Leaks, shared_with_train
from study.selection.result import Asked, Mistake, ProbeFound, RunnerUp, Selection
from study.selection.schedule_ranking import ScheduleLine, rank_schedules
from study.selection.several_labels import LabelScores, judge_labels
from study.selection.thresholds import Operation, operate
from study.statistics.intervals import Limits, of_share
from study.statistics.selection_bias import BiasCorrected, By, Chooser, bias_corrected, chooser
from study.studies import check_kind, find_study, manifest_of, refuse_several
from trainers.data.manifest import Split
from trainers.files import replacing
from trainers.labels import GRADES
from trainers.metrics import ClassNumbers, confusion_matrix, per_class
from trainers.schedule import Train

FEWEST = 10
"""With fewer validation photos, or groups of them, there is no estimate for new ones."""


@dataclass(frozen=True)
class Ranked:
    """A trial with its score by the criterion, and the index of its candidate in the pool."""

    of: RankedTrial
    score: float
    column: int


def best(
    study: str | None = None,
    *,
    storage: str = StudyConfig().storage,
    asked: Asked | None = None,
    runners_up: int = 5,
) -> Selection:
    """Choose the best weights of a study (by default the one used last).

    Raises `NothingToSelect`, `StudyNotFound`, `ConfigError` and the database's errors.
    """
    with open_store(storage, create=False) as store:
        record = find_study(store, study)
        vault = open_vault(storage, record)
        return Selector(store, vault, record, asked or Asked()).select(runners_up)


def copy_weights(selection: Selection, folder: Path, unknown: float | None = None) -> Path:
    """Copy the chosen weights into a folder, atomically; return their path.

    The copy's card has the decision rule, if prices were set, which `predict` applies, and the rate
    of `unknown` photos, for which a reference has to be beside the copy. Raises `ConfigError` if
    that is impossible: the weights are not Encore's, or are already in that folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(selection.file)
    target = folder / source.name
    if target.resolve() == source.resolve():
        raise ConfigError(f"--copy-to must be another folder than that of {source}, got {folder}")
    try:
        with replacing(target) as temporary:
            changes: dict[str, Any] = dict(selection.rule)
            if changes.keys() == {"thresholds"} and not _has_card(source):
                changes = {}  # of a trainer of the user's own, whose weights carry none
            if unknown is not None:
                changes["unknown"] = unknown
            if changes:
                from trainers.card import copy_with

                copy_with(source, temporary, changes)
            else:
                shutil.copyfile(source, temporary)
    except ValueError as error:
        flag = "prices; drop --cost" if selection.operation else "a rate; drop --unknown"
        raise ConfigError(f"{error}, to be copied with {flag}") from None
    return target


def _has_card(weights: Path) -> bool:
    from trainers.card import read_card
    from trainers.errors import NotOurWeights

    try:
        read_card(weights)
    except NotOurWeights:
        return False
    return True


class Selector:
    """Chooses among all weights of a study."""

    def __init__(self, store: Store, vault: Vault, study: StudyRecord, asked: Asked) -> None:
        self._store = store
        self._vault = vault
        self._study = study
        self._criterion = asked.criterion or study.metric
        self._manifest = manifest_of(store, study)
        self._labels = self._manifest.labels(Split.VALID)
        classes = self._manifest.classes
        costs = Costs(**study.config.get("costs", {}))
        self._expected = self._forecast(asked)
        none = By.MAX if asked.by is By.FORECAST else asked.by or By.MAX
        self._by = By.FORECAST if self._expected else none
        check_kind(self._manifest, self._criterion)
        if asked.costs or asked.recalls or asked.reject_cost is not None:
            refuse_several(self._manifest, "--cost, --recall and --reject-cost", "drop them")
        self._goal = goal_of(costs, asked.costs, asked.recalls, asked.reject_cost, classes)

    def select(self, runners_up: int) -> Selection:
        """Choose the best intact file; `NothingToSelect` if there is none."""
        pool = gather(self._store, self._study, self._manifest, self._criterion, self._goal)
        lines = rank_schedules(pool, self._by, self._store.seconds_by_trial(self._study.id))
        ranking = self._ranking(pool, lines)
        winner, others, damaged = self._first_whole(ranking)
        probe = self._probe(ranking)
        return self._selection(winner, others[:runners_up], damaged, pool, lines, probe)

    def _ranking(self, pool: Pool, lines: Sequence[ScheduleLine]) -> list[Ranked]:
        """Return the trials that have weights, or should have, the best first."""
        deleted = {(d.stage_run_id, d.epoch) for d in self._store.deletions(self._study.id)}
        places = {line.digest: place for place, line in enumerate(lines)}
        rows = np.arange(len(self._labels))
        sign = -1 if self._criterion.higher_is_better else 1
        found = []
        for place, ranked in enumerate(self._store.ranking(self._study)):
            trial, epoch = ranked.trial, best_epoch(ranked.trial)
            column = pool.epochs.get(epoch)
            if trial.schedule_digest not in places:  # its predictions cannot be read
                continue
            # A loss that is not a number is None, and cannot be ranked.
            if column is None or trial.loss is None or (not ranked.checkpoint and epoch in deleted):
                continue
            score = trial.score
            if score is None or self._criterion.value != self._study.metric.value:
                score = pool.scorer.score(np.full(len(rows), column), rows)
            first = self._first(trial, places)
            # Equal scores keep the order of the study's own ranking: by its metric, then by loss.
            found.append(((first, sign * score, place), Ranked(ranked, score, column)))
        return [ranked for _, ranked in sorted(found, key=lambda pair: pair[0])]

    def _forecast(self, asked: Asked) -> Expected | None:
        """Forecast the stage runs, unless another choice is requested or there are none."""
        if asked.by is By.FORECAST and asked.criterion is not None:
            raise ConfigError(
                f"--by forecast forecasts the study's own metric alone, got --metric "
                f"{asked.criterion}; drop one of them, or give --by max"
            )
        if asked.by not in (None, By.FORECAST) or asked.criterion is not None:
            return None
        return expected_of(self._store, self._study)

    def _first(self, trial: Trial, places: Mapping[str, int]) -> float:
        """Return the sort key that precedes a trial's score."""
        if self._expected is not None:
            return self._expected.of(trial.best_stage_run)
        return places[trial.schedule_digest] if self._by in (By.MEAN, By.LCB) else 0.0

    def _chooser(self, pool: Pool) -> Chooser:
        if self._expected is not None:
            return partial(self._expected.choose, pool)
        return chooser(pool.scorer, pool.trials, self._by)

    def _first_whole(self, ranking: Sequence[Ranked]) -> tuple[Ranked, list[Ranked], list[str]]:
        """Return the first trial with an intact file, those after it, and those before.

        Trials may share a stage run, and so a file: it counts once.
        """
        damaged: dict[str, None] = {}
        for place, ranked in enumerate(ranking):
            kept = ranked.of.checkpoint
            if kept is not None and self._vault.verify(kept.path, kept.sha256, kept.size):
                others = {r.of.checkpoint: r for r in reversed(ranking[place:]) if r.of.checkpoint}
                del others[kept]
                after = [r for r in ranking if (c := r.of.checkpoint) and others.get(c) is r]
                return ranked, after, list(damaged)
            damaged[kept.path if kept else f"trial {ranked.of.trial.number}"] = None
        if not damaged:
            raise NothingToSelect(
                f"no trial of study {self._study.name!r} has finished yet; let the search run on"
            )
        raise NothingToSelect(
            f"study {self._study.name!r} has no intact weights file left: {len(damaged)} are "
            "missing or changed; restore them, or search again under another --study"
        )

    def _selection(
        self,
        winner: Ranked,
        others: Sequence[Ranked],
        damaged: Sequence[str],
        pool: Pool,
        lines: Sequence[ScheduleLine],
        probe: ProbeFound | None,
    ) -> Selection:
        trial, kept = winner.of.trial, winner.of.checkpoint
        if kept is None or trial.loss is None:
            raise ValueError(f"winner must have weights and a score, got trial {trial.number}")
        manifest, labels = self._manifest, self._labels
        predictions = self._store.predictions(kept.stage_run_id, kept.epoch, labels)
        wrong = predictions.predicted != labels
        numbers, confusion = self._by_class(predictions)
        schedules = {line.digest: line for line in lines}
        own = schedules[trial.schedule_digest]
        runs = self._store.stage_runs_of(trial.id)
        return Selection(
            study=self._study.name,
            trial=trial.number,
            seed=trial.seed,
            file=self._shown(kept),
            sha256=kept.sha256,
            metric=self._criterion,
            by=self._by,
            score=winner.score,
            bias_corrected=self._corrected(pool, winner.column),
            loss=trial.loss,
            errors=int(wrong.sum()),
            n_valid=len(manifest.of_split(Split.VALID)),
            several=self._several(predictions) if manifest.n_questions > 1 else None,
            off=_off(predictions.predicted - labels) if manifest.kind is GRADES else None,
            n_groups=manifest.n_groups(Split.VALID),
            folds=manifest.folds,
            classes=manifest.classes,
            per_class=tuple(numbers),
            confusion=confusion,
            mistakes=tuple(self._mistakes(predictions)),
            schedule=trial.schedule.to_dict(),
            schedule_digest=trial.schedule_digest,
            stage=next(run.position for run in runs if run.id == kept.stage_run_id),
            epoch=kept.epoch,
            schedule_mean=own.mean,
            schedule_spread=own.spread,
            seed_scores=own.scores,
            trials=self._store.count_trials(self._study.id),
            runners_up=tuple(self._runner_up(each, schedules) for each in others),
            schedules=tuple(lines),
            probe=probe,
            goal=self._goal,
            operation=self._operation(predictions, pool),
            damaged=(*damaged, *pool.damaged),
            leaks=self._leaks(pool, winner.column, wrong),
            recall_intervals=tuple(self._recalls(~wrong)),
        )

    def _by_class(
        self, predictions: StoredPredictions
    ) -> tuple[Sequence[ClassNumbers], list[list[int]]]:
        """Return the numbers of each class or label, and the rows of the confusion."""
        confusion = confusion_matrix(self._labels, predictions.predicted, self._manifest.n_answers)
        numbers, questions = per_class(confusion), self._manifest.n_questions
        if questions == 1:
            return numbers, confusion.tolist()
        firsts = range(0, 2 * questions, 2)
        return numbers[1::2], [confusion[i : i + 2, i : i + 2].ravel().tolist() for i in firsts]

    def _several(self, predictions: StoredPredictions) -> LabelScores:
        groups, questions = self._manifest.groups(Split.VALID), self._manifest.n_questions
        told = predictions.predicted, predictions.true_probability
        return judge_labels(self._labels, *told, questions, groups)

    def _mistakes(self, predictions: StoredPredictions) -> Iterator[Mistake]:
        manifest = self._manifest
        photos, names = manifest.of_split(Split.VALID), manifest.kind.names(manifest.classes)
        for i in np.flatnonzero(predictions.predicted != self._labels).tolist():
            yield Mistake(
                photos[i // manifest.n_questions].path,
                names[self._labels[i]],
                names[predictions.predicted[i]],
                float(predictions.confidence[i]),
            )

    def _runner_up(self, ranked: Ranked, schedules: Mapping[str, ScheduleLine]) -> RunnerUp:
        trial = ranked.of.trial
        return RunnerUp(
            trial=trial.number,
            seed=trial.seed,
            score=ranked.score,
            schedule_mean=schedules[trial.schedule_digest].mean,
            file=self._shown(ranked.of.checkpoint),
        )

    def _recalls(self, right: NDArray[np.bool_]) -> Iterator[Limits]:
        """Yield the interval of each class's recall."""
        groups = self._manifest.groups(Split.VALID)
        several = self._manifest.n_questions > 1
        for label in range(int(several), self._manifest.n_answers, 1 + several):
            own = self._labels == label
            within = None if groups is None else np.unique(groups[own], return_inverse=True)[1]
            yield of_share(right[own], within) if own.any() else (0.0, 1.0)

    def _probe(self, ranking: Sequence[Ranked]) -> ProbeFound | None:
        """Return the best of the probes that the search began with."""
        begun_with = [r for r in ranking if r.of.trial.role is Role.PRESET]
        probes = [r for r in begun_with if len(r.of.trial.schedule.stages) == 1]
        probes = [r for r in probes if r.of.trial.schedule.stages[0].train is Train.PROBE]
        if not probes:
            return None
        sign = -1 if self._criterion.higher_is_better else 1
        found = min(probes, key=lambda ranked: sign * ranked.score)
        trial = found.of.trial
        (predictions,) = self._store.predictions_of([best_epoch(trial)], self._labels)
        return ProbeFound(
            trial=trial.number,
            image_size=trial.schedule.stages[0].image_size,
            score=found.score,
            errors=int(np.count_nonzero(predictions.predicted != self._labels)),
        )

    def _corrected(
        self, pool: Pool, column: int, judged: NDArray[np.int64] | None = None
    ) -> BiasCorrected | None:
        scored = pool.scorer if judged is None else pool.scorer.of(judged)
        if scored.candidates.n_independent < FEWEST:
            return None
        return bias_corrected(pool.scorer, self._chooser(pool), column, judged=judged)

    def _leaks(self, pool: Pool, column: int, wrong: NDArray[np.bool_]) -> Leaks | None:
        """Score the chosen weights without the photos that are in train, too."""
        shared = shared_with_train(self._store, self._study, self._manifest)
        if not shared.photos:
            return None
        asked = self._manifest.n_questions
        clean = np.flatnonzero(~np.repeat(shared.mask, asked))
        score = pool.scorer.score(np.full(len(clean), column), clean) if len(clean) else math.nan
        told = math.isfinite(score)  # an area under the curve needs photos of both kinds
        return Leaks(
            photos=shared.photos,
            at_least=shared.at_least,
            n_valid=len(clean) // asked,
            errors=int(wrong[clean].sum()),
            score=score if told else None,
            bias_corrected=self._corrected(pool, column, clean) if told else None,
        )

    def _operation(self, predictions: StoredPredictions, pool: Pool) -> Operation | None:
        if self._goal is None:
            return None
        epochs, choose = list(pool.epochs), self._chooser(pool)

        def chosen(inside: NDArray[np.bool_]) -> list[NDArray[np.float32]]:
            winners = [epochs[column] for column in choose(inside.T.astype(np.float32))]
            return [_whole(each) for each in self._store.predictions_of(winners, self._labels)]

        groups = pool.scorer.candidates.groups
        return operate(self._labels, _whole(predictions), self._goal, chosen=chosen, groups=groups)

    def _shown(self, kept: Checkpoint | None) -> str:
        if kept is None:
            return ""
        try:
            return path_text(self._vault.path(kept.path))
        except RowDamaged:  # a runner-up's, which was not checked yet
            return kept.path


def _off(differences: NDArray[np.int64]) -> tuple[int, ...]:
    """Count the photos whose grade is 0, 1, 2, ... away."""
    return tuple(np.bincount(np.abs(differences)).tolist())


def _whole(found: StoredPredictions) -> NDArray[np.float32]:
    """Return all probabilities, (n, C); a custom trainer may have yielded NaN."""
    if found.probabilities is None:
        raise NothingToSelect(
            "a decision rule needs the probabilities of all classes, which are not stored for so "
            "many photos and classes; drop --cost, --recall and --reject-cost"
        )
    return np.nan_to_num(found.probabilities)
