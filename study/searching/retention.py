"""Which weights files are kept. Deleted ones would not be chosen, nor would a trial start there."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage.records import (
    Checkpoint,
    KeptPredictions,
    Kind,
    RankedTrial,
    Role,
    State,
    StudyRecord,
    Trial,
)
from storage.store import Store
from storage.vault import Vault
from study.config.schema import StudyConfig
from study.formatting import count_text, size_text
from study.searching.policy import finalists
from study.selection.expected import expected_of
from study.stage_tree import Node, StageTree

_SHORT = 6
"""Bytes of a photo's shortened prediction."""


@dataclass(frozen=True)
class Spare:
    """A weights file that can be deleted, and why."""

    checkpoint: Checkpoint
    reason: str


@dataclass(frozen=True)
class Kept:
    """What retention chooses from: weights files, their stage runs' keys, trials, the best first.

    The first trial has the best forecast, the second the best score, and the rest are ordered by
    forecast. The first `best` of them are never deleted.
    """

    checkpoints: Sequence[Checkpoint]
    keys: dict[int, str]
    ranking: Sequence[RankedTrial]
    best: int = 1

    @classmethod
    def of(cls, store: Store, study: StudyRecord) -> "Kept":
        """Read it."""
        keys = {run.id: run.key for run in store.stage_runs(study.id)}
        ranking = store.ranking(study)
        if ranking and (expected := expected_of(store, study)):
            first, *others = sorted(ranking, key=lambda r: expected.of(r.trial.best_stage_run))
            return cls(store.checkpoints(study.id), keys, [first, ranking[0], *others], best=2)
        return cls(store.checkpoints(study.id), keys, ranking)


def spare(
    kept: Kept, trials: Sequence[Trial], tree: StageTree, config: StudyConfig, *, ongoing: bool
) -> list[Spare]:
    """Choose files to delete; `ongoing` says whether the search still has trials to begin.

    Kept are the best weights of the first `keep.trials` trials and of all trials of repeated
    schedules, all that a running trial may need and, while the search goes on, weights of first
    stages that new trials may start from. If `keep.max_disk` is exceeded, the weakest of those are
    deleted too, but never the best of all, nor a finalist's.
    """
    nodes = {run: tree.find(key) for run, key in kept.keys.items()}
    running = {trial.number for trial in trials if trial.state is State.RUNNING}
    chosen = _chosen(kept.ranking, trials, config.keep.trials)
    starts = _starts(trials, tree, config) if ongoing else {}
    staying = _staying(kept, trials, config)
    spares, dispensable, size = [], [], 0
    for checkpoint in kept.checkpoints:
        node = nodes[checkpoint.stage_run_id]
        place = chosen.get((checkpoint.stage_run_id, checkpoint.epoch))
        if node is not None and running & set(node.trials):
            size += checkpoint.size
        elif checkpoint.kind is Kind.BEST and place is not None:
            size += checkpoint.size
            if (checkpoint.stage_run_id, checkpoint.epoch) not in staying:
                dispensable.append((0, place, checkpoint))
        elif node is not None and (start := starts.get((node.key, checkpoint.kind))) is not None:
            size += checkpoint.size
            dispensable.append((1, start, checkpoint))
        else:
            spares.append(Spare(checkpoint, _why(checkpoint, config)))
    if config.keep.max_disk is not None:
        reason = f"the weights exceed {config.keep.max_disk.human_readable(decimal=True)}"
        for _, _, checkpoint in sorted(dispensable, key=lambda each: each[:2], reverse=True):
            if size <= config.keep.max_disk:
                break
            size -= checkpoint.size
            spares.append(Spare(checkpoint, reason))
    return spares


def deletion_text(spares: Sequence[Spare]) -> str:
    """Say in a line how much is deleted, and why."""
    counts = Counter(each.reason for each in spares)
    size = sum(each.checkpoint.size for each in spares)
    why = ", ".join(
        f"{count} {reason}" if len(counts) > 1 else reason for reason, count in counts.most_common()
    )
    return f"deleting {count_text(len(spares), 'weights file')} ({size_text(size)}): {why}"


def discard(spares: Iterable[Spare], study_id: int, store: Store, vault: Vault) -> None:
    """Delete weights files, the rows first: a row must never point to a file that is not there."""
    if gone := delete(retire(spares, store), vault):
        store.settle_names(study_id, gone)


def retire(spares: Iterable[Spare], store: Store) -> list[Checkpoint]:
    """Have deletions take the place of rows; return the files that are to be deleted now."""
    found = list(spares)
    for each in found:
        store.retire_checkpoint(each.checkpoint, each.reason)
    return [each.checkpoint for each in found]


