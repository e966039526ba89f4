"""Correct probabilities for shares of classes that differ from training. Pure."""

from collections.abc import Sequence
from typing import Any

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


def reweighted_labels(
    probabilities: NDArray[np.floating[Any]], prior: Sequence[float], new: Sequence[float]
) -> NDArray[np.float64]:
    """Return the probabilities of several labels (n, L), each corrected for its own share.

    By the same rule with two classes, with the label and without; a share as in training leaves
    probabilities as they are.
    """
    ratios = [
        1.0 if share == old else share / (1 - share) * (1 - old) / old
        for share, old in zip(new, prior, strict=True)
    ]
    plain = probabilities.astype(np.float64)
    there = plain * np.array(ratios)
    found: NDArray[np.float64] = there / (there + (1 - plain))
    return found


def label_shares(
    shares: Sequence[str], labels: Sequence[str], prior: Sequence[float]
) -> tuple[float, ...]:
    """Read shares as "dent=0.1" of labels, each of its own; others are as in `prior`.

    Raises ValueError that names what is wrong.
    """
    given = _given(shares, labels, "LABEL")
    for name, share in zip(labels, prior, strict=True):
        if name in given and share == 1:
            raise ValueError(
                f"prior must leave {name!r} away: all photos had it in training, so that nothing "
                "is known of photos without it"
            )
    return tuple(given.get(name, share) for name, share in zip(labels, prior, strict=True))


def named_shares(
    shares: Sequence[str], classes: Sequence[str], prior: Sequence[float]
) -> tuple[float, ...]:
    """Read shares as "A380=0.1"; classes that are not named divide the rest as in `prior`.

    Raises ValueError that names what is wrong.
    """
    given = _given(shares, classes, "CLASS")
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


def _given(shares: Sequence[str], names: Sequence[str], kind: str) -> dict[str, float]:
    given: dict[str, float] = {}
    for text in shares:
        name, found, share = text.rpartition("=")
        name = name.strip()
        if not found or name not in names:
            raise ValueError(
                f"prior must be {kind}=SHARE with one of {', '.join(names)}, got {text!r}"
            )
        given[name] = number(share)
        if not 0 < given[name] < 1:
            raise ValueError(f"prior {text!r} must end with a share between 0 and 1")
    return given
