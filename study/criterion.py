"""Criteria for choosing weights: the metrics of a search, and two that need stored predictions."""

from trainers.metrics import Criterion, register

__all__ = ["Area", "Cost", "Criterion"]


class Area(Criterion):
    """The area under the ROC curve."""

    name = "auroc"
    tag = "auroc"
    kinds = frozenset({"class"})
    needs_probabilities = True


class Cost(Criterion):
    """The cost of a prediction, by the prices of a `Decision`."""

    name = "cost"
    tag = "cost"
    higher_is_better = False
    is_share = False
    kinds = frozenset({"class"})
    needs_probabilities = True


register(Area())
register(Cost())
