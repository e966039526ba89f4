"""The decision rule: from probabilities to the prediction with the least expected cost. Pure."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from trainers.temperature import SMALLEST

REJECTED = -1
"""The result of `decide` for a photo that a person should look at."""


@dataclass(frozen=True)
class Decision:
    """A decision rule for C classes: the prediction with the least expected cost.

    `costs` has C rows (the true class) of C prices (the predicted class), with a zero diagonal.
    Probabilities are first calibrated by a `temperature`: above 1 they become less confident. With
    a `reject_cost`, a photo for which every prediction costs more is `REJECTED`.
    """

    costs: tuple[tuple[float, ...], ...]
    temperature: float = 1.0
    reject_cost: float | None = None

    def __post_init__(self) -> None:
        """Validate the rule."""
        n = len(self.costs)
        if not n or any(len(row) != n for row in self.costs):
            raise ValueError(f"costs must be a square, got {self.costs}")
        prices = [price for row in self.costs for price in row]
        if not all(math.isfinite(price) and price >= 0 for price in prices):
            raise ValueError(f"costs must be finite and at least 0, got {self.costs}")
        if any(self.costs[label][label] for label in range(n)):
            raise ValueError(f"costs of a right answer must be 0, got {self.costs}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if self.reject_cost is not None and not 0 <= self.reject_cost < math.inf:
            raise ValueError(f"reject_cost must be at least 0, got {self.reject_cost}")

    @classmethod
    def plain(cls, n_classes: int) -> Self:
        """Return the default rule: predict the most probable class."""
        return cls(tuple(map(tuple, (1.0 - np.eye(n_classes)).tolist())))

    @property
    def threshold(self) -> float | None:
        """With two classes, the calibrated probability from which the first one is predicted."""
        if len(self.costs) != 2:
            return None
        missed_first, missed_second = self.costs[0][1], self.costs[1][0]
        total = missed_first + missed_second
        return missed_second / total if total else 0.5

    def calibrated(self, probabilities: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return the calibrated probabilities, shape (n, C) as those given."""
        sharpened = np.log(np.maximum(probabilities, SMALLEST).astype(float)) / self.temperature
        sharpened = np.exp(sharpened - sharpened.max(axis=1, keepdims=True))
        calibrated: NDArray[np.float64] = sharpened / sharpened.sum(axis=1, keepdims=True)
        return calibrated

    def decide(self, probabilities: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """Return each photo's cheapest class, (n,), or `REJECTED`; from (n, C) uncalibrated."""
        return self.answers(self.calibrated(probabilities))

    def answers(self, calibrated: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return each photo's cheapest class, (n,), or `REJECTED`; from (n, C) calibrated."""
        expected = calibrated @ np.array(self.costs)
        answers: NDArray[np.int64] = expected.argmin(axis=1)
        if self.reject_cost is not None:
            answers[expected.min(axis=1) > self.reject_cost] = REJECTED
        return answers

    def prices(self, labels: NDArray[np.int64], answers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the actual cost of each prediction, shape (n,)."""
        paid: NDArray[np.float64] = np.array(self.costs)[labels, np.maximum(answers, 0)]
        return np.where(answers == REJECTED, self.reject_cost or 0.0, paid)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Any, n_classes: int) -> Self:
        """Read untrusted data in the form of `to_dict`; ValueError if it is not a rule."""
        try:
            costs = tuple(tuple(float(price) for price in row) for row in plain["costs"])
            reject = plain["reject_cost"]
            rule = cls(
                costs, float(plain["temperature"]), None if reject is None else float(reject)
            )
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"a decision must have costs and a temperature ({error!r})") from None
        if len(rule.costs) != n_classes:
            raise ValueError(f"costs must be of {n_classes} classes, got {len(rule.costs)}")
        return rule


def named_costs(prices: Sequence[str], classes: Sequence[str]) -> tuple[tuple[float, ...], ...]:
    """Read prices as "A380>B747=5" (true > predicted = price); all others are 1.

    Raises ValueError that names what is wrong.
    """
    costs = (1.0 - np.eye(len(classes))).tolist()
    for text in prices:
        pair, found, price = text.rpartition("=")
        ways = [
            (true, predicted)
            for true in classes
            for predicted in classes
            if pair.strip() in (f"{true}>{predicted}", f"{true} > {predicted}")
        ]
        if not found or not pair:
            raise ValueError(f"cost must be TRUE>PREDICTED=PRICE, got {text!r}")
        if not ways:
            raise ValueError(
                f"cost {text!r} must name two of the classes {', '.join(classes)} as TRUE>PREDICTED"
            )
        true, predicted = (classes.index(name) for name in ways[0])
        if true == predicted:
            raise ValueError(f"cost {text!r} must be of two different classes")
        costs[true][predicted] = _price(price, text)
    return tuple(map(tuple, costs))


def number(text: str) -> float:
    """Read a number; NaN for anything else, which every bound refuses."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _price(text: str, whole: str) -> float:
    price = number(text)
    if not (math.isfinite(price) and price >= 0):
        raise ValueError(f"cost {whole!r} must end with a number of at least 0")
    return price
