"""What a label is, what training takes for it and how predictions answer it. Pure.

A photo is asked one or several *questions*, each of which has as many answers as the next. All that
scores predictions sees questions alone: row by row, photo after photo, with answers numbered on
from one question of a photo to its next.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Answers = NDArray[np.int64]


class LabelKind:
    """One class for each photo: one question, whose answers are the classes.

    Another kind is a subclass, registered in `KINDS`. `Photo.label` is the number that `number`
    makes of what a list or a folder says; `name` is what a manifest keeps.
    """

    name: ClassVar[str] = "class"

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

    def counts(self, labels: Sequence[int], n_classes: int) -> NDArray[np.int64]:
        """Count the photos of each class, (C,)."""
        return np.bincount(self.answers(labels, n_classes), minlength=n_classes)


KINDS: dict[str, LabelKind] = {kind.name: kind for kind in (LabelKind(),)}
"""The kinds of labels by the name that a manifest keeps."""

ONE_CLASS = KINDS[LabelKind.name]
