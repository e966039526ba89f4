"""Kinds of metrics: means over photos, and functions of such means or of each class's counts.

A metric defines its formula, and its kind computes everything else: one table's score, many at
once, and each photo's contribution. Intervals and sets of photos are `study.statistics.scoring`'s.
"""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trainers.metrics.criterion import Criterion
from trainers.metrics.evaluation import Evaluation, class_counts

Labels = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
Numbers = NDArray[np.float64]


class Metric(Criterion):
    """A score of an epoch's predictions by which a search can be ranked.

    `field` is the one of `EpochNumbers` that holds it; without one it is kept as `own_score`.
    `is_loss` says that the forecast of a search models the calibrated log loss alone.
    """

    field: ClassVar[str | None] = None
    is_loss: ClassVar[bool] = False

    def of(self, evaluation: Evaluation, *, stored: bool = False) -> float:
        """Return the score of predictions; if `stored`, of probabilities as files keep them."""
        raise NotImplementedError

    def gains(self, labels: Labels, predicted: Labels, losses: Floats) -> Numbers:
        """Split the score into each photo's contribution, (n,), so that more is better."""
        raise NotImplementedError

    def stakes(self, labels: Labels) -> Numbers:
        """Return how much n times the score changes with each photo's prediction, (n,).

        It is 0 for a continuous score.
        """
        raise NotImplementedError

    def missing(self, score: Floats) -> Floats:
        """Return the distance of scores from a perfect one, at least 0."""
        return np.maximum(1 - score if self.higher_is_better else score, 0)


class OfPhotos(Metric):
    """A mean over photos."""

    def worth(self, labels: Labels, predicted: Labels, losses: Floats) -> NDArray[Any]:
        """Return what each photo counts, by its class, its answer and its log loss, (..., n)."""
        raise NotImplementedError

    def dear(self, n_classes: int) -> float:  # noqa: ARG002 - grades are off by so many
        """Return what a photo may count though none was seen to, where less is better."""
        return 1.0

    def of(self, evaluation: Evaluation, *, stored: bool = False) -> float:
        """Return the mean over all photos."""
        losses = evaluation.losses(stored=stored)
        return float(self.worth(evaluation.labels, evaluation.predicted, losses).mean())

    def gains(self, labels: Labels, predicted: Labels, losses: Floats) -> Numbers:
        """Return each photo's value, negated if less is better."""
        found = self.worth(labels, predicted, losses).astype(np.float64)
        return found if self.higher_is_better else -found

    def stakes(self, labels: Labels) -> Numbers:
        """Return 1 for each photo if the score is a share."""
        return np.full(len(labels), float(self.is_share))


class OfClasses(Metric):
    """A function of how many photos of each class there are, are right and are predicted.

    The best is 1, the worst `lowest`; `needs_predicted` says whether it looks at the last.
    """

    lowest: ClassVar[float] = 0.0
    needs_predicted: ClassVar[bool] = True

    def of_counts(self, hits: Floats, photos: Floats, predicted: Floats) -> Floats:
        """Return scores, (...), of counts, (C, ...) each: photos may be the same for all, (C, 1).

        Counts may be fractions.
        """
        raise NotImplementedError

    def of(self, evaluation: Evaluation, *, stored: bool = False) -> float:  # noqa: ARG002
        """Return the score of an evaluation's confusion."""
        return self.of_confusion(evaluation.confusion)

    def of_confusion(self, confusion: NDArray[np.int64]) -> float:
        """Return the score of counts (C, C), row: true, column: predicted."""
        sums = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
        return float(self.of_counts(*(each.astype(np.float64) for each in sums)))

    def gains(self, labels: Labels, predicted: Labels, losses: Floats) -> Numbers:  # noqa: ARG002
        """Return the jackknife's pseudo-values (Tukey 1958), moved so that their mean is the score.

        A photo's contribution is what the score loses without it, which depends only on its true
        and predicted class.
        """
        n, n_classes = len(labels), 1 + int(max(labels.max(), predicted.max()))
        pairs, where = np.unique(labels * n_classes + predicted, return_inverse=True)
        true, named = np.divmod(pairs, n_classes)
        counts = class_counts(labels, predicted[None], n_classes)
        without = [np.repeat(each, len(pairs), axis=1) for each in counts]
        place = np.arange(len(pairs))
        without[0][true, place] -= true == named
        without[1][true, place] -= 1
        without[2][named, place] -= 1
        score = self.of_counts(*counts)[0]
        pseudo = (n * score - (n - 1) * self.of_counts(*without))[where]
        return np.asarray(pseudo - pseudo.mean() + score, np.float64)

    def stakes(self, labels: Labels) -> Numbers:
        """Return how much one mistake takes from a perfect score, times n, whatever it predicts."""
        photos = np.bincount(labels).astype(np.float64)[:, None]
        one = np.eye(len(photos))
        spread = (1 - one) / max(len(photos) - 1, 1)
        mistaken = self.of_counts(photos - one, photos, photos - one + spread)
        return np.asarray(len(labels) * (1 - mistaken)[labels], np.float64)


