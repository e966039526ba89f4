"""Scores of predictions by any criterion: of one choice, or of all candidates at once. Pure.

A criterion defines the value of a photo or a class (`trainers.metrics`); this module computes from
it, by its kind, scores of sets of photos, intervals, and each photo's contribution.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.criterion import Area, Cost
from study.statistics.areas import auroc, aurocs, delong, placements
from study.statistics.groups import Groups, design_effect
from study.statistics.intervals import (
    FEWEST_OF_CLASS,
    Limits,
    of_area,
    of_classes,
    of_mean,
    of_ranks,
    wilson,
)
from study.statistics.tables import HELD, Tables
from trainers.decision import Decision
from trainers.metrics import (
    Criterion,
    Metric,
    OfClasses,
    OfPhotos,
    OfRanks,
    OfSums,
    class_counts,
    confusion_matrix,
    negative_log,
)
from trainers.temperature import SMALLEST


@dataclass(frozen=True, eq=False)
class Candidates:
    """The predictions of M candidates for the same n photos of C classes.

    `labels` (n,); `predicted` (M, n); `p_true` (M, n), the true class's probability;
    `probabilities` (M, n, C), if a criterion needs them; `groups` (n,), if photos have any.
    With several `questions` a photo, n are their answers, and C those of all questions.
    """

    labels: NDArray[np.int64]
    n_classes: int
    predicted: NDArray[np.int64]
    p_true: NDArray[np.float32] | NDArray[np.float64]
    probabilities: NDArray[np.float32] | Tables | None = None
    groups: Groups | None = None
    questions: int = 1

    @cached_property
    def losses(self) -> NDArray[Any]:
        """Each photo's log loss, (M, n); NaN counts as probability 0."""
        return negative_log(np.nan_to_num(self.p_true))

    @property
    def photos(self) -> NDArray[np.int64]:
        """How many photos there are of each class, (C,)."""
        return np.bincount(self.labels, minlength=self.n_classes)

    @property
    def n_independent(self) -> int:
        """How many photos there are, or groups of them."""
        return len(self.labels) if self.groups is None else int(self.groups.max(initial=-1)) + 1

    @property
    def independent(self) -> NDArray[np.int64]:
        """How many photos there are of each class, or groups that have some, (C,)."""
        if self.groups is None:
            return self.photos
        of_class = np.unique(np.stack([self.groups, self.labels]), axis=1)[1]
        return np.bincount(of_class, minlength=self.n_classes)

    def of(self, rows: "Rows") -> "Candidates":
        """Return the same candidates on some of the photos."""
        found = self.probabilities
        if isinstance(found, Tables):
            whole = found
            found = Tables(lambda column: whole[column][rows], len(whole))
        elif found is not None:
            found = found[:, rows]
        groups = self.groups
        if groups is not None:
            groups = np.unique(groups[rows], return_inverse=True)[1]
        mine = (self.predicted[:, rows], self.p_true[:, rows], found, groups)
        return Candidates(self.labels[rows], self.n_classes, *mine, self.questions)

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
        if isinstance(criterion, Cost) != (decision is not None):
            raise ValueError(f"a decision must be given for cost and nothing else, got {criterion}")
        self.candidates = candidates
        self.higher_is_better = criterion.higher_is_better
        self._criterion = criterion
        self._decision = decision

    def of(self, rows: Rows) -> "Scorer":
        """Return a scorer of the same candidates on some of the photos."""
        return Scorer(self.candidates.of(rows), self._criterion, self._decision)

    def score(self, columns: Columns, rows: Rows) -> float:
        """Return the score of the candidates `columns` on the photos `rows`."""
        candidates = self.candidates
        match self._criterion:
            case Area():
                table = candidates.every_probability[columns, rows]
                return auroc(candidates.labels[rows], table)
            case OfClasses() as metric:
                return metric.of_confusion(self._confusion(columns, rows))
            case OfRanks() as metric:
                return metric.of_rows(candidates.labels[rows], candidates.losses[columns, rows])
            case OfSums() as metric:
                means = metric.means(candidates.labels[rows], candidates.predicted[columns, rows])
                return float(metric.of_means(means))
            case _:
                return float(self._worth[columns, rows].mean(dtype=np.float64))

    def first(self) -> tuple[int, tuple[float, float]]:
        """Return the best on all photos, ties by log loss: its index, and its rank."""
        candidates, rows = self.candidates, np.arange(len(self.candidates.labels))
        losses = candidates.losses.mean(axis=1, dtype=np.float64)
        match self._criterion:
            case Area() | OfRanks():
                every = range(len(candidates.predicted))
                scores = np.array([self.score(np.full(len(rows), each), rows) for each in every])
            case OfClasses() as metric:
                counts = class_counts(candidates.labels, candidates.predicted, candidates.n_classes)
                scores = metric.of_counts(*counts)
            case OfSums() as metric:
                scores = metric.of_means(metric.means(candidates.labels, candidates.predicted))
            case _:
                scores = self._worth.mean(axis=1, dtype=np.float64)
        best = int(np.lexsort((losses, -scores if self.higher_is_better else scores))[0])
        return best, self._criterion.rank(float(scores[best]), float(losses[best]))

    def evidence(self, columns: Columns) -> NDArray[np.float64]:
        """Return what `limits` needs beside the score, for the candidates `columns` on all photos.

        Evidence of several choices may be averaged.
        """
        rows = np.arange(len(columns))
        match self._criterion:
            case OfClasses():
                return self._confusion(columns, rows).astype(np.float64)
            case Area():
                table = self.candidates.every_probability[columns, rows]
                return np.array(delong(self.candidates.labels, table))
            case OfRanks():
                squares = np.square(self._worth[columns, rows] - self._worth[columns, rows].mean())
                telling = squares.sum() ** 2 / max(np.square(squares).sum(), SMALLEST)
                return np.array([squares.mean(dtype=np.float64), telling], np.float64)
            case OfSums() as metric:
                labels, predicted = self.candidates.labels, self.candidates.predicted[columns, rows]
                lost = 1 - metric.gains(labels, predicted, self.candidates.losses[columns, rows])
                dear = metric.dear(metric.means(labels, predicted), self.candidates.n_classes)
                return np.array([np.square(lost).mean(), dear])
            case _:
                worth = self._worth[columns, rows].astype(np.float64)
                return np.array([np.square(worth).mean()])

    def limits(self, score: float, evidence: NDArray[np.float64], effect: float = 1.0) -> Limits:
        """Return the 95 % interval of a score on all photos, for a design `effect`."""
        n, counts = len(self.candidates.labels) / effect, self.candidates.photos / effect
        match self._criterion:
            case OfClasses() as metric:
                return of_classes(score, evidence / effect, metric, self.candidates.questions)
            case Area():
                return of_area(score, evidence[0] * effect, evidence[1] / effect, counts)
            case OfRanks():
                return of_ranks(score, evidence[0] / n, evidence[1], self.candidates.photos)
            case OfSums() as metric:
                least, most = of_mean(1 - score, evidence[0], n, evidence[1])
                return max(1 - most, metric.lowest), 1 - least
            case OfPhotos(is_share=True):
                return wilson(score * n, n)
            case _:
                return of_mean(score, evidence[0], n, self._dear)

    def design_effect(self, column: int) -> float:
        """Return the design effect of the photos' groups."""
        groups = self.candidates.groups
        return 1.0 if groups is None else design_effect(self.gains(column), groups)

    def within(self, inside: Inside) -> Scores:
        """Score each candidate on each set of photos; log loss breaks ties."""
        found: NDArray[Any]
        match self._criterion:
            case Area():
                found = aurocs(self.candidates.every_probability, self.candidates.labels, inside)
            case OfClasses() as metric:
                found = _by_class(self.candidates, inside, metric)
            case OfSums() as metric:
                parts = metric.parts(self.candidates.labels, self.candidates.predicted)
                sums = (np.asarray(part @ inside, np.float64) for part in parts)
                found = metric.of_means([each / inside.sum(axis=0) for each in sums])
            case _:
                sign = np.float32(1 if self.higher_is_better else -1)
                found = (sign * self._worth) @ inside / inside.sum(axis=0)
        # Less than the effect of a single photo, so that it only breaks ties.
        tiny = 0.5 / (len(self.candidates.labels) ** 2 * -np.log(SMALLEST))
        scores: Scores = found.astype(np.float64) - tiny * (self.candidates.losses @ inside)
        return scores

    def gains(self, column: int) -> NDArray[np.float64]:
        """Split a candidate's score into each photo's contribution, (n,): more is better."""
        candidates, n = self.candidates, len(self.candidates.labels)
        match self._criterion:
            case Metric() as metric:
                predicted, losses = candidates.predicted[column], candidates.losses[column]
                return metric.gains(candidates.labels, predicted, losses)
            case Area():
                gained = np.mean(
                    [
                        placements(scores, candidates.labels == label)
                        for label, scores in enumerate(candidates.every_probability[column].T)
                    ],
                    axis=0,
                )
                counts = candidates.photos
                share = n / (counts[candidates.labels] * np.count_nonzero(counts))
                return np.asarray(share * gained, np.float64)
            case _:
                return np.asarray(-self._worth[column], np.float64)

    @property
    def few(self) -> int | None:
        """The class with too few photos, or groups, for an interval, if each class has its own."""
        counts = self.candidates.independent
        by_class = isinstance(self._criterion, OfClasses | OfRanks | Area)
        return int(counts.argmin()) if by_class and counts.min() < FEWEST_OF_CLASS else None

    @property
    def _dear(self) -> float:
        """The highest possible value of a photo, even if none was observed."""
        if isinstance(self._criterion, OfPhotos):
            return self._criterion.dear(self.candidates.n_classes)
        if self._decision is None:
            raise TypeError(f"{self._criterion} must be a mean over photos")
        return max(*map(max, self._decision.costs), self._decision.reject_cost or 0.0)

    def _confusion(self, columns: Columns, rows: Rows) -> NDArray[np.int64]:
        candidates = self.candidates
        predicted = candidates.predicted[columns, rows]
        return confusion_matrix(candidates.labels[rows], predicted, candidates.n_classes)

    @cached_property
    def _worth(self) -> NDArray[Any]:
        """What each photo adds to a score that is a mean over photos, or nearly one, (M, n)."""
        candidates, rule = self.candidates, self._decision
        if isinstance(self._criterion, OfRanks):
            every = range(len(candidates.predicted))
            return np.stack([self.gains(column).astype(np.float32) for column in every])
        if rule is not None:
            prices = (
                rule.prices(candidates.labels, rule.decide(p)) for p in candidates.every_probability
            )
            return np.stack([price.astype(np.float32) for price in prices])
        if not isinstance(self._criterion, OfPhotos):
            raise TypeError(f"{self._criterion} must be a mean over photos, or of another kind")
        worth = self._criterion.worth(candidates.labels, candidates.predicted, candidates.losses)
        return worth.astype(np.float32) if worth.dtype == np.bool_ else worth


def _by_class(candidates: Candidates, inside: Inside, metric: OfClasses) -> NDArray[Any]:
    """Return all candidates' scores on each set, (M, B), in blocks that fit into memory."""
    n_classes, sets = candidates.n_classes, inside.shape[1]
    members = [candidates.labels == label for label in range(n_classes)]
    own = [inside[mine] for mine in members]
    photos = np.stack([each.sum(axis=0) for each in own])[:, None]  # (C, 1, B)
    step = max(1, HELD // (2 * n_classes * sets))
    blocks = []
    for start in range(0, len(candidates.predicted), step):
        predicted = candidates.predicted[start : start + step]
        hits = np.empty((n_classes, len(predicted), sets), np.float32)
        named = np.zeros_like(hits) if metric.needs_predicted else hits
        for label, mine in enumerate(members):
            said = predicted == label
            hits[label] = said[:, mine].astype(np.float32) @ own[label]
            if metric.needs_predicted:
                named[label] = said.astype(np.float32) @ inside
        blocks.append(metric.of_counts(hits, photos, named))
    return np.concatenate(blocks)
