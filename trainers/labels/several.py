"""Several labels for each photo, or one, or none."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainers.labels.one_class import Answers, LabelKind, Objective, plain
from trainers.metrics import Evaluation
from trainers.schedule import Loss

if TYPE_CHECKING:  # lists and answers are read without torch
    from torch import Tensor

SEPARATOR = ";"
"""Between the labels of a photo, in a list and in answers."""

_FOCUS_YES, _FOCUS_NO, _MARGIN, _LEAST = 1.0, 4.0, 0.05, 1e-8
"""Of the asymmetric loss: how little sure answers count, and how sure a label is absent at once."""


class LabelsObjective(Objective):
    """Binary cross-entropy, the mean over labels, each of which a photo has or has not."""

    def lowering(self, loss: Loss) -> Objective:
        """Return itself, or what lowers the asymmetric loss."""
        return AsymmetricObjective() if loss is Loss.ASYMMETRIC else self

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
        from torch.nn import functional

        return functional.binary_cross_entropy_with_logits(logits, truth)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return that of each label, (B, C)."""
        return logits.sigmoid()

    def mean(self, *logits: Tensor) -> Tensor:
        """Return the logits whose sigmoid is the mean of theirs."""
        import torch
        from torch.nn.functional import softplus

        every = torch.stack([each.float() for each in logits])
        # ONNX has no logsigmoid, and takes the logarithm of a sigmoid that is 0.
        return (-softplus(-every)).logsumexp(0) - (-softplus(every)).logsumexp(0)

    def evaluation(self, logits: Tensor, truth: Tensor) -> Evaluation:
        """Return a row for each photo and label: see `LabelKind`."""
        yes = plain(self.probabilities(logits))
        answers = truth.round().long().numpy() + 2 * np.arange(yes.shape[1])
        return Evaluation(answers.ravel(), np.stack([1 - yes, yes], 2).reshape(-1, 2))


class AsymmetricObjective(LabelsObjective):
    """The asymmetric loss (Ridnik et al. 2021), the mean over labels, as timm has it by default."""

    def _of_labels(self, logits: Tensor, truth: Tensor) -> Tensor:
        yes = logits.sigmoid()
        no = (1 - yes + _MARGIN).clamp(max=1)
        found = truth * yes.clamp(min=_LEAST).log() + (1 - truth) * no.clamp(min=_LEAST).log()
        sure = truth * yes + (1 - truth) * no
        return -(found * (1 - sure) ** (_FOCUS_YES * truth + _FOCUS_NO * (1 - truth))).mean()


class SeveralLabels(LabelKind):
    """Any number of labels for each photo: a question for each, answered 0 (no) or 1 (yes).

    Answer 2 l + 1 says that label l is there. The bits of `Photo.label` say which labels are.
    """

    name = "labels"
    column = "labels"
    plural = "labels"
    like = frozenset({"labels"})
    objective = LabelsObjective()
    weights_format = "2"

    def named(self, text: str) -> tuple[str, ...]:
        """Return the labels of "a;b"."""
        return tuple(sorted({name for part in text.split(SEPARATOR) if (name := part.strip())}))

    def number(self, text: str, classes: Sequence[str]) -> int:
        """Return the number whose bits are the labels."""
        return sum(1 << classes.index(name) for name in self.named(text))

    def text(self, label: int, classes: Sequence[str]) -> str:
        """Return "a;b"; nothing for a photo without labels."""
        return SEPARATOR.join(name for place, name in enumerate(classes) if label >> place & 1)

    def questions(self, n_classes: int) -> int:
        """Return one for each label."""
        return n_classes

    def n_answers(self, n_classes: int) -> int:
        """Return two for each label."""
        return 2 * n_classes

    def answers(self, labels: Sequence[int], n_classes: int) -> Answers:
        """Return for each photo and label the answer."""
        there = self.targets(labels, n_classes).astype(np.int64)
        return np.asarray((there + 2 * np.arange(n_classes)).ravel(), np.int64)

    def targets(self, labels: Sequence[int], n_classes: int) -> NDArray[Any]:
        """Return 1 where a label is there, else 0, (n, C)."""
        rows = [[label >> place & 1 for place in range(n_classes)] for label in labels]
        return np.array(rows, np.float32).reshape(len(labels), n_classes)

    def table(self, probabilities: NDArray[Any]) -> NDArray[Any]:
        """Return for each photo and label the probabilities that it is not there, and is."""
        return np.stack([1 - probabilities, probabilities], axis=2).reshape(-1, 2)

    def texts(self, answers: Answers, classes: Sequence[str]) -> list[str]:
        """Return "a;b" of each photo."""
        there = (answers % 2).reshape(-1, len(classes)).tolist()
        return [SEPARATOR.join(compress(classes, row)) for row in there]

    def names(self, classes: Sequence[str]) -> list[str]:
        """Name each of the answers: "no a" and "a" for each label."""
        return [text for name in classes for text in (f"no {name}", name)]

    def counts(self, labels: Sequence[int], n_classes: int) -> NDArray[np.int64]:
        """Count the photos that have each label."""
        there = self.targets(labels, n_classes)
        return np.asarray(there.sum(axis=0, dtype=np.float64), np.int64)
