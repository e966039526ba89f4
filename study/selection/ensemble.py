"""Use case `ensemble`: a greedy ensemble over stored predictions, and its gain.

Reads rows only, so it is fast: no torch, no photo. The gain is cross-fitted (see
`study.statistics.crossfit`): the files, the ensemble of them and the single file for comparison are
all chosen without the photos that score them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from storage.paths import open_vault
from storage.records import Checkpoint, StudyRecord, Trial
from storage.store import open_store
from storage.vault import Vault
from study.config.schema import StudyConfig
from study.errors import NothingToSelect
from study.formatting import path_text
from study.selection.choosable import Choosable, choosable
from study.selection.kept_weights import kept_weights
from study.statistics.crossfit import (
    ENTRIES,
    CrossFit,
    Labels,
    Table,
    compare,
    errors_of,
    score,
)
from study.statistics.folds import folds_of
from study.statistics.scoring import Candidates, Scorer
from study.studies import find_study, manifest_of
from trainers.metrics import Evaluation, Metric, columns_of

FOLDS, PARTINGS = 5, 10


@dataclass(frozen=True)
class Member:
    """A weights file of an ensemble, with weight `count` in the mean."""

    trial: int
    seed: int
    stage_run: int
    epoch: int
    file: str
    sha256: str
    count: int


@dataclass(frozen=True)
class EnsembleResult:
    """The result of `ensemble`. `score`, `loss` and `errors` are optimistic: see `CrossFit`.

    `single_score` and `single_errors` are those of the best file alone, `single_trial`'s, on the
    same photos and as optimistic. `damaged` names files that are missing or changed. Where photos
    have several, errors are of so many `labels` of all photos, each there or not.
    """

    study: str
    metric: Metric
    size: int
    members: tuple[Member, ...]
    score: float
    loss: float
    errors: int
    n_valid: int
    single_trial: int
    single_score: float
    single_errors: int
    cross: CrossFit
    candidates: int
    damaged: tuple[str, ...]
    labels: int | None = None


def ensemble(
    study: str | None = None, *, storage: str = StudyConfig().storage, size: int = 5
) -> EnsembleResult:
    """Choose up to `size` weights files, with repetition, whose mean prediction is the best.

    Raises `NothingToSelect`, `StudyNotFound` and the database's errors.
    """
    with open_store(storage, create=False) as store:
        record = find_study(store, study)
        vault = open_vault(storage, record)
        kept, damaged = kept_weights(store, vault, record)
        if len(kept) < 2:
            raise NothingToSelect(
                f"an ensemble needs at least 2 weights files, study {record.name!r} has "
                f"{len(kept)}; let the search run on, or raise --keep"
            )
        could = choosable(store, record, manifest_of(store, record), kept)
        return _result(vault, record, kept, damaged, could, size)


def greedy(
    probabilities: Table, labels: Labels, size: int, metric: Metric = Metric.ACCURACY
) -> tuple[int, ...]:
    """Choose members of an ensemble, with repeats, from M tables of probabilities (M, n, C).

    Caruana, Niculescu-Mizil, Crew and Ksikes, "Ensemble selection from libraries of models" (ICML
    2004): each step adds the member with which the mean is best, and the best of the nested
    ensembles of 1 to `size` members is returned. Best by `metric`, ties by log loss, then by order.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 member, got {size}")
    columns, asked = (
        columns_of(labels, probabilities),
        Evaluation(labels, probabilities[0]).questions,
    )
    true, n_classes = probabilities[:, np.arange(len(labels)), columns], probabilities.shape[2]
    total, total_true = np.zeros_like(probabilities[0]), np.zeros_like(true[0])
    members: list[int] = []
    ranks: list[tuple[float, float]] = []
    for count in range(1, size + 1):
        predicted = _predicted(total, probabilities) + labels - columns
        p_true = ((total_true + true) / count).astype(np.float64)
        candidates = Candidates(labels, asked * n_classes, predicted, p_true, questions=asked)
        best, rank = Scorer(candidates, metric).first()
        members.append(best)
        ranks.append(rank)
        total, total_true = total + probabilities[best], total_true + true[best]
    return tuple(members[: ranks.index(min(ranks)) + 1])


def cross_fitted(found: Choosable, size: int, metric: Metric, seed: int = 0) -> CrossFit:
    """Estimate the gain of choosing an ensemble over choosing a single file.

    In each fold, the photos of the other folds decide which files are kept, which of these form the
    ensemble and which is the single one; both predictions for the fold's own photos are pooled over
    all folds. With fewer photos to choose by, both are as good or slightly worse. The split into
    folds is random, so it is repeated `PARTINGS` times.
    """
    labels, candidates = found.labels, found.scorer.candidates
    n_classes = candidates.n_classes // candidates.questions
    together, alone = np.empty((2, PARTINGS, len(labels), n_classes), np.float32)
    for parting in range(PARTINGS):
        folds = np.stack(folds_of(labels, FOLDS, seed + parting, found.groups))
        for fold, kept in zip(folds, found.kept((~folds).T.astype(np.float32)), strict=True):
            tables = found.read(kept)
            members = list(greedy(tables[:, ~fold], labels[~fold], size, metric))
            together[parting, fold] = tables[members][:, fold].mean(axis=0)
            alone[parting, fold] = tables[0, fold]  # the best of them
    return compare(metric, labels, list(together), list(alone), found.groups)


def _predicted(total: Table, probabilities: Table) -> Labels:
    """Return the predictions of each member with those so far, (M, n); in blocks, for memory."""
    found = np.empty(probabilities.shape[:2], np.int64)
    step = max(1, ENTRIES // max(1, total.size))
    for start in range(0, len(found), step):
        block = slice(start, start + step)
        sums = total + probabilities[block]
        # The maximum of two is ten times as fast as argmax over such a short axis.
        found[block] = sums[..., 1] > sums[..., 0] if sums.shape[2] == 2 else sums.argmax(axis=2)
    return found


def _result(
    vault: Vault,
    study: StudyRecord,
    kept: Sequence[tuple[Trial, Checkpoint]],
    damaged: Sequence[str],
    could: Choosable,
    size: int,
) -> EnsembleResult:
    labels = could.labels
    tables = could.read([(file.stage_run_id, file.epoch) for _, file in kept])
    chosen = greedy(tables, labels, size, study.metric)
    single = greedy(tables, labels, 1, study.metric)[0]
    mean, alone = tables[list(chosen)].mean(axis=0), tables[single]
    asked = could.scorer.candidates.questions
    members = []
    for index in dict.fromkeys(chosen):
        trial, file = kept[index]
        path, count = path_text(vault.path(file.path)), chosen.count(index)
        where = (trial.number, trial.seed, file.stage_run_id, file.epoch)
        members.append(Member(*where, path, file.sha256, count))
    return EnsembleResult(
        study=study.name,
        metric=study.metric,
        size=size,
        members=tuple(sorted(members, key=lambda member: -member.count)),
        score=score(study.metric, labels, mean),
        loss=score(Metric.LOG_LOSS, labels, mean),
        errors=errors_of(labels, mean),
        n_valid=len(labels) // asked,
        single_trial=kept[single][0].number,
        single_score=score(study.metric, labels, alone),
        single_errors=errors_of(labels, alone),
        cross=cross_fitted(could, size, study.metric),
        candidates=len(kept),
        damaged=tuple(damaged),
        labels=len(labels) if asked > 1 else None,
    )
