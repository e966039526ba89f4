"""What predictions are worth by any criterion: for one choice, or all candidates at once. Pure."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.criterion import Criterion
from study.statistics.intervals import FEWEST_OF_CLASS, Limits, of_area, of_classes, of_mean, wilson
from study.statistics.tables import HELD, Tables
from trainers.decision import Decision
from trainers.metrics import Metric, balanced_accuracy, macro_f1
from trainers.temperature import SMALLEST

SURPRISE = 4.0
"""The log loss of a photo of which a network is wrong, and sure of it: it may just not be there."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """What M candidates predict of the same n photos of C classes.

    `labels` (n,); `predicted` (M, n); `p_true` (M, n), the true class's probability;
    `probabilities` (M, n, C), where a criterion needs them.
    """

    labels: NDArray[np.int64]
    n_classes: int
    predicted: NDArray[np.int64]
    p_true: NDArray[np.float32]
    probabilities: NDArray[np.float32] | Tables | None = None

    @cached_property
    def losses(self) -> NDArray[np.float32]:
        """Each photo's log loss, (M, n); a probability that is no number counts as none."""
        found: NDArray[np.float32] = -np.log(np.fmax(self.p_true, np.float32(SMALLEST)))
        return found

    @property
    def photos(self) -> NDArray[np.int64]:
        """How many photos there are of each class, (C,)."""
        return np.bincount(self.labels, minlength=self.n_classes)

    def of(self, rows: "Rows") -> "Candidates":
        """Return the same candidates on some of the photos."""
        found = self.probabilities
        if isinstance(found, Tables):
            whole = found
            found = Tables(lambda column: whole[column][rows], len(whole))
        elif found is not None:
            found = found[:, rows]
        mine = (self.predicted[:, rows], self.p_true[:, rows], found)
        return Candidates(self.labels[rows], self.n_classes, *mine)

    @property
    def every_probability(self) -> NDArray[np.float32] | Tables:
        """The probabilities of all classes, (M, n, C); ValueError if they were not given."""
        if self.probabilities is None:
            raise ValueError("this criterion needs the probabilities of all classes")
        return self.probabilities


Columns = NDArray[np.int64]
"""For each of some photos the candidate whose prediction counts."""

Rows = NDArray[np.int64]
"""Some photos; one may come several times."""

Inside = NDArray[np.float32]
"""B sets of photos, (n, B): 1 for those of a set, 0 for the others."""

Scores = NDArray[np.float64]
"""How good each candidate is on each set of photos, (M, B): more is better."""


