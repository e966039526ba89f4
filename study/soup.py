"""Use case `soup`: the mean of weights that began alike, if it is better than the best of them.

A soup is chosen by validation photos, which flatters it. So it is cross-fitted as an ensemble is,
a paired test compares both on all photos, and what is not better beyond luck is not written.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from storage.database import open_database
from storage.places import open_vault
from storage.records import Checkpoint, StudyRecord, Trial
from storage.store import Store
from storage.vault import Vault
from study.config import ConfigError, StudyConfig
from study.crossfit import CrossFit, Mask, Table, compare, folds_of, paired_p, score
from study.ensemble import kept_weights
from study.mirroring import at_hand
from study.naming import score_text
from study.pool import NothingToSelect
from study.selector import find_study, manifest_of, shown
from trainers.data.manifest import DatasetError, Manifest, Split
from trainers.data.reading import read_all
from trainers.data.sources import sample
from trainers.metrics import Metric
from trainers.schedule import Schedule

if TYPE_CHECKING:
    from trainers.soup import Kitchen

LEVEL = 0.05
"""How often, at most, a soup may be kept that is no better."""

MOST = 10
"""So many files are tried at most, the best: each costs a pass over all photos."""
_FOLDS = 5

Ranked = tuple[Trial, Checkpoint]


class Strangers(LookupError):
    """Trials without a common beginning: the mean of their weights would be no network."""


@dataclass(frozen=True)
class Ingredient:
    """A weights file that was tried; `used` says whether the soup holds it."""

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
    """The answer of `soup`. `score` and `errors` flatter, `cross` does not: see `CrossFit`.

    All is predicted here and now, so numbers may differ by a photo from those of another device.
    `cross` compares soup and single file, as for an ensemble; `p_value` is of its paired test.
    `file` is None for a soup that was not better and so was not written.
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
    p_value: float
    better: bool
    file: str | None
    damaged: tuple[str, ...]


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

    Siblings are trials that share the first stage run. `say` gets a line about each that is tried.
    Raises `Strangers`, `NothingToSelect`, `DatasetError` for photos that are gone or changed,
    `ConfigError` for a device that is not there, LookupError for an unknown trial.
    """
    store = Store(open_database(storage, create=False))
    try:
        record = find_study(store, study)
        vault = open_vault(storage, record)
        files, damaged = _ingredients(store, vault, record, trials)
        manifest = at_hand(manifest_of(store, record), record, storage)
    finally:
        store.close()
    check_photos(record.name, manifest)
    paths = [vault.path(file.path) for _, file in files]
    with _kitchen(manifest, paths, device) as kitchen:
        return _Cook(record, vault, manifest, files, kitchen, say).result(damaged, copy_to)


def greedy_soup(order: Sequence[int], value: Callable[[Sequence[int]], float]) -> tuple[int, ...]:
    """Give the files whose mean is the soup: each, the best first, stays if it does not harm.

    This is the greedy soup of Wortsman et al. (ICML 2022). `value` scores a soup, more is better.
    """
    chosen: tuple[int, ...] = (order[0],)
    for each in order[1:]:
        if value((*chosen, each)) >= value(chosen):
            chosen = (*chosen, each)
    return chosen


def check_photos(
    study: str, manifest: Manifest, splits: Sequence[Split] = (Split.TRAIN, Split.VALID)
) -> None:
    """Raise `DatasetError` if photos of these splits are gone or changed."""
    photos = [photo for split in splits for photo in manifest.of_split(split)]
    found = read_all([manifest.root / p.path for p in photos], {p.sha256 for p in photos})
    odd = [p.path for p, f in zip(photos, found, strict=True) if p.sha256 != f.sha256]
    if odd:
        raise DatasetError(
            f"{len(odd)} photos of study {study!r} are missing or changed in {manifest.root} "
            f"({sample(odd)}); put them back as they were"
        )


def why_strangers(first: Schedule, second: Schedule, seeds: tuple[int, int]) -> str:
    """Say in what the beginnings of two trials differ."""
    if first.backbone != second.backbone:
        return f"their backbones differ ({first.backbone}, {second.backbone})"
    if first.hidden != second.hidden:
        return f"their heads differ ({list(first.hidden)}, {list(second.hidden)})"
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
) -> tuple[list[Ranked], list[str]]:
    """Give the files that began alike, the best first; and files that are missing or changed."""
    wanted = [store.trial(study.id, number) for number in dict.fromkeys(trials or ())]
    roots = {number: run for number, position, run in store.links(study.id) if position == 0}
    for other in wanted[1:]:
        first = wanted[0]
        if roots.get(first.number) != roots.get(other.number):
            why = why_strangers(first.schedule, other.schedule, (first.seed, other.seed))
            raise Strangers(
                f"trials {first.number} and {other.number} share no beginning: {why}; "
                "give trials that `tree` shows under one first stage"
            )
    numbers = {trial.number for trial in wanted} if wanted else None
    kept, damaged = kept_weights(store, vault, study, numbers)
    if kept and not wanted:
        kept = [each for each in kept if roots[each[0].number] == roots[kept[0][0].number]]
    if len(kept) < 2:
        which = "of these trials" if wanted else "that began as the best trial did"
        needs = f"a soup needs at least 2 weights files {which}, study {study.name!r} has"
        raise NothingToSelect(f"{needs} {len(kept)}; let `search` run on, or raise --keep")
    return kept[:MOST], damaged


@contextmanager
def _kitchen(manifest: Manifest, files: Sequence[Path], device: str) -> Iterator["Kitchen"]:
    """Give what makes soups of files, and say in our own words what is wrong with them."""
    from trainers.checkpoint import NotOurWeights  # torch: seconds to import
    from trainers.device import choose_compute
    from trainers.soup import Kitchen

    try:
        compute = choose_compute(device)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    try:
        yield Kitchen(manifest, files, compute)
    except NotOurWeights as error:
        # A search that runs meanwhile keeps the best alone.
        gone = [path.name for path in files if not path.exists()]
        why = f"{sample(gone)} went meanwhile; let `search` end first" if gone else str(error)
        raise NothingToSelect(
            f"a soup needs whole weights of Encore's own trainer: {why}"
        ) from None


class _Cook:
    """Chooses one study's soup, and says what it is worth."""

    def __init__(
        self,
        study: StudyRecord,
        vault: Vault,
        manifest: Manifest,
        files: Sequence[Ranked],
        kitchen: "Kitchen",
        say: Callable[[str], None],
    ) -> None:
        self._study, self._vault, self._files = study, vault, files
        self._kitchen, self._say = kitchen, say
        self._labels = manifest.labels(Split.VALID)
        self._tables: dict[tuple[int, ...], Table] = {}

    def result(self, damaged: Sequence[str], folder: Path) -> SoupResult:
        """Choose, test, and write what is better."""
        metric, labels = self._study.metric, self._labels
        chosen = self._choose(np.ones(len(labels), np.bool_))
        table, single = self._table(chosen), self._table(chosen[:1])
        cross, p_value = self._cross_fit()
        better = len(chosen) > 1 and cross.gain > 0 and p_value < LEVEL
        file = self._write(chosen, score(metric, labels, table), folder) if better else None
        return SoupResult(
            study=self._study.name,
            metric=metric,
            ingredients=tuple(self._ingredient(i, chosen) for i in range(len(self._files))),
            score=score(metric, labels, table),
            errors=int((table.argmax(axis=1) != labels).sum()),
            n_valid=len(labels),
            single_trial=self._files[chosen[0]][0].number,
            single_score=score(metric, labels, single),
            single_errors=int((single.argmax(axis=1) != labels).sum()),
            cross=cross,
            p_value=p_value,
            better=better,
            file=None if file is None else shown(file),
            damaged=tuple(damaged),
        )

    def _choose(self, photos: Mask) -> tuple[int, ...]:
        """Choose a soup by some of the validation photos, a mask (n,)."""
        metric, labels = self._study.metric, self._labels[photos]

        def value(members: Sequence[int], by: Metric = metric) -> float:
            found = score(by, labels, self._table(members)[photos])
            return found if by.higher_is_better else -found

        alone = range(len(self._files))
        order = sorted(alone, key=lambda i: (-value([i]), -value([i], Metric.LOG_LOSS)))
        return greedy_soup(order, value)

    def _cross_fit(self) -> tuple[CrossFit, float]:
        metric, labels = self._study.metric, self._labels
        together, alone = (np.empty_like(self._table([0])) for _ in range(2))
        for fold in folds_of(labels, _FOLDS, seed=0):
            chosen = self._choose(~fold)
            together[fold] = self._table(chosen)[fold]
            alone[fold] = self._table(chosen[:1])[fold]
        p_value = paired_p(metric, labels, together, alone)
        return compare(metric, labels, [together], [alone]), p_value

    def _table(self, members: Sequence[int]) -> Table:
        key = tuple(members)
        if key not in self._tables:
            self._tables[key] = self._kitchen.evaluation(key).probabilities
            reached = score(self._study.metric, self._labels, self._tables[key])
            numbers = ", ".join(str(self._files[index][0].number) for index in key)
            what = f"soup of trials {numbers}" if len(key) > 1 else f"trial {numbers} alone"
            self._say(f"{what}: {self._study.metric} {score_text(self._study.metric, reached)}")
        return self._tables[key]

    def _ingredient(self, index: int, chosen: Sequence[int]) -> Ingredient:
        trial, file = self._files[index]
        path, where = shown(self._vault.path(file.path)), (file.stage_run_id, file.epoch)
        reached = score(self._study.metric, self._labels, self._table([index]))
        known = (trial.number, trial.seed, *where, path, file.sha256)
        return Ingredient(*known, reached, index in chosen)

    def _write(self, chosen: Sequence[int], reached: float, folder: Path) -> Path:
        trial, metric = self._files[chosen[0]][0], self._study.metric
        name = (
            f"soup{score_text(metric, reached)}_{trial.schedule.backbone}_of{len(chosen)}"
            f"_t{trial.number:04d}_s{trial.seed}.safetensors"
        )
        of = [f"trial {self._files[i][0].number} {self._files[i][1].sha256}" for i in chosen]
        folder.mkdir(parents=True, exist_ok=True)
        self._kitchen.save(chosen, folder / name, {"soup_of": ", ".join(of)})
        return folder / name