def delete(files: Iterable[Checkpoint], vault: Vault) -> list[str]:
    """Delete files that have no rows, and return their names; any thread may call this."""
    gone = []
    for file in files:
        vault.delete(file.path, file.sha256)
        gone.append(file.path)
    return gone


def too_many(kept: Sequence[KeptPredictions], limit: int, photos: int) -> list[KeptPredictions]:
    """Choose the predictions to shorten, the weakest first, until all take `limit` bytes.

    `kept` starts with those of the best epochs. A trial's best epoch is shortened after all others,
    as means and ensembles need it, and the best of all is never shortened.
    """
    size = sum(each.size for each in kept)
    weakest = [each for each in reversed(kept[1:]) if each.full]
    chosen = []
    for each in sorted(weakest, key=lambda each: each.leads):
        if size <= limit:
            break
        chosen.append(each)
        size -= max(each.size - _SHORT * photos, 0)
    return chosen


def shorten_all(kept: Iterable[KeptPredictions], store: Store, labels: NDArray[np.int64]) -> None:
    """Shorten these predictions; a choice by accuracy, F1 or log loss stays the same."""
    for each in kept:
        store.shorten_predictions(each.stage_run_id, each.epoch, labels)


def _chosen(
    ranking: Sequence[RankedTrial], trials: Iterable[Trial], count: int
) -> dict[tuple[int, int], int]:
    """Return the (stage run, epoch) of the weights to keep, each with its rank."""
    repeated = {trial.schedule_digest for trial in trials if trial.role is Role.REPEAT}
    chosen: dict[tuple[int, int], int] = {}
    for ranked in ranking:
        file = ranked.checkpoint
        if file is None:
            continue
        if len(chosen) < count or ranked.trial.schedule_digest in repeated:
            chosen.setdefault((file.stage_run_id, file.epoch), len(chosen))
    return chosen


def _staying(kept: Kept, trials: Sequence[Trial], config: StudyConfig) -> set[tuple[int, int]]:
    """Return the (stage run, epoch) of the best weights and of the finalists'."""
    files = [(each.checkpoint, each.trial) for each in kept.ranking if each.checkpoint is not None]
    digests = {trial.schedule_digest for trial in trials if trial.role is Role.REPEAT}
    if not digests and config.seeds.repeats:
        digests = {
            trial.schedule_digest
            for trial in finalists(trials, config.metric, config.seeds.finalists)
        }
    return {
        (file.stage_run_id, file.epoch)
        for place, (file, trial) in enumerate(files)
        if place < kept.best or trial.schedule_digest in digests
    }


def _starts(
    trials: Sequence[Trial], tree: StageTree, config: StudyConfig
) -> dict[tuple[str, Kind], int]:
    """Return the weights that later trials may start from, each with its rank."""
    best = _before_starts_from_best(trials, config)
    return {
        (node.key, kind): place
        for place, node in enumerate(_beginnings(tree, config))
        for kind in Kind
        if kind is Kind.LAST or node.position in best
    }


def _before_starts_from_best(trials: Sequence[Trial], config: StudyConfig) -> set[int]:
    """Return the positions after which a stage may start from the best epoch.

    A grid's schedules are not in the space: the ones begun stand for the others.
    """
    space = config.resolved_space
    allowed = [space.of_stage(p).get("start_from", ()) for p in range(max(space.n_stages))]
    begun = {
        position
        for trial in trials
        for position, stage in enumerate(trial.schedule.stages)
        if stage.start_from == Kind.BEST.value
    }
    return {p - 1 for p in begun | {p for p, kinds in enumerate(allowed) if Kind.BEST in kinds}}


def _beginnings(tree: StageTree, config: StudyConfig) -> list[Node]:
    """Return the stage runs that later trials may start from, best first.

    Those are all first stages, of which a space has few, and of the later ones except the last as
    many as trials keep their weights.
    """
    last = max(max(config.resolved_space.n_stages) - 1, *(node.position for node in tree), 0)
    ranked = sorted(tree, key=lambda node: node.rank or (math.inf,))
    first = [node for node in ranked if node.position == 0]
    later = [node for node in ranked if 0 < node.position < last]
    return first + later[: config.keep.trials]


def _why(checkpoint: Checkpoint, config: StudyConfig) -> str:
    if checkpoint.kind is Kind.LAST:
        return "no trial will continue from it"
    return f"not the best weights of one of the best {config.keep.trials} trials"