class MeanOverClasses(OfClasses):
    """A mean over classes with equal weights.

    A photo's contribution is its share of its class's recall: F1 is not a mean over photos, and is
    split like balanced accuracy.
    """

    classes_alike = True

    def gains(self, labels: Labels, predicted: Labels, losses: Floats) -> Numbers:  # noqa: ARG002
        """Return each photo's share where it is right, else 0."""
        return np.asarray(self.stakes(labels) * (predicted == labels), np.float64)

    def stakes(self, labels: Labels) -> Numbers:
        """Return each photo's share of its class, times n."""
        counts = np.bincount(labels)
        return np.asarray(len(labels) / (counts[labels] * np.count_nonzero(counts)), np.float64)


class OfSums(Metric):
    """A function of several means over photos, of what their true and their named class amount to.

    The best is 1, the worst `lowest`.
    """

    lowest: ClassVar[float] = -1.0

    def parts(self, labels: Labels, predicted: Labels) -> list[Floats]:
        """Return what is averaged, (n,) or (..., n) each."""
        raise NotImplementedError

    def of_means(self, means: Sequence[Numbers]) -> Numbers:
        """Return scores, (...), of means, (...) each."""
        raise NotImplementedError

    def dear(self, means: Sequence[Numbers], n_classes: int) -> float:
        """Return what a photo may take from the score times n, though none was seen to."""
        raise NotImplementedError

    def means(self, labels: Labels, predicted: Labels) -> list[Numbers]:
        """Return the means over all photos, (...) each."""
        return [part.mean(axis=-1, dtype=np.float64) for part in self.parts(labels, predicted)]

    def of(self, evaluation: Evaluation, *, stored: bool = False) -> float:  # noqa: ARG002
        """Return the score of an evaluation's answers."""
        return float(self.of_means(self.means(evaluation.labels, evaluation.predicted)))

    def gains(self, labels: Labels, predicted: Labels, losses: Floats) -> Numbers:  # noqa: ARG002
        """Return the jackknife's pseudo-values, moved so that their mean is the score."""
        n, means = len(labels), self.means(labels, predicted)
        score = self.of_means(means)
        parts = self.parts(labels, predicted)
        without = [
            (n * mean - part) / max(n - 1, 1) for mean, part in zip(means, parts, strict=True)
        ]
        pseudo = n * score - (n - 1) * self.of_means(without)
        return np.asarray(pseudo - pseudo.mean() + score, np.float64)

    def stakes(self, labels: Labels) -> Numbers:
        """Return how much a mistake takes from a perfect score, times n: any other class."""
        n, classes = len(labels), np.arange(labels.max() + 1)
        means = [mean[None, None] for mean in self.means(labels, labels)]
        right = self.parts(classes[:, None], classes[:, None])
        wrong = self.parts(classes[:, None], classes[None])
        moved = [m + (w - r) / n for m, w, r in zip(means, wrong, right, strict=True)]
        lost = n * (1 - self.of_means(moved)).sum(axis=1) / max(len(classes) - 1, 1)
        return np.asarray(lost[labels], np.float64)


