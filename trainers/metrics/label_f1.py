"""F1 of several labels: the mean over labels, and over all answers together."""

import numpy as np

from trainers.metrics.kinds import Floats, OfClasses, mean_share


class _OfLabels(OfClasses):
    """Looks at what is said to be there: answers that a label is not there are every other one."""

    kinds = frozenset({"labels"})


class LabelMacroF1(_OfLabels):
    """The mean F1 over the labels that photos have or are said to have."""

    name = "macro_f1"
    tag = "mf1-"
    classes_alike = True

    @property
    def label(self) -> str:
        """Its name as people write it."""
        return "macro F1"

    def of_counts(self, hits: Floats, photos: Floats, predicted: Floats) -> Floats:
        """Return the mean over labels of the harmonic means of recall and precision."""
        hits, photos, predicted = (each[1::2] for each in (hits, photos, predicted))
        return mean_share(2 * hits, photos + predicted)


class LabelMicroF1(_OfLabels):
    """The F1 of all labels of all photos together."""

    name = "micro_f1"
    tag = "uf1-"

    @property
    def label(self) -> str:
        """Its name as people write it."""
        return "micro F1"

    def of_counts(self, hits: Floats, photos: Floats, predicted: Floats) -> Floats:
        """Return the harmonic mean of recall and precision."""
        right, whole = 2 * hits[1::2].sum(axis=0), (photos + predicted)[1::2].sum(axis=0)
        found: Floats = np.divide(right, whole, out=np.zeros_like(right), where=whole > 0)
        return found
