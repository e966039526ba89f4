"""Criteria for comparing weights: each is one registered object."""

from collections.abc import Iterator
from typing import Any, ClassVar, Self, TypeVar

import numpy as np

_REGISTERED: dict[str, "Criterion"] = {}

_C = TypeVar("_C")
_Made = TypeVar("_Made", bound="Criterion")


class _Registry(type):
    """Lets a class list and name its registered objects, as an enumeration does its members."""

    def __iter__(cls: type[_C]) -> Iterator[_C]:
        return (each for each in _REGISTERED.values() if isinstance(each, cls))

    def __len__(cls) -> int:
        return sum(isinstance(each, cls) for each in _REGISTERED.values())

    def __contains__(cls, value: object) -> bool:
        return isinstance(_REGISTERED.get(str(value)), cls)

    def __getattr__(cls: type[_C], name: str) -> _C:
        found = _REGISTERED.get(name.lower()) if name.isupper() else None
        if not isinstance(found, cls):
            raise AttributeError(f"{cls.__name__} has no {name}")
        return found


class Criterion(str, metaclass=_Registry):
    """A number by which weights are compared. It is a string: its name in the database.

    `Criterion("f1")` and `Criterion.F1` are the registered object of that name. `tag` begins the
    names of files; a share is printed as per cent. `higher_is_better` says whether a greater score
    wins, `classes_alike` whether each class counts alike, however few photos it has, and
    `needs_probabilities` whether it takes those of all classes, not only the true one's. `kinds`
    are the names of the kinds of labels that it can be of.
    """

    name: ClassVar[str]
    tag: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    is_share: ClassVar[bool] = True
    classes_alike: ClassVar[bool] = False
    needs_probabilities: ClassVar[bool] = False
    kinds: ClassVar[frozenset[str]] = frozenset({"class", "labels"})

    def __new__(cls, value: str | None = None) -> Self:
        """Return the registered object of a name; without arguments, make one to register."""
        if value is None:
            return str.__new__(cls, cls.name)
        found = _REGISTERED.get(value)
        if not isinstance(found, cls):
            raise ValueError(f"{value!r} is not a valid {cls.__name__}")
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name: there is one object of each."""
        return Criterion, (str(self),)

    @property
    def value(self) -> str:
        """Its name."""
        return str(self)

    @property
    def label(self) -> str:
        """Its display name."""
        return self.name.replace("_", " ")

    def rank(self, score: float, loss: float) -> tuple[float, float]:
        """Return a key that sorts the better first: by score, ties by loss. NaN comes last."""
        if np.isnan(score):
            return (np.inf, np.inf)
        return (-score if self.higher_is_better else score, np.inf if np.isnan(loss) else loss)

    def score_of(self, rank: tuple[float, float]) -> float | None:
        """Return the score that a rank stands for; None if it was no number."""
        return None if rank[0] == np.inf else -rank[0] if self.higher_is_better else rank[0]


def register(criterion: _Made) -> _Made:
    """Register a criterion by its name for all commands and settings."""
    if criterion.name in _REGISTERED:
        raise ValueError(f"a criterion {criterion.name!r} is registered already")
    _REGISTERED[criterion.name] = criterion
    return criterion
