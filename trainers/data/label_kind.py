"""What a label is, what training takes for it and how predictions answer it. Pure.

A photo is asked one or several *questions*, each of which has as many answers as the next. All that
scores predictions sees questions alone: row by row, photo after photo, with answers numbered on
from one question of a photo to its next.
"""

from collections.abc import Sequence
from itertools import compress
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
    column: ClassVar[str] = "label"  # of a CSV

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


class SeveralLabels(LabelKind):
    """Any number of labels for each photo: a question for each, answered 0 (no) or 1 (yes).

    Answer 2 l + 1 says that label l is there. The bits of `Photo.label` say which labels are.
    """

    name = "labels"
    column = "labels"

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


SEPARATOR = ";"
"""Between the labels of a photo, in a list and in answers."""

KINDS: dict[str, LabelKind] = {kind.name: kind for kind in (LabelKind(), SeveralLabels())}
"""The kinds of labels by the name that a manifest keeps."""

ONE_CLASS, SEVERAL = KINDS[LabelKind.name], KINDS[SeveralLabels.name]
