"""The kinds of labels. A new one is a file here, and a line in `KINDS`."""

from trainers.labels.grades import Grades
from trainers.labels.one_class import CROSS_ENTROPY, LabelKind, Objective
from trainers.labels.several import SEPARATOR, SeveralLabels

__all__ = [
    "CROSS_ENTROPY",
    "GRADES",
    "KINDS",
    "ONE_CLASS",
    "SEPARATOR",
    "SEVERAL",
    "LabelKind",
    "Objective",
]

ONE_CLASS, SEVERAL, GRADES = LabelKind(), SeveralLabels(), Grades()

KINDS: dict[str, LabelKind] = {kind.name: kind for kind in (ONE_CLASS, SEVERAL, GRADES)}
"""By the name that a manifest and a weights file keep."""
