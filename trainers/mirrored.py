"""Test-time augmentation by mirror images, as logits: a drop-in for a plain network.

The logits are those whose probabilities are the mean of both (`Objective.mean`). So
whatever takes a network's logits, be it a loss or an exported file's user, need not know of it.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from trainers.backbone import Network
from trainers.labels import CROSS_ENTROPY, Objective


class Mirrored(nn.Module):
    """Applies a network to squares (B, 3, S, S) and to their mirror images."""

    def __init__(self, network: nn.Module, objective: Objective = CROSS_ENTROPY) -> None:
        super().__init__()
        self.network = network
        self.objective = objective

    def forward(self, squares: Tensor) -> Tensor:
        """Return logits (B, C)."""
        return self.objective.mean(self.network(squares), self.network(squares.flip(3)))


class MirroredPairs(nn.Module):
    """Applies a network's tail to activations of photos and mirror images, (B, 2, ...)."""

    def __init__(self, rest: nn.Module, objective: Objective = CROSS_ENTROPY) -> None:
        super().__init__()
        self.rest = rest
        self.objective = objective

    def forward(self, pairs: Tensor) -> Tensor:
        """Return logits (B, C)."""
        return self.objective.mean(self.rest(pairs[:, 0]), self.rest(pairs[:, 1]))


class Seeing(nn.Module):
    """Applies networks as `judging` does to squares (B, 3, S, S), and also returns their features.

    These are the final ones, without inner levels. Features of mirror images are not returned, as
    references hold those of unmirrored photos. Of photos in folds, there is a network for each.
    """

    def __init__(
        self, networks: Sequence[Network], *, tta: bool, objective: Objective = CROSS_ENTROPY
    ) -> None:
        super().__init__()
        self.networks, self._tta = nn.ModuleList(networks), tta
        self.objective = objective

    def forward(self, squares: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return each network's logits (B, C) and features (B, F)."""
        return [self._of(network, squares) for network in self.networks]

    def _of(self, network: Any, squares: Tensor) -> tuple[Tensor, Tensor]:
        features = network.features(squares)
        logits = network.head(features)
        if self._tta:
            logits = self.objective.mean(logits, network(squares.flip(3)))
        return logits, features[:, : network.widths[0]]


def judging(network: nn.Module, *, tta: bool, objective: Objective = CROSS_ENTROPY) -> nn.Module:
    """Return the network itself, or with `tta` one that averages over mirror images."""
    return Mirrored(network, objective) if tta else network
