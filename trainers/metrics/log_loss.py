"""Log loss."""

from typing import Any

from numpy.typing import NDArray

from trainers.metrics.kinds import Floats, Labels, OfPhotos


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

    def dear(self, n_classes: int) -> float:  # noqa: ARG002
        """Return the loss of a photo of which a network is wrong, and sure of it."""
        return 4.0

    def worth(self, labels: Labels, predicted: Labels, losses: Floats) -> NDArray[Any]:  # noqa: ARG002
        """Return each photo's loss."""
        return losses