class Scorer:
    """Scores candidates. `decision` prices their answers, if the criterion is what they cost."""

    def __init__(
        self, candidates: Candidates, criterion: Criterion, decision: Decision | None = None
    ) -> None:
        if (criterion is Criterion.COST) != (decision is not None):
            raise ValueError(f"a decision must be given for cost and nothing else, got {criterion}")
        self.candidates = candidates
        self.higher_is_better = criterion.higher_is_better
        self._criterion = criterion
        self._decision = decision

    def of(self, rows: Rows) -> "Scorer":
        """Return what scores the same candidates on some of the photos."""
        return Scorer(self.candidates.of(rows), self._criterion, self._decision)

    def score(self, columns: Columns, rows: Rows) -> float:
        """Return the score of what the candidates `columns` say of the photos `rows`."""
        candidates = self.candidates
        labels = candidates.labels[rows]
        match self._criterion:
            case Criterion.AUROC:
                return auroc(labels, candidates.every_probability[columns, rows])
            case Criterion.BALANCED_ACCURACY | Criterion.F1:
                confusion = self._confusion(columns, rows)
                balanced = self._criterion is Criterion.BALANCED_ACCURACY
                return balanced_accuracy(confusion) if balanced else macro_f1(confusion)
            case _:
                return float(self._worth[columns, rows].mean(dtype=np.float64))

    def evidence(self, columns: Columns) -> NDArray[np.float64]:
        """Return what `limits` needs beside the score, of what `columns` say of all photos.

        Evidence of several choices may be averaged.
        """
        rows = np.arange(len(columns))
        match self._criterion:
            case Criterion.ACCURACY:
                return np.empty(0)
            case Criterion.BALANCED_ACCURACY | Criterion.F1:
                return self._confusion(columns, rows).astype(np.float64)
            case Criterion.AUROC:
                table = self.candidates.every_probability[columns, rows]
                return np.array(delong(self.candidates.labels, table))
            case _:
                worth = self._worth[columns, rows].astype(np.float64)
                return np.array([np.square(worth).mean()])

    def limits(self, score: float, evidence: NDArray[np.float64]) -> Limits:
        """Return the 95 % interval of a score on all photos."""
        n, counts = len(self.candidates.labels), self.candidates.photos
        match self._criterion:
            case Criterion.ACCURACY:
                return wilson(score * n, n)
            case Criterion.BALANCED_ACCURACY | Criterion.F1:
                return of_classes(score, evidence, f1=self._criterion is Criterion.F1)
            case Criterion.AUROC:
                return of_area(score, evidence[0], evidence[1], counts)
            case _:
                return of_mean(score, evidence[0], n, self._dear)

    def within(self, inside: Inside) -> Scores:
        """Score each candidate on each set of photos; log loss tells equal scores apart."""
        found: NDArray[Any]
        match self._criterion:
            case Criterion.AUROC:
                found = _aurocs(self.candidates, inside)
            case Criterion.BALANCED_ACCURACY | Criterion.F1:
                found = _by_class(self.candidates, inside, self._criterion)
            case _:
                sign = np.float32(1 if self.higher_is_better else -1)
                found = (sign * self._worth) @ inside / inside.sum(axis=0)
        # Less than what a single photo can change, so that it decides between equals alone.
        tiny = 0.5 / (len(self.candidates.labels) ** 2 * -np.log(SMALLEST))
        scores: Scores = found.astype(np.float64) - tiny * (self.candidates.losses @ inside)
        return scores

    def gains(self, column: int) -> NDArray[np.float64]:
        """Split a candidate's score into what each photo adds, (n,): more is better.

        F1 is no mean over photos: each class counts alike in it, as in balanced accuracy.
        """
        candidates, n = self.candidates, len(self.candidates.labels)
        counts = np.bincount(candidates.labels, minlength=candidates.n_classes)
        share = n / np.maximum(counts[candidates.labels] * np.count_nonzero(counts), 1)
        match self._criterion:
            case Criterion.AUROC:
                gained = np.mean(
                    [
                        _placements(scores, candidates.labels == label)
                        for label, scores in enumerate(candidates.every_probability[column].T)
                    ],
                    axis=0,
                )
                return np.asarray(share * gained, np.float64)
            case Criterion.BALANCED_ACCURACY | Criterion.F1:
                right = candidates.predicted[column] == candidates.labels
                return np.asarray(share * right, np.float64)
            case _:
                sign = 1 if self.higher_is_better else -1
                return np.asarray(sign * self._worth[column], np.float64)

    @property
    def few(self) -> int | None:
        """The class that has too few photos for an interval, where each class counts by itself."""
        photos = self.candidates.photos
        by_class = (Criterion.BALANCED_ACCURACY, Criterion.F1, Criterion.AUROC)
        if self._criterion not in by_class or photos.min() >= FEWEST_OF_CLASS:
            return None
        return int(photos.argmin())

    @property
    def _dear(self) -> float:
        """What a photo may cost though none was seen to."""
        if self._decision is None:
            return SURPRISE
        return max(*map(max, self._decision.costs), self._decision.reject_cost or 0.0)

    def _confusion(self, columns: Columns, rows: Rows) -> NDArray[np.int64]:
        candidates, n_classes = self.candidates, self.candidates.n_classes
        pairs = candidates.labels[rows] * n_classes + candidates.predicted[columns, rows]
        counts = np.bincount(pairs, minlength=n_classes**2)
        return counts.reshape(n_classes, n_classes)

    @cached_property
    def _worth(self) -> NDArray[np.float32]:
        """What each photo adds to a score that is a mean over photos, (M, n)."""
        candidates, rule = self.candidates, self._decision
        if rule is not None:
            prices = (
                rule.prices(candidates.labels, rule.decide(p)) for p in candidates.every_probability
            )
            return np.stack([price.astype(np.float32) for price in prices])
        if self._criterion is Criterion.LOG_LOSS:
            return candidates.losses
        right: NDArray[np.float32] = (candidates.predicted == candidates.labels).astype(np.float32)
        return right


def auroc(labels: NDArray[np.int64], probabilities: NDArray[np.floating[Any]]) -> float:
    """Return the area under the ROC curve; over more than two classes the mean of one against all.

    NaN where a class is missing, or is all there is.
    """
    chosen = _told(probabilities.shape[1])
    return float(np.mean([_area(labels == k, probabilities[:, k]) for k in chosen]))


