"""What a label is, what training takes for it and how predictions answer it. Pure.

A photo is asked one or several *questions*, each of which has as many answers as the next. All that
scores predictions sees questions alone: row by row, photo after photo, with answers numbered on
from one question of a photo to its next.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trainers.errors import DatasetError

Answers = NDArray[np.int64]


class LabelKind:
    """One class for each photo: one question, whose answers are the classes.

    Another kind is a subclass, registered in `KINDS`. `Photo.label` is the number that `number`
    makes of what a list or a folder says; `name` is what a manifest keeps, `column` that of a CSV.
    Criteria that are of one of the kinds `like` it are of it, too.
    """

    name: ClassVar[str] = "class"
    column: ClassVar[str] = "label"
    plural: ClassVar[str] = "classes"
    like: ClassVar[frozenset[str]] = frozenset({"class"})

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


class SeveralLabels(LabelKind):
    """Any number of labels for each photo: a question for each, answered 0 (no) or 1 (yes).

    Answer 2 l + 1 says that label l is there. The bits of `Photo.label` say which labels are.
    """

    name = "labels"
    column = "labels"
    plural = "labels"
    like = frozenset({"labels"})

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


class Grades(LabelKind):
    """One class for each photo, of classes that are in an order: 0, 1, 2, or "0 none", "1 mild".

    Answers are as those of any class; what training lowers says how far they are off.
    """

    name = "grade"
    column = "grade"
    plural = "grades"
    like = frozenset({"class", "grade"})

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


_NUMBER = re.compile(r"[+-]?[0-9]{1,9}(?:\.[0-9]{1,9})?(?![\w]|\.[0-9])")

SEPARATOR = ";"
"""Between the labels of a photo, in a list and in answers."""

KINDS: dict[str, LabelKind] = {kind.name: kind for kind in (LabelKind(), SeveralLabels(), Grades())}
"""The kinds of labels by the name that a manifest keeps."""

ONE_CLASS, SEVERAL, GRADES = (KINDS[kind.name] for kind in (LabelKind, SeveralLabels, Grades))
