"""Balanced accuracy."""

import numpy as np

from trainers.metrics.kinds import Floats, MeanOverClasses, mean_share


class BalancedAccuracy(MeanOverClasses):
    """The mean recall over the classes that have photos."""

    name = field = "balanced_accuracy"
    tag = "bacc"
    needs_predicted = False

    def of_counts(self, hits: Floats, photos: Floats, predicted: Floats) -> Floats:  # noqa: ARG002
        """Return the mean share of each class that is right."""
        return mean_share(hits, np.broadcast_to(photos, hits.shape))
