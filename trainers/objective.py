"""What a network lowers in training, and what its logits say: an object a kind of label."""

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from trainers.metrics import Evaluation


class Objective:
    """Cross-entropy over classes, of which each photo has one."""

    kind: ClassVar[str] = "class"

    def loss(
        self,
        logits: Tensor,
        truth: Tensor,
        *,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """Return the mean loss of photos whose labels are classes, or shares of classes."""
        if class_weights is None:
            return functional.cross_entropy(logits, truth, label_smoothing=label_smoothing)
        # Not torch's weighted mean: among few photos, it would give their weights back again.
        weighted = functional.cross_entropy(
            logits, truth, class_weights, label_smoothing=label_smoothing, reduction="sum"
        )
        return weighted / len(truth)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return those of each class, (B, C)."""
        return logits.softmax(1)

    def mean(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the logits whose probabilities are the mean of those of two logits."""
        both = torch.stack([one.float().log_softmax(1), other.float().log_softmax(1)])
        return both.logsumexp(0) - float(np.log(2))

    def evaluation(self, logits: Tensor, truth: Tensor) -> Evaluation:
        """Return what logits (n, C) on the CPU say of photos."""
        return Evaluation(truth.numpy(), _plain(self.probabilities(logits)))


OBJECTIVES: dict[str, Objective] = {each.kind: each for each in (Objective(),)}
"""The objectives by the kind of labels."""

ONE_CLASS = OBJECTIVES[Objective.kind]


def _plain(probabilities: Tensor) -> NDArray[np.float32]:
    return probabilities.numpy().astype(np.float32)
