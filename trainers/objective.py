"""What a network lowers in training, and what its logits say: an object a kind of label."""

import math
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from trainers.metrics import Evaluation
from trainers.schedule import Loss

_FOCUS_YES, _FOCUS_NO, _MARGIN, _LEAST = 1.0, 4.0, 0.05, 1e-8
"""Of the asymmetric loss: how little sure answers count, and how sure a label is absent at once."""


class Objective:
    """Cross-entropy over classes, of which each photo has one."""

    kind: ClassVar[str] = "class"

    def lowering(self, loss: Loss) -> "Objective":
        """Return the objective of a stage whose loss is that one; ValueError if it has none."""
        if loss is not Loss.ENTROPY:
            raise ValueError(f"loss must be {Loss.ENTROPY} but for several labels, got {loss}")
        return self

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

    def validation_loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Return the mean log loss of photos."""
        return self.loss(logits, truth)

    def evaluation(self, logits: Tensor, truth: Tensor) -> Evaluation:
        """Return what logits (n, C) on the CPU say of photos."""
        return Evaluation(truth.numpy(), _plain(self.probabilities(logits)))


class SeveralLabels(Objective):
    """Binary cross-entropy, the mean over labels, each of which a photo has or has not."""

    kind = "labels"

    def lowering(self, loss: Loss) -> Objective:
        """Return itself, or what lowers the asymmetric loss."""
        return Asymmetric() if loss is Loss.ASYMMETRIC else self

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
        return self._of_labels(logits, smoothed)

    def _of_labels(self, logits: Tensor, truth: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(logits, truth)

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


class Asymmetric(SeveralLabels):
    """The asymmetric loss (Ridnik et al. 2021), the mean over labels, as timm has it by default."""

    def _of_labels(self, logits: Tensor, truth: Tensor) -> Tensor:
        yes = logits.sigmoid()
        no = (1 - yes + _MARGIN).clamp(max=1)
        found = truth * yes.clamp(min=_LEAST).log() + (1 - truth) * no.clamp(min=_LEAST).log()
        sure = truth * yes + (1 - truth) * no
        return -(found * (1 - sure) ** (_FOCUS_YES * truth + _FOCUS_NO * (1 - truth))).mean()


class Grades(Objective):
    """The sum of the binary cross-entropies of the C - 1 questions whether a grade is above k.

    Ordinal regression as binary questions (Frank and Hall 2001; Cheng, Wang and Pollastri 2008)
    with a softmax's sums for their answers, which so agree with each other: the ranked form of the
    log loss (Toedter and Ahrens 2012), a proper score. An answer that is far off costs more.
    """

    kind = "grade"

    def loss(
        self,
        logits: Tensor,
        truth: Tensor,
        *,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """Return the mean loss of photos whose labels are grades, or shares of grades."""
        count = logits.shape[1]
        if not truth.is_floating_point():
            truth = functional.one_hot(truth, count).to(logits.dtype)
        truth = truth * (1 - label_smoothing) + label_smoothing / count
        if class_weights is not None:
            truth = truth * class_weights
        return (truth * self._losses(logits)).sum() / len(truth)

    def _losses(self, logits: Tensor) -> Tensor:
        """Return what it costs if each of the grades is the true one, (B, C)."""
        above = torch.ones(logits.shape[1] - 1, logits.shape[1], device=logits.device).triu(1)
        likely = logits.log_softmax(1)[:, None]
        yes = likely.masked_fill(above == 0, -math.inf).logsumexp(2)
        no = likely.masked_fill(above == 1, -math.inf).logsumexp(2)
        return -(yes @ above + no @ (1 - above))

    def validation_loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Return the mean log loss, as that of any classes."""
        return super().loss(logits, truth)


OBJECTIVES: dict[str, Objective] = {
    each.kind: each for each in (Objective(), SeveralLabels(), Grades())
}
"""The objectives by the kind of labels."""

ONE_CLASS = OBJECTIVES[Objective.kind]


def _plain(probabilities: Tensor) -> NDArray[np.float32]:
    return probabilities.numpy().astype(np.float32)
