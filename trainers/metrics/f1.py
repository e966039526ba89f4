"""Macro F1."""

from trainers.metrics.kinds import Floats, MeanOverClasses, mean_share


class MacroF1(MeanOverClasses):
    """The mean F1 over the classes that have photos or predictions."""

    name = field = "f1"
    tag = "f1-"
    kinds = frozenset({"class"})

    def of_counts(self, hits: Floats, photos: Floats, predicted: Floats) -> Floats:
        """Return the mean of the harmonic means of recall and precision."""
        return mean_share(2 * hits, photos + predicted)
