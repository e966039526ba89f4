"""What chosen weights are worth on several labels: one by one, and with thresholds of their own.

Pure: labels and predictions are rows of photos and labels, as `LabelKind` numbers them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.statistics.folds import Labels, folds_of
from study.statistics.groups import Groups
from trainers.metrics import OfRanks, shares_of
from trainers.metrics.average_precision import MeanAveragePrecision
from trainers.metrics.label_auroc import MacroAuroc

FOLDS = 5
HALF = 0.5

_There = NDArray[np.bool_]
_Shares = NDArray[np.float64]


@dataclass(frozen=True)
class LabelNumbers:
    """One label on the validation photos; None where photos all have it, or all have it not.

    `threshold` is the probability from which on F1 is greatest.
    """

    auroc: float | None
    average_precision: float | None
    threshold: float


@dataclass(frozen=True)
class LabelScores:
    """All labels: how well each is told, and together.

    `whole` is the share of photos all of whose labels are right. `own_macro_f1` is cross-fitted:
    each photo's labels are told by thresholds that were chosen by the photos of other folds. The
    weights are not chosen anew, so it flatters as `macro_f1` does, at a half for each label.
    """

    each: tuple[LabelNumbers, ...]
    macro_f1: float
    micro_f1: float
    mean_average_precision: float | None
    mean_auroc: float | None
    whole: float
    own_macro_f1: float

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """The thresholds of the labels, where they are better than a half; else None."""
        better = self.own_macro_f1 > self.macro_f1
        return tuple(each.threshold for each in self.each) if better else None


def judge_labels(
    labels: Labels,
    predicted: Labels,
    p_true: NDArray[np.floating[Any]],
    n_labels: int,
    groups: Groups | None,
) -> LabelScores:
    """Judge answers and the probabilities of the true ones, (photos * n_labels,) as `groups`."""
    shares = shares_of(labels, np.nan_to_num(p_true)).reshape(-1, n_labels)
    there = (labels % 2 == 1).reshape(-1, n_labels)
    half = (predicted % 2 == 1).reshape(-1, n_labels)
    own = np.zeros_like(half)
    for fold in folds_of(labels, FOLDS, 0, groups):
        photos = fold.reshape(-1, n_labels)[:, 0]
        own[photos] = shares[photos] >= best_thresholds(there[~photos], shares[~photos])
    thresholds = best_thresholds(there, shares)
    each = tuple(
        LabelNumbers(
            _ranked(MacroAuroc(), there[:, label], shares[:, label]),
            _ranked(MeanAveragePrecision(), there[:, label], shares[:, label]),
            float(thresholds[label]),
        )
        for label in range(n_labels)
    )
    return LabelScores(
        each,
        macro_f1=_macro_f1(there, half),
        micro_f1=_macro_f1(there.reshape(-1, 1), half.reshape(-1, 1)),
        mean_average_precision=_mean([label.average_precision for label in each]),
        mean_auroc=_mean([label.auroc for label in each]),
        whole=float((there == half).all(axis=1).mean()),
        own_macro_f1=_macro_f1(there, own),
    )


def best_thresholds(there: _There, shares: _Shares) -> _Shares:
    """Return for each label the probability from which on F1 is greatest, (L,).

    It is midway between two photos' probabilities; a half where no photo has the label.
    """
    found = np.full(shares.shape[1], HALF)
    for label in range(shares.shape[1]):
        if not there[:, label].any():
            continue
        hits, named, values = _sweep(there[:, label], shares[:, label])
        best = int(np.argmax(2 * hits / (named + hits[-1])))
        below = values[best + 1] if best + 1 < len(values) else 0.0
        found[label] = (values[best] + below) / 2
    return found


def _sweep(there: _There, shares: _Shares) -> tuple[NDArray[np.int64], NDArray[np.int64], _Shares]:
    """Return how many are found, how many named and the probability, from the strictest on."""
    order = np.argsort(-shares, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(shares[order]) != 0, True))
    hits = np.cumsum(there[order], dtype=np.int64)[ends]
    return hits, np.asarray(ends + 1, np.int64), shares[order][ends]


def _macro_f1(there: _There, said: _There) -> float:
    """Return the mean over labels that are there, or said to be."""
    hits, whole = 2 * (there & said).sum(axis=0), there.sum(axis=0) + said.sum(axis=0)
    shares = hits[whole > 0] / whole[whole > 0]
    return float(shares.mean()) if len(shares) else 0.0


def _ranked(metric: OfRanks, there: _There, shares: _Shares) -> float | None:
    return None if there.all() or not there.any() else metric.of_label(there, shares)[0]


def _mean(numbers: list[float | None]) -> float | None:
    known = [each for each in numbers if each is not None]
    return float(np.mean(known)) if known else None