def delong(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> tuple[float, float]:
    """Return the variance of that area (DeLong 1988), and how many photos it rests on.

    The area falls short of 1 by what each photo is wrongly told from. How evenly the photos share
    in that says of how many, in effect, the variance is made.
    """
    off, short = np.zeros(len(labels)), np.zeros(len(labels))
    told = _told(probabilities.shape[1])
    for label in told:
        positive = labels == label
        ahead = _placements(probabilities[:, label], positive).astype(np.float64)
        for side in (positive, ~positive):
            n = max(int(side.sum()), 1)
            off[side] += (ahead[side] - ahead[side].mean()) / np.sqrt(n * max(n - 1, 1))
            short[side] += (1 - ahead[side]) / n
    squares = float(np.square(short).sum())
    shared = float(short.sum()) ** 2 / (4 * squares) if squares else 0.0
    return float(np.square(off / len(told)).sum()), shared


def _told(n_classes: int) -> range:
    """Return the classes that are told from all others: of two, the second alone."""
    return range(1, 2) if n_classes == 2 else range(n_classes)


def _area(positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> float:
    n = int(positive.sum())
    if not n or n == len(positive):
        return float("nan")
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]  # equal scores share their mean rank
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(positive) - n)))


def _aurocs(candidates: Candidates, inside: Inside) -> NDArray[np.float64]:
    """Return all candidates' areas on each set of photos, (M, B).

    By each photo's placement among all photos of the other kind (DeLong 1988), which is the area
    but for a term of the order 1/n: to count the pairs of each set would take minutes.
    """
    tables, labels = candidates.every_probability, candidates.labels
    # As many candidates at a time as memory is meant for: their tables need not be in it.
    step = max(1, HELD // (len(labels) * candidates.n_classes))
    blocks = [
        _areas(np.asarray(tables[start : start + step]), labels, inside)
        for start in range(0, len(tables), step)
    ]
    return np.concatenate(blocks)


def _areas(
    tables: NDArray[np.float32], labels: NDArray[np.int64], inside: Inside
) -> NDArray[np.float64]:
    """Return the mean areas of m candidates' probabilities (m, n, C) on each set, (m, B)."""
    candidates, n, n_classes = tables.shape
    told = np.array(_told(n_classes))
    positive = labels == told[:, None]
    ahead = np.empty((candidates, len(told), n), np.float32)
    for place, label in enumerate(told):
        for candidate in range(candidates):
            scores = tables[candidate, :, label]
            ahead[candidate, place] = _placements(scores, positive[place])
    # A photo is one of its class alone, so all classes' own photos are weighed at once.
    mine = np.flatnonzero(positive.any(axis=0))
    place_of = positive[:, mine].argmax(axis=0)
    own = ahead[:, place_of, mine]
    photos = positive @ inside
    areas = own @ (inside[mine] / np.maximum(photos, 1)[place_of]).astype(np.float32)
    whole = (own @ positive[:, mine].T / positive.sum(axis=1)).sum(axis=1, dtype=np.float64)
    ahead[:, place_of, mine] = 0
    others = np.maximum(inside.sum(axis=0) - photos, 1)
    for place in range(candidates):
        areas[place] += (ahead[place] @ inside / others).sum(axis=0)
    mean: NDArray[np.float64] = (areas.astype(np.float64) - whole[:, None]) / len(told)
    return mean


def _placements(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return for each photo the share of the other kind that it is rightly told from, (n,)."""
    found = np.empty(len(scores), np.float32)
    for side, sign in ((positive, 1), (~positive, -1)):
        mine, others = sign * scores[side], np.sort(sign * scores[~side])
        below = np.searchsorted(others, mine, "left") + np.searchsorted(others, mine, "right")
        found[side] = below / max(2 * len(others), 1)  # a tie is half a win
    return found


def _by_class(candidates: Candidates, inside: Inside, criterion: Criterion) -> NDArray[np.float32]:
    """Return all candidates' balanced accuracies or F1 on each set, (M, B)."""
    total = np.zeros((len(candidates.predicted), inside.shape[1]), np.float32)
    seen = np.zeros_like(total)
    for label in range(candidates.n_classes):
        mine = candidates.labels == label
        photos = inside[mine].sum(axis=0)
        named = candidates.predicted == label
        hits = named[:, mine].astype(np.float32) @ inside[mine]
        if criterion is Criterion.BALANCED_ACCURACY:
            whole, part = np.broadcast_to(photos, hits.shape), hits
        else:
            whole, part = photos + named.astype(np.float32) @ inside, 2 * hits
        total += part / np.maximum(whole, 1)
        seen += whole > 0
    return np.asarray(total / np.maximum(seen, 1), np.float32)


def criterion_of(metric: Metric) -> Criterion:
    """Return the criterion that is a search's metric."""
    return Criterion(metric.value)
