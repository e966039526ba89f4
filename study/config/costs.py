"""Costs of predictions, as settings. Free of numpy, torch and Optuna."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from study.config.space import Section

Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""The cost of a prediction, in any unit; a right one costs 0."""


class Costs(Section):
    """Costs of predictions, for `best`: prices by "TRUE>PREDICTED", which override a matrix of 1s.

    `matrix` has a row for each true class, in the classes' order. With `reject`, a photo whose
    prediction is expected to cost more than that is rejected, for a person to decide. `recall`
    holds minimum recalls of classes.
    """

    prices: dict[str, Price] = Field(default_factory=dict)
    matrix: tuple[tuple[Price, ...], ...] | None = None
    reject: Price | None = None
    recall: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _prices_are_of_pairs_and_a_matrix_is_square(self) -> Self:
        for pair in self.prices:
            if not all(pair.partition(">")[::2]):
                raise ValueError(f"costs.prices must be named TRUE>PREDICTED, got {pair!r}")
        rows = self.matrix or ()
        if any(len(row) != len(rows) for row in rows):
            raise ValueError(f"costs.matrix must be a square, got rows of {[*map(len, rows)]}")
        if any(row[label] for label, row in enumerate(rows)):
            raise ValueError("costs.matrix must have 0 where the answer is right, on its diagonal")
        return self
