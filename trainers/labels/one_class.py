"""One class for each photo; other kinds of labels are subclasses of these two.

A kind has two sides: what a label is and what answers it (`LabelKind`, pure), and what a network
lowers in training (`Objective`, of torch's tensors). A photo is asked one or several *questions*,
each of which has as many answers as the next. All that scores predictions sees questions alone: row
by row, photo after photo, with answers numbered on from one question of a photo to its next.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trainers.metrics import Evaluation
from trainers.schedule import Loss

if TYPE_CHECKING:  # lists and answers are read without torch
    from torch import Tensor

Answers = NDArray[np.int64]


class Objective:
    """Cross-entropy over classes, of which each photo has one."""

    def lowering(self, loss: Loss) -> Objective:
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
        from torch.nn import functional

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

    def mean(self, *logits: Tensor) -> Tensor:
        """Return the logits whose probabilities are the mean of those of several logits."""
        import torch

        every = torch.stack([each.float().log_softmax(1) for each in logits])
        return every.logsumexp(0) - math.log(len(logits))

    def validation_loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Return the mean log loss of photos."""
        return self.loss(logits, truth)

    def evaluation(self, logits: Tensor, truth: Tensor) -> Evaluation:
        """Return what logits (n, C) on the CPU say of photos."""
        return Evaluation(truth.numpy(), plain(self.probabilities(logits)))


CROSS_ENTROPY = Objective()


class LabelKind:
    """One class for each photo: one question, whose answers are the classes.

    Another kind is a subclass in a file of its own, registered in `trainers.labels.KINDS`.
    `Photo.label` is the number that `number` makes of what a list or a folder says; `name` is what
    a manifest keeps, `column` that of a CSV. Criteria that are of one of the kinds `like` it are of
    it, too. Weights have the version `weights_format`, of what an older Encore would misread one
    that it refuses.
    """

    name: ClassVar[str] = "class"
    column: ClassVar[str] = "label"
    plural: ClassVar[str] = "classes"
    like: ClassVar[frozenset[str]] = frozenset({"class"})
    objective: ClassVar[Objective] = CROSS_ENTROPY
    weights_format: ClassVar[str] = "1"

    def ordered(self, classes: Iterable[str]) -> tuple[str, ...]:
        """Put the names of all classes into the order of their numbers; may raise DatasetError."""
        return tuple(sorted(classes))

    def named(self, text: str) -> tuple[str, ...]:
        """Return the names of the classes that a list's cell, or a folder's name, stands for."""
        return (text,)

    def number(self, text: str, classes: Sequence[str]) -> int:
        """Return a photo's label as its number."""
        return classes.index(text)

    def text(self, label: int, classes: Sequence[str]) -> str:
        """Return a label as people write it."""
        return classes[label]

    def questions(self, n_classes: int) -> int:  # noqa: ARG002 - other kinds have several
        """Say how many questions a photo is asked."""
        return 1

    def n_answers(self, n_classes: int) -> int:
        """Count the answers of all questions of a photo."""
        return n_classes

    def answers(self, labels: Sequence[int], n_classes: int) -> Answers:  # noqa: ARG002
        """Return the true answers, (n * questions,)."""
        return np.array(labels, dtype=np.int64)

    def targets(self, labels: Sequence[int], n_classes: int) -> NDArray[Any]:
        """Return what a network is trained on: int64 (n,), or float32 (n, C)."""
        return self.answers(labels, n_classes)

    def table(self, probabilities: NDArray[Any]) -> NDArray[Any]:
        """Return the probabilities of each question's answers, of what a network gives for photos.

        (n, C) becomes (n * questions, answers of a question).
        """
        return probabilities

    def texts(self, answers: Answers, classes: Sequence[str]) -> list[str]:
        """Return what is answered of each photo, as its label would be written."""
        return [classes[answer] for answer in answers.tolist()]

    def names(self, classes: Sequence[str]) -> list[str]:
        """Name each of the answers."""
        return list(classes)

    def counts(self, labels: Sequence[int], n_classes: int) -> NDArray[np.int64]:
        """Count the photos of each class, (C,)."""
        return np.bincount(self.answers(labels, n_classes), minlength=n_classes)


def plain(probabilities: Tensor) -> NDArray[np.float32]:
    """Return probabilities for storage."""
    return probabilities.numpy().astype(np.float32)
