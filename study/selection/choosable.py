"""The weights files that would have been kept, had the search used only some photos.

A search keeps each trial's best epoch, and the files of its best trials, both by all validation
photos. The score of a choice among these files on some of the photos is optimistic, unless the
files were chosen without them as well. So that choice is repeated, among all epochs that were ever
recorded.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from storage.records import Checkpoint, Role, State, StudyRecord, Trial
from storage.store import Store
from study.errors import NothingToSelect
from study.invocation import hint
from study.statistics.groups import Groups
from study.statistics.scoring import Candidates, Inside, Scorer
from trainers.data.manifest import Manifest, Split
from trainers.metrics import of_presence

EPOCHS, NUMBERS = 3000, 500_000_000
"""Maximum number of epochs that are read, and of their probabilities, so that it takes seconds."""

Epoch = tuple[int, int]
"""A stage run's id, and one of its epochs."""

Labels = NDArray[np.int64]
Columns = NDArray[np.int64]
Tables = NDArray[np.float32]
"""Probabilities (K, n, C) of some epochs."""


@dataclass(frozen=True, eq=False)
class Choosable:
    """The `epochs` of a scorer's candidates, and how a search would keep files of them.

    Trial `t` has the candidates `columns[starts[t]:starts[t + 1]]`. The files of the `most` best
    trials are kept, and those of the trials `anyhow` (T,): schedules that were repeated. `read`
    returns the probabilities of some epochs, (K, n, C).
    """

    scorer: Scorer
    epochs: Sequence[Epoch]
    columns: Columns
    starts: Columns
    most: int
    anyhow: NDArray[np.bool_]
    read: Callable[[Sequence[Epoch]], Tables]

    @property
    def labels(self) -> Labels:
        """The photos' true classes, (n,)."""
        return self.scorer.candidates.labels

    @property
    def groups(self) -> Groups | None:
        """The photos' groups, (n,), if they have any."""
        return self.scorer.candidates.groups

    def kept(self, inside: Inside) -> list[list[Epoch]]:
        """Return the epochs whose weights would be kept by each set of photos, the best first."""
        scores = self.scorer.within(inside)[self.columns]
        best = np.maximum.reduceat(scores, self.starts[:-1], axis=0)
        owners = np.repeat(np.arange(len(best)), np.diff(self.starts))
        found = []
        for of, reached in zip(scores.T, best.T, strict=True):
            leading = np.flatnonzero(of == reached[owners])
            _, first = np.unique(owners[leading], return_index=True)
            columns, order = self.columns[leading[first]], np.argsort(-reached, kind="stable")
            found.append(self._kept([self.epochs[column] for column in columns], order.tolist()))
        return found

    def _kept(self, of_trial: Sequence[Epoch], order: Sequence[int]) -> list[Epoch]:
        chosen: dict[Epoch, None] = {}  # trials may share a stage run, and so a file
        for trial in order:
            if len(chosen) < self.most or self.anyhow[trial]:
                chosen[of_trial[trial]] = None
        return list(chosen)


def choosable(
    store: Store,
    study: StudyRecord,
    manifest: Manifest,
    kept: Sequence[tuple[Trial, Checkpoint]],
    numbers: Collection[int] | None = None,
) -> Choosable:
    """Read the epochs that could have been kept instead of the files `kept`, given best first.

    With `numbers`, only of those trials. Raises `NothingToSelect` if not all probabilities of
    epochs to read are stored.
    """
    labels, n_classes = manifest.labels(Split.VALID), manifest.n_answers
    photos = manifest.of_split(Split.VALID)
    every = store.trials(study.id)
    trials = {trial.number: trial for trial in every if _counts(trial, numbers)}
    runs: dict[int, list[int]] = defaultdict(list)
    for number, _, run in store.links(study.id):
        if number in trials:
            runs[number].append(run)
    epochs = _epochs(store, study, set(chain(*runs.values())), len(photos) * n_classes)
    found = store.predictions_of(epochs, labels, whole=False)
    candidates = Candidates(
        labels=labels,
        n_classes=n_classes,
        predicted=np.stack([each.predicted for each in found]),
        p_true=np.stack([each.true_probability for each in found]),
        groups=manifest.groups(Split.VALID),
        questions=manifest.n_questions,
    )
    of_run: dict[int, list[int]] = defaultdict(list)
    for column, (run, _) in enumerate(epochs):
        of_run[run].append(column)
    members = {number: list(chain(*(of_run[run] for run in own))) for number, own in runs.items()}
    members = {number: columns for number, columns in members.items() if columns}
    repeated = {trial.schedule_digest for trial in every if trial.role is Role.REPEAT}
    anyhow = [trials[number].schedule_digest in repeated for number in members]
    others = [i for i, (trial, _) in enumerate(kept, 1) if trial.schedule_digest not in repeated]
    return Choosable(
        scorer=Scorer(candidates, study.metric),
        epochs=epochs,
        columns=np.array(list(chain(*members.values())), np.int64),
        starts=np.cumsum([0, *map(len, members.values())]),
        most=max(others, default=0),
        anyhow=np.array(anyhow, np.bool_),
        read=_reader(store, study, labels, manifest.n_questions),
    )


def _counts(trial: Trial, numbers: Collection[int] | None) -> bool:
    """Return whether a trial's files may be kept."""
    ended = trial.state in (State.COMPLETE, State.PRUNED)
    scored = None not in (trial.score, trial.loss)
    return ended and scored and (numbers is None or trial.number in numbers)


def _epochs(store: Store, study: StudyRecord, runs: set[int], numbers: int) -> list[Epoch]:
    """Return the epochs to read: the best of each stage run, then the second best, and so on."""
    seen: Counter[int] = Counter()
    placed = []
    for run, epoch in store.leading_epochs(study, None):
        if run in runs:
            placed.append((seen[run], (run, epoch)))
            seen[run] += 1
    most = min(EPOCHS, max(1, NUMBERS // numbers))
    return [epoch for _, epoch in sorted(placed, key=itemgetter(0))[:most]]


def _reader(
    store: Store, study: StudyRecord, labels: Labels, questions: int
) -> Callable[[Sequence[Epoch]], Tables]:
    """Return a function that reads epochs' probabilities, each once: half floats, as stored."""

    @cache
    def table(epoch: Epoch) -> NDArray[np.float16]:
        found = store.predictions(*epoch, labels).probabilities
        if found is None:
            raise NothingToSelect(
                f"the probabilities of all classes are needed, but of {len(labels) // questions} "
                f"photos study {study.name!r} keeps two each, to save room; "
                f"`{hint('best')}` alone can choose"
            )
        # An own trainer may have yielded what is no number.
        return np.nan_to_num(found).astype(np.float16)

    def read(epochs: Sequence[Epoch]) -> Tables:
        tables = np.stack([table(epoch) for epoch in epochs]).astype(np.float32)
        return of_presence(tables) if questions > 1 else tables

    return read
