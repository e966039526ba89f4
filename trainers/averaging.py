"""An exponential moving average of a network's weights, beside the network that trains."""

from typing import cast

from timm.utils.model_ema import ModelEmaV3

from trainers.backbone import Network


class Average:
    """The average of a network's weights over its steps, as timm keeps it.

    BatchNorm's statistics are averaged like the weights that they belong to. The decay is
    min(`decay`, (1 + step) / (10 + step)), so that a short stage soon forgets where it began. Not
    torch's `AveragedModel`: its decay is the same at every step.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self._kept = ModelEmaV3(
            network, decay=decay, use_warmup=True, warmup_gamma=9, warmup_power=1
        )

    @property
    def network(self) -> Network:
        """A network with the average's weights, for validation."""
        return cast("Network", self._kept.module)

    def update(self, network: Network, step: int) -> None:
        """Update with the weights after a step of the stage, counted from 0."""
        self._kept.update(network, step + 2)  # timm counts from 2 on
