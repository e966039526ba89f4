"""Use case `compare`: test two classifiers on the same validation photos."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.records import StudyRecord
from storage.store import Store, open_store
from study.config.schema import StudyConfig
from study.errors import NotInStudy
from study.invocation import hint
from study.provenance.lookup import Origin, find, of_trial
from study.selection.leaks import judged_by
from study.selection.predictions_csv import read_answers
from study.statistics.crossfit import flipped_p
from study.statistics.groups import Groups
from study.statistics.intervals import of_share
from study.studies import find_study, manifest_of
from trainers.data.manifest import Manifest, Split


@dataclass(frozen=True)
class Side:
    """One of the two: its errors, and its accuracy with a 95 % interval (Wilson)."""

    name: str
    errors: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A photo with different predictions."""

    path: str
    label: str
    first: str
    second: str


@dataclass(frozen=True)
class LabelErrors:
    """How often each of the two is wrong about a label."""

    label: str
    first: int
    second: int


@dataclass(frozen=True)
class Comparison:
    """The comparison of two classifiers on the same photos, in `groups` (None without any).

    `p_value` is two-sided: McNemar's exact test, or a sign-flip test on the groups' differences.
    Where photos have several labels, one is right if all of them are, and `labels` counts errors
    label by label.
    """

    study: str
    photos: int
    first: Side
    second: Side
    both_right: int
    only_first_right: int
    only_second_right: int
    neither_right: int
    p_value: float
    differences: tuple[Difference, ...]
    leaks: str | None = None
    groups: int | None = None
    labels: tuple[LabelErrors, ...] | None = None


def compare(
    first: str, second: str, study: str | None = None, *, storage: str = StudyConfig().storage
) -> Comparison:
    """Compare two of: a trial's number, a weights file of the study, a CSV of answers.

    Raises LookupError for what the study does not know, `ConfigError` for a CSV that does not fit.
    """
    with open_store(storage, create=False) as store:
        record = find_study(store, study)
        manifest = manifest_of(store, record)
        labels, photos = manifest.labels(Split.VALID), manifest.of_split(Split.VALID)
        one, other = (_answers(t, store, record, manifest, storage) for t in (first, second))
        leaks = judged_by(store, record).leaks
    right, also, groups = one == labels, other == labels, manifest.groups(Split.VALID)
    asked, each = manifest.n_questions, None
    names, differ = manifest.kind.texts, np.flatnonzero((one != other).reshape(-1, asked).any(1))
    if asked > 1:
        right, also = (every.reshape(-1, asked) for every in (right, also))
        wrong = zip(
            manifest.classes, (~right).sum(0).tolist(), (~also).sum(0).tolist(), strict=True
        )
        each = tuple(LabelErrors(*of) for of in wrong)
        right, also = right.all(axis=1), also.all(axis=1)
        groups = None if groups is None else groups[::asked]
        groups = None if manifest.n_groups(Split.VALID) is None else groups
    said = [names(answers, manifest.classes) for answers in (labels, one, other)]
    only_first, only_second = int((right & ~also).sum()), int((also & ~right).sum())
    return Comparison(
        study=record.name,
        photos=len(photos),
        groups=manifest.n_groups(Split.VALID),
        first=_side(first, right, groups),
        second=_side(second, also, groups),
        both_right=int((right & also).sum()),
        only_first_right=only_first,
        only_second_right=only_second,
        neither_right=int((~right & ~also).sum()),
        p_value=flipped_p(right.astype(np.float64) - also, groups),
        differences=tuple(
            Difference(photos[i].path, *(texts[i] for texts in said)) for i in differ.tolist()
        ),
        leaks=leaks,
        labels=each,
    )


def _answers(
    target: str, store: Store, study: StudyRecord, manifest: Manifest, storage: str
) -> NDArray[np.int64]:
    """Return the answers of one of the two for the validation photos: see `LabelKind`."""
    if target.lower().endswith(".csv"):
        photos = [photo.path for photo in manifest.of_split(Split.VALID)]
        return read_answers(Path(target), photos, manifest.classes, manifest.kind)
    if target.isdecimal():  # its rows suffice; reading its file would need torch
        origin: Origin | None = of_trial(store, study, int(target))
    else:
        origin = find(target, study.name, store, storage).origin
    if origin is None:
        raise NotInStudy(
            f"study {study.name!r} did not make {target!r}; give a trial's number, a file "
            f"that `{hint('show')} TRIAL` names, or a CSV of predictions"
        )
    labels = manifest.labels(Split.VALID)
    return store.predictions(origin.run.id, origin.epoch, labels).predicted


def _side(name: str, right: NDArray[np.bool_], groups: Groups | None) -> Side:
    shown = f"trial {name}" if name.isdecimal() else name
    return Side(shown, int((~right).sum()), float(right.mean()), *of_share(right, groups))
