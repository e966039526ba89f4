"""Use case `soup`: the mean of weights with common first stages, if it beats the best of them.

A soup is chosen by validation photos, which biases its score. So it is cross-fitted as far as
existing weights allow, a paired test compares both on all photos, and a soup that is not
significantly better is not written.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from storage.paths import open_vault
from storage.records import Checkpoint, StudyRecord, Trial
from storage.store import Store, open_store
from storage.vault import Vault
from study.config.schema import StudyConfig
from study.datasets.download import at_hand
from study.datasets.unchanged import check_photos
from study.errors import ConfigError, NothingToSelect, UnrelatedWeights
from study.formatting import path_text, score_in_name, score_phrase
from study.invocation import hint
from study.selection.choosable import choosable
from study.selection.kept_weights import kept_weights
from study.selection.several_labels import judge_labels
from study.selection.soup_choice import (
    FOLDS,
    MOST,
    choose_soup,
    corrected,
    held_out,
    of_predictions,
)
from study.statistics.crossfit import CrossFit, Table, compare, errors_of, paired_p, score
from study.statistics.folds import folds_of
from study.studies import find_study, manifest_of
from trainers.data.manifest import Manifest, Split
from trainers.data.sources import sample
from trainers.metrics import Evaluation, Metric
from trainers.schedule import Schedule

if TYPE_CHECKING:
    from trainers.soup import Averager

LEVEL = 0.05
"""The significance level for keeping a soup."""

Ranked = tuple[Trial, Checkpoint]


@dataclass(frozen=True)
class Ingredient:
    """A weights file that was tried; `used` says whether the soup contains it."""

    trial: int
    seed: int
    stage_run: int
    epoch: int
    file: str
    sha256: str
    score: float
    used: bool


@dataclass(frozen=True)
class SoupResult:
    """The result of `soup`. `score` and `errors` are optimistic, `cross` is not: see `CrossFit`.

    Everything is predicted on this device, so numbers may differ by a photo from those of another
    one. `cross` compares soup and single file, as for an ensemble; `p_value` is of their paired
    test. The bias from which files were kept is subtracted from `cross`, if enough predictions are
    stored (see `study.selection.soup_choice`); if not, `corrected` is False, and it is still
    optimistic. `file` is None for a soup that was not better and so was not written. `labels` are
    those of all photos, as of an ensemble.
    """

    study: str
    metric: Metric
    ingredients: tuple[Ingredient, ...]
    score: float
    errors: int
    n_valid: int
    single_trial: int
    single_score: float
    single_errors: int
    cross: CrossFit
    corrected: bool
    p_value: float
    better: bool
    file: str | None
    damaged: tuple[str, ...]
    labels: int | None = None


def soup(
    study: str | None = None,
    *,
    storage: str = StudyConfig().storage,
    trials: Sequence[int] | None = None,
    copy_to: Path = Path("chosen"),
    device: str = "auto",
    say: Callable[[str], None] = lambda _: None,
) -> SoupResult:
    """Make a soup of the best file and its siblings, or of `trials`; write it if it is better.

    Siblings are trials that share the first stage run. `say` is called with a line about each that
    is tried. Raises `UnrelatedWeights`, `NothingToSelect`, `DatasetError` for photos that are gone
    or changed, `ConfigError` for a device that is not there, LookupError for an unknown trial.
    """
    with open_store(storage, create=False) as store:
        record = find_study(store, study)
        vault = open_vault(storage, record)
        if folds := manifest_of(store, record).folds:
            raise ConfigError(
                f"a soup is of files with one network each, but those of study {record.name!r} "
                f"hold one for each of {folds} folds; drop --soup, --ensemble goes with folds"
            )
        files, siblings, damaged = _ingredients(store, vault, record, trials)
        predicted = _of_predictions(store, record, files, siblings)
        manifest = at_hand(manifest_of(store, record), record, storage)
    check_photos(record.name, manifest)
    paths = [vault.path(file.path) for _, file in files]
    with _averager(manifest, paths, device) as averager:
        greedy = _GreedySoup(record, vault, manifest, files, predicted, averager, say)
        return greedy.result(damaged, copy_to)


def why_strangers(first: Schedule, second: Schedule, seeds: tuple[int, int]) -> str:
    """Return how the first stages of two trials differ."""
    if first.backbone != second.backbone:
        return f"their backbones differ ({first.backbone}, {second.backbone})"
    if first.hidden != second.hidden:
        return f"their heads differ ({list(first.hidden)}, {list(second.hidden)})"
    if first.levels != second.levels:
        return f"their heads see different levels ({first.levels}, {second.levels})"
    if first.weights != second.weights:
        return f"the weights they start from differ ({first.weights}, {second.weights})"
    if seeds[0] != seeds[1]:
        return f"their seeds differ ({seeds[0]}, {seeds[1]})"
    one, other = first.stages[0], second.stages[0]
    differ = [f.name for f in fields(one) if getattr(one, f.name) != getattr(other, f.name)]
    if not differ:
        return "one of them was never begun"
    of = f"({getattr(one, differ[0])}, {getattr(other, differ[0])})"
    return f"their first stages differ in {differ[0]} {of}"


def _ingredients(
    store: Store, vault: Vault, study: StudyRecord, trials: Sequence[int] | None
) -> tuple[list[Ranked], set[int], list[str]]:
    """Return the files with common first stages, the best first, and all such trials, by number.

    The third are files that are missing or changed.
    """
    wanted = [store.trial(study.id, number) for number in dict.fromkeys(trials or ())]
    roots = {number: run for number, position, run in store.links(study.id) if position == 0}
    for other in wanted[1:]:
        first = wanted[0]
        if roots.get(first.number) != roots.get(other.number):
            why = why_strangers(first.schedule, other.schedule, (first.seed, other.seed))
            raise UnrelatedWeights(
                f"trials {first.number} and {other.number} share no first stage: {why}; "
                f"give trials that `{hint('tree', '--study', study.name)}` shows under one first "
                "stage"
            )
    numbers = {trial.number for trial in wanted} or None
    kept, damaged = kept_weights(store, vault, study, numbers)
    siblings = numbers or set()
    if kept and not wanted:
        root = roots[kept[0][0].number]
        siblings = {number for number, run in roots.items() if run == root}
        kept = [each for each in kept if each[0].number in siblings]
    if len(kept) < 2:
        which = "of these trials" if wanted else "that share the best trial's first stage"
        needs = f"a soup needs at least 2 weights files {which}, study {study.name!r} has"
        raise NothingToSelect(f"{needs} {len(kept)}; let the search run on, or raise --keep")
    return kept[:MOST], siblings, damaged


def _of_predictions(
    store: Store, study: StudyRecord, files: Sequence[Ranked], siblings: set[int]
) -> tuple[CrossFit, CrossFit] | None:
    """Estimate the gain of means of predictions, of these files and of those kept without a fold.

    None if too little is stored, because of many photos and classes.
    """
    try:
        could = choosable(store, study, manifest_of(store, study), files, siblings)
        epochs = [(file.stage_run_id, file.epoch) for _, file in files]
        return of_predictions(could, epochs, study.metric)
    except NothingToSelect:
        return None


@contextmanager
def _averager(manifest: Manifest, files: Sequence[Path], device: str) -> Iterator["Averager"]:
    """Return the soup maker of files, with our own messages for unusable ones."""
    from trainers.device import choose_compute
    from trainers.errors import NotOurWeights  # torch: seconds to import
    from trainers.soup import Averager

    try:
        compute = choose_compute(device)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    try:
        yield Averager(manifest, files, compute)
    except NotOurWeights as error:
        # A running search may delete weaker files meanwhile.
        gone = [path.name for path in files if not path.exists()]
        why = (
            f"{sample(gone)} were deleted meanwhile; let the search end first"
            if gone
            else str(error)
        )
        raise NothingToSelect(
            f"a soup needs intact weights of Encore's own trainer: {why}"
        ) from None


class _GreedySoup:
    """Chooses one study's soup, and evaluates it."""

    def __init__(
        self,
        study: StudyRecord,
        vault: Vault,
        manifest: Manifest,
        files: Sequence[Ranked],
        predicted: tuple[CrossFit, CrossFit] | None,
        averager: "Averager",
        say: Callable[[str], None],
    ) -> None:
        self._study, self._vault, self._files = study, vault, files
        self._predicted, self._averager, self._say = predicted, averager, say
        self._manifest, self._labels = manifest, manifest.labels(Split.VALID)
        self._groups = manifest.groups(Split.VALID)
        self._tables: dict[tuple[int, ...], Table] = {}

    def result(self, damaged: Sequence[str], folder: Path) -> SoupResult:
        """Choose and test a soup, and write it if it is better."""
        metric, labels = self._study.metric, self._labels
        chosen = self._choose()
        table, single = self._table(chosen), self._table(chosen[:1])
        cross, p_value = self._cross_fit()
        better = len(chosen) > 1 and cross.gain_interval[0] > 0 and p_value < LEVEL
        reached = score(metric, labels, table)
        file = self._write(chosen, table, reached, folder) if better else None
        return SoupResult(
            study=self._study.name,
            metric=metric,
            ingredients=tuple(self._ingredient(i, chosen) for i in range(len(self._files))),
            score=reached,
            errors=errors_of(labels, table),
            n_valid=len(self._manifest.of_split(Split.VALID)),
            single_trial=self._files[chosen[0]][0].number,
            single_score=score(metric, labels, single),
            single_errors=errors_of(labels, single),
            cross=cross,
            corrected=self._predicted is not None,
            p_value=p_value,
            better=better,
            file=None if file is None else path_text(file),
            damaged=tuple(damaged),
            labels=len(labels) if self._manifest.n_questions > 1 else None,
        )

    def _choose(self) -> tuple[int, ...]:
        """Choose a soup by all validation photos."""
        every = np.ones(len(self._labels), np.bool_)
        return choose_soup(len(self._files), self._table, self._study.metric, self._labels, every)

    def _cross_fit(self) -> tuple[CrossFit, float]:
        """Return the soup's cross-fitted gain over the best file, and a p value."""
        metric, labels, groups = self._study.metric, self._labels, self._groups
        folds = folds_of(labels, FOLDS, 0, groups)
        means = [(len(self._files), self._table)] * len(folds)
        together, alone = held_out(metric, labels, folds, means)
        found = compare(metric, labels, [together], [alone], groups)
        if self._predicted is not None:
            found = corrected(found, *self._predicted)
        return found, paired_p(metric, labels, together, alone, groups)

    def _table(self, members: Sequence[int]) -> Table:
        key = tuple(members)
        if key not in self._tables:
            self._tables[key] = self._averager.evaluation(key).probabilities
            reached = score(self._study.metric, self._labels, self._tables[key])
            numbers = ", ".join(str(self._files[index][0].number) for index in key)
            what = f"soup of trials {numbers}" if len(key) > 1 else f"trial {numbers} alone"
            n_valid = len(self._manifest.of_split(Split.VALID))
            said = score_phrase(self._study.metric, reached, n_valid)
            self._say(f"{what}: {self._study.metric} {said}")
        return self._tables[key]

    def _ingredient(self, index: int, chosen: Sequence[int]) -> Ingredient:
        trial, file = self._files[index]
        path, where = path_text(self._vault.path(file.path)), (file.stage_run_id, file.epoch)
        reached = score(self._study.metric, self._labels, self._table([index]))
        known = (trial.number, trial.seed, *where, path, file.sha256)
        return Ingredient(*known, reached, index in chosen)

    def _write(self, chosen: Sequence[int], table: Table, reached: float, folder: Path) -> Path:
        trial, metric = self._files[chosen[0]][0], self._study.metric
        name = (
            f"soup{score_in_name(metric, reached)}_{trial.schedule.backbone}_of{len(chosen)}"
            f"_t{trial.number:04d}_s{trial.seed}.safetensors"
        )
        of = [f"trial {self._files[i][0].number} {self._files[i][1].sha256}" for i in chosen]
        folder.mkdir(parents=True, exist_ok=True)
        made_by = {"soup_of": ", ".join(of)}
        self._averager.save(chosen, folder / name, made_by, self._thresholds(table))
        return folder / name

    def _thresholds(self, table: Table) -> tuple[float, ...] | None:
        """Return those of several labels, where they are better than a half."""
        if self._manifest.n_questions == 1:
            return None
        found = Evaluation(self._labels, table)
        p_true, asked = np.exp(-found.losses()), self._manifest.n_questions
        return judge_labels(found.labels, found.predicted, p_true, asked, self._groups).thresholds
