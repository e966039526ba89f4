"""Accuracy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.metrics.kinds import Floats, Labels, OfPhotos


class Accuracy(OfPhotos):
    """The share of photos that are right."""

    name = field = "accuracy"
    tag = "acc"

    def worth(self, labels: Labels, predicted: Labels, losses: Floats) -> NDArray[Any]:  # noqa: ARG002
        """Return whether each photo is right."""
        return np.asarray(predicted == labels)
