"""Log loss."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.metrics.kinds import Floats, OfPhotos


class LogLoss(OfPhotos):
    """The mean negative logarithm of the true class's probability, which is at least `SMALLEST`.

    An epoch's is the validation loss that its trainer states.
    """

    name = "log_loss"
    field = "valid_loss"
    tag = "loss"
    higher_is_better = False
    is_share = False
    is_loss = True

    def worth(self, right: NDArray[np.bool_], losses: Floats) -> NDArray[Any]:  # noqa: ARG002
        """Return each photo's loss."""
        return losses