class OfRanks(Metric):
    """A mean over labels of how well the photos that have one come before those that have not.

    Labels that all photos have, or none, say nothing and are left out. Probabilities are taken as
    files keep them.
    """

    kinds = frozenset({"labels"})
    classes_alike = True

    def of_sweep(self, hits: Numbers, named: Numbers) -> tuple[float, Numbers, Numbers]:
        """Return a label's score, and by how much photos of a place raise it, (G,) twice.

        That is, for each unit of weight, of photos that have the label and of others (the score's
        slope). Of G places, the most probable first, `hits` count photos that have the label up to
        there, and `named` all, (G,).
        """
        raise NotImplementedError

    def of(self, evaluation: Evaluation, *, stored: bool = False) -> float:
        """Return the mean over labels."""
        return self.of_rows(evaluation.labels, evaluation.losses(stored=stored))

    def of_rows(self, labels: Labels, losses: Floats) -> float:
        """Return the mean over labels, of rows of photos and labels; NaN if none says anything."""
        by_label = self._by_label(labels, losses)
        found = [self.of_label(there, shares)[0] for _, there, shares in by_label]
        return float(np.mean(found)) if found else float("nan")

    def of_label(self, there: NDArray[np.bool_], shares: Numbers) -> tuple[float, Numbers]:
        """Return a label's score by its probabilities, (n,), and what each photo adds to it, (n,).

        What photos add has the score for its mean: n times the score's slope along a photo's weight
        (the infinitesimal jackknife, Jaeckel 1972).
        """
        order = np.argsort(-shares, kind="stable")
        ends = np.append(np.diff(shares[order]) != 0, True)
        hits = there[order].cumsum()[ends].astype(np.float64)
        named = 1 + np.flatnonzero(ends).astype(np.float64)
        score, having, others = self.of_sweep(hits, named)
        place = np.empty(len(order), np.int64)
        place[order] = np.append(0, ends.cumsum()[:-1])
        return score, score + len(order) * np.where(there, having[place], others[place])

    def gains(self, labels: Labels, predicted: Labels, losses: Floats) -> Numbers:  # noqa: ARG002
        """Return what each photo and label adds, (n,), so that the mean is the score."""
        found, told = np.zeros(len(labels)), 0
        for mine, there, shares in self._by_label(labels, losses):
            _, found[mine] = self.of_label(there, shares)
            told += len(there)
        return found * (len(labels) / max(told, 1))

    def stakes(self, labels: Labels) -> Numbers:
        """Return 0 for each: answers differ by degrees."""
        return np.zeros(len(labels))

    def _by_label(
        self, labels: Labels, losses: Floats
    ) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_], Numbers]]:
        """Yield each label's rows, (n,), and which of these have it, with what probabilities."""
        shares, there = shares_of(labels, np.exp(-losses)), labels % 2 == 1
        for label in np.unique(labels // 2):
            mine = labels // 2 == label
            if there[mine].any() and not there[mine].all():
                yield mine, there[mine], shares[mine]


def shares_of(labels: Labels, p_true: Floats) -> Numbers:
    """Return the probability of labels, as files keep it, of that of rows' true answers, (n,)."""
    yes = np.where(labels % 2 == 1, p_true, 1 - p_true)
    return yes.astype(np.float16).astype(np.float64)


def mean_share(part: Floats, whole: Floats) -> Floats:
    """Return the mean over the non-empty classes, (C, ...)."""
    there = whole > 0
    shares = np.divide(part, whole, out=np.zeros(whole.shape, whole.dtype), where=there)
    found: Floats = shares.sum(axis=0) / np.maximum(there.sum(axis=0), 1).astype(whole.dtype)
    return found
