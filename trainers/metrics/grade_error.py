"""By how many grades answers are off."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.metrics.kinds import Floats, Labels, OfPhotos


class GradeError(OfPhotos):
    """The mean number of grades between a photo's and the one that is named."""

    name = "mean_absolute_error"
    tag = "mae"
    kinds = frozenset({"grade"})
    higher_is_better = False
    is_share = False

    def dear(self, n_classes: int) -> float:
        """Return how far the first grade is from the last."""
        return n_classes - 1.0

    def worth(self, labels: Labels, predicted: Labels, losses: Floats) -> NDArray[Any]:  # noqa: ARG002
        """Return by how many grades each photo is off."""
        return np.asarray(np.abs(predicted - labels), np.float64)
