"""Correct probabilities for shares of classes that differ from training. Pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainers.decision import number

SLACK = 0.01
"""Tolerance for shares that do not add up to 1 because they were rounded."""


def reweighted(
    probabilities: NDArray[np.float64], prior: Sequence[float], new: Sequence[float]
) -> NDArray[np.float64]:
    """Return probabilities (n, C) corrected for other shares of classes than in training.

    By Bayes' rule, `new` shares over those of `prior` (Saerens, Latinne and Decaestecker 2002).
    """
    weighted = probabilities * (np.array(new) / np.array(prior))
    found: NDArray[np.float64] = weighted / weighted.sum(axis=1, keepdims=True)
    return found


def named_shares(
    shares: Sequence[str], classes: Sequence[str], prior: Sequence[float]
) -> tuple[float, ...]:
    """Read shares as "A380=0.1"; classes that are not named divide the rest as in `prior`.

    Raises ValueError that names what is wrong.
    """
    given: dict[str, float] = {}
    for text in shares:
        name, found, share = text.rpartition("=")
        name = name.strip()
        if not found or name not in classes:
            raise ValueError(
                f"prior must be CLASS=SHARE with one of {', '.join(classes)}, got {text!r}"
            )
        given[name] = number(share)
        if not 0 < given[name] < 1:
            raise ValueError(f"prior {text!r} must end with a share between 0 and 1")
    rest = 1 - sum(given.values())
    others = sum(share for name, share in zip(classes, prior, strict=True) if name not in given)
    if abs(rest) > SLACK if len(given) == len(classes) else rest <= 0:
        raise ValueError(
            f"prior must have shares that add up to 1 over all classes, got {1 - rest:g} for "
            f"{', '.join(given)}"
        )
    return tuple(
        given.get(name, rest * share / others if others else 0.0)
        for name, share in zip(classes, prior, strict=True)
    )
