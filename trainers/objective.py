"""What a network lowers in training, and what its logits say: an object a kind of label."""

import math
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
        return both.logsumexp(0) - math.log(2)

    def evaluation(self, logits: Tensor, truth: Tensor) -> Evaluation:
        """Return what logits (n, C) on the CPU say of photos."""
        return Evaluation(truth.numpy(), _plain(self.probabilities(logits)))


class SeveralLabels(Objective):
    """Binary cross-entropy, the mean over labels, each of which a photo has or has not."""

    kind = "labels"

    def loss(
        self,
        logits: Tensor,
        truth: Tensor,
        *,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """Return the mean loss of photos whose labels (B, C) are from 0 to 1."""
        if class_weights is not None:
            raise ValueError("class weights are for photos of one class each, not several labels")
        smoothed = truth * (1 - label_smoothing) + label_smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, smoothed)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return that of each label, (B, C)."""
        return logits.sigmoid()

    def mean(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the logits whose sigmoid is the mean of both."""
        yes, no = (
            torch.logaddexp(functional.logsigmoid(a), functional.logsigmoid(b))
            for a, b in ((one.float(), other.float()), (-one.float(), -other.float()))
        )
        return yes - no

    def evaluation(self, logits: Tensor, truth: Tensor) -> Evaluation:
        """Return a row for each photo and label: see `LabelKind`."""
        yes = _plain(self.probabilities(logits))
        answers = truth.round().long().numpy() + 2 * np.arange(yes.shape[1])
        return Evaluation(answers.ravel(), np.stack([1 - yes, yes], 2).reshape(-1, 2))


OBJECTIVES: dict[str, Objective] = {each.kind: each for each in (Objective(), SeveralLabels())}
"""The objectives by the kind of labels."""

ONE_CLASS = OBJECTIVES[Objective.kind]


def _plain(probabilities: Tensor) -> NDArray[np.float32]:
    return probabilities.numpy().astype(np.float32)
