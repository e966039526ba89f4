"""The goal of a decision rule, read from settings and flags. Pure."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from study.config.costs import Costs
from study.errors import ConfigError
from trainers.decision import Decision, named_costs


@dataclass(frozen=True)
class Goal:
    """A goal: `costs` (C, C), row true, column predicted, and the price of rejecting a photo.

    `recalls` are (class, minimum recall): the share of the class's photos that must not be
    misclassified.
    """

    costs: tuple[tuple[float, ...], ...]
    reject_cost: float | None = None
    recalls: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        """Validate the goal."""
        n = len(self.priced.costs)
        for label, least in self.recalls:
            if not 0 <= label < n:
                raise ValueError(f"class of a recall must be from 0 to {n - 1}, got {label}")
            if not 0 < least <= 1:
                raise ValueError(f"recall must be above 0 and at most 1, got {least}")
        if len({label for label, _ in self.recalls}) < len(self.recalls):
            raise ValueError(f"recalls must name each class once, got {self.recalls}")

    @property
    def priced(self) -> Decision:
        """The given prices of predictions, independent of the rule."""
        return Decision(self.costs, reject_cost=self.reject_cost)


def parse_recalls(texts: Sequence[str], classes: Sequence[str]) -> tuple[tuple[int, float], ...]:
    """Read minimum recalls such as "A380>=0.99", by class; the last one of a class counts.

    Raises ValueError that names what is wrong.
    """
    found: dict[int, float] = {}
    for text in texts:
        name, sign, share = (part.strip() for part in text.rpartition(">="))
        if not sign or not name:
            raise ValueError(f"recall must be CLASS>=SHARE, got {text!r}")
        if name not in classes:
            raise ValueError(f"recall {text!r} must name one of the classes {', '.join(classes)}")
        found[classes.index(name)] = _share(share, text)
    return tuple(sorted(found.items()))


def _share(text: str, whole: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise ValueError(f"recall {whole!r} must end with a share above 0 and at most 1, as 0.99")
    return share


def goal_of(
    costs: Costs,
    cost_flags: Sequence[str],
    recall_flags: Sequence[str],
    reject: float | None,
    classes: Sequence[str],
) -> Goal | None:
    """Return the goal of settings and flags; None if there is none.

    Flags override only the prices and recalls that they name. Raises `ConfigError`.
    """
    prices = [f"{pair}={price!r}" for pair, price in costs.prices.items()]
    recalls = [f"{name}>={share!r}" for name, share in costs.recall.items()]
    asked = (costs.matrix, costs.reject, reject)
    if not (prices or recalls or cost_flags or recall_flags) and asked == (None, None, None):
        return None
    if costs.matrix is not None and len(costs.matrix) != len(classes):
        raise ConfigError(
            f"costs.matrix must have a row for each of the classes {', '.join(classes)}, "
            f"got {len(costs.matrix)} rows"
        )
    matrix = costs.matrix or Decision.plain(len(classes)).costs
    with _blamed("in [costs], ", classes):
        matrix = _over(matrix, prices, classes)
        least = dict(parse_recalls(recalls, classes))
    with _blamed("--", classes):
        matrix = _over(matrix, cost_flags, classes)
        least |= dict(parse_recalls(recall_flags, classes))
    if reject is not None and not 0 <= reject < math.inf:
        raise ConfigError(f"--reject-cost must be at least 0, got {reject}")
    rejecting = costs.reject if reject is None else reject
    return Goal(matrix, rejecting, tuple(sorted(least.items())))


def _over(
    matrix: tuple[tuple[float, ...], ...], prices: Sequence[str], classes: Sequence[str]
) -> tuple[tuple[float, ...], ...]:
    """Override prices of a matrix by those given as TRUE>PREDICTED=PRICE."""
    given = np.array(named_costs(prices, classes))
    # A given price may be 1, like the default: so they are parsed again with default 0.
    pairs = [f"{text.rpartition('=')[0]}=0" for text in prices]
    named = np.array(named_costs(pairs, classes)) == 0
    return tuple(map(tuple, np.where(named, given, matrix).tolist()))


@contextmanager
def _blamed(where: str, classes: Sequence[str]) -> Iterator[None]:
    """Add to a ValueError where the invalid value is, and the names of the classes."""
    try:
        yield
    except ValueError as error:
        names = ", ".join(classes)
        known = "" if names in str(error) else f"; the classes are {names}"
        raise ConfigError(f"{where}{error}{known}") from None
