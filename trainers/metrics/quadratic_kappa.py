"""Quadratic weighted kappa."""

from collections.abc import Sequence

import numpy as np

from trainers.metrics.kinds import Floats, Labels, Numbers, OfSums


class QuadraticKappa(OfSums):
    """How well grades agree beyond chance, from -1 to 1; a constant answer has 0.

    Cohen's kappa with squared distances, as scikit-learn's `cohen_kappa_score` has it: one less the
    mean squared distance, over what it would be if answers went to photos at random.
    """

    name = "quadratic_kappa"
    tag = "qwk"
    kinds = frozenset({"grade"})
    is_share = False

    @property
    def label(self) -> str:
        """Its display name."""
        return "quadratic weighted kappa"

    def parts(self, labels: Labels, predicted: Labels) -> list[Floats]:
        """Return true and named grades, their squares, and the squared distance."""
        true, named = (np.asarray(grades, np.float32) for grades in (labels, predicted))
        return [true, named, true**2, named**2, (true - named) ** 2]

    def of_means(self, means: Sequence[Numbers]) -> Numbers:
        """Return one less the share of the distance by chance; 0 where that is 0."""
        apart, chance = np.asarray(means[4]), _by_chance(means)
        share = np.divide(apart, chance, out=np.ones_like(chance), where=chance > 0)
        return np.asarray(1 - share, np.float64)

    def dear(self, means: Sequence[Numbers], n_classes: int) -> float:
        """Return what a photo would take whose answer is at the other end of the grades."""
        chance = float(_by_chance(means))
        return (n_classes - 1) ** 2 / chance if chance > 0 else 1.0


def _by_chance(means: Sequence[Numbers]) -> Numbers:
    """Return the mean squared distance of answers that go to photos at random."""
    true, named, true_square, named_square, _ = means
    return np.asarray(true_square + named_square - 2 * true * named, np.float64)
