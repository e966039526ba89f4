"""Grades: one class for each photo, of classes that are in an order."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from trainers.errors import DatasetError
from trainers.labels.one_class import LabelKind, Objective

if TYPE_CHECKING:  # lists and answers are read without torch
    from torch import Tensor

_NUMBER = re.compile(r"[+-]?[0-9]{1,9}(?:\.[0-9]{1,9})?(?![\w]|\.[0-9])")


class GradesObjective(Objective):
    """The sum of the binary cross-entropies of the C - 1 questions whether a grade is above k.

    Ordinal regression as binary questions (Frank and Hall 2001; Cheng, Wang and Pollastri 2008)
    with a softmax's sums for their answers, which so agree with each other: the ranked form of the
    log loss (Toedter and Ahrens 2012), a proper score. An answer that is far off costs more.
    """

    def loss(
        self,
        logits: Tensor,
        truth: Tensor,
        *,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """Return the mean loss of photos whose labels are grades, or shares of grades."""
        from torch.nn import functional

        count = logits.shape[1]
        if not truth.is_floating_point():
            truth = functional.one_hot(truth, count).to(logits.dtype)
        truth = truth * (1 - label_smoothing) + label_smoothing / count
        if class_weights is not None:
            truth = truth * class_weights
        return (truth * self._losses(logits)).sum() / len(truth)

    def _losses(self, logits: Tensor) -> Tensor:
        """Return what it costs if each of the grades is the true one, (B, C)."""
        import torch

        above = torch.ones(logits.shape[1] - 1, logits.shape[1], device=logits.device).triu(1)
        likely = logits.log_softmax(1)[:, None]
        yes = likely.masked_fill(above == 0, -math.inf).logsumexp(2)
        no = likely.masked_fill(above == 1, -math.inf).logsumexp(2)
        return -(yes @ above + no @ (1 - above))

    def validation_loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Return the mean log loss, as that of any classes."""
        return super().loss(logits, truth)


class Grades(LabelKind):
    """One class for each photo, of classes that are in an order: 0, 1, 2, or "0 none", "1 mild".

    Answers are as those of any class; what training lowers says how far they are off.
    """

    name = "grade"
    column = "grade"
    plural = "grades"
    like = frozenset({"class", "grade"})
    objective = GradesObjective()

    def ordered(self, classes: Iterable[str]) -> tuple[str, ...]:
        """Put grades into order by the numbers that they begin with."""
        found: dict[float, str] = {}
        for name in sorted(classes):
            begun = _NUMBER.match(name)
            if begun is None:
                raise DatasetError(
                    f"grades must begin with the number that orders them, as 0, 1, 2 or '1 mild', "
                    f"got {name[:50]!r}; rename it, or call the column label"
                )
            other = found.setdefault(float(begun[0]), name)
            if other != name:
                raise DatasetError(
                    f"grades must have numbers of their own, got {other[:50]!r} and "
                    f"{name[:50]!r}; rename one of them"
                )
        return tuple(found[number] for number in sorted(found))
