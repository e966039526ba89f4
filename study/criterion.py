"""What weights can be chosen by."""

from enum import StrEnum


class Criterion(StrEnum):
    """What weights can be chosen by: the metrics of a search, and two that predictions add."""

    ACCURACY = "accuracy"
    BALANCED_ACCURACY = "balanced_accuracy"
    F1 = "f1"
    AUROC = "auroc"
    LOG_LOSS = "log_loss"
    COST = "cost"

    @property
    def higher_is_better(self) -> bool:
        """Whether a greater score wins."""
        return self not in (Criterion.LOG_LOSS, Criterion.COST)

    @property
    def needs_probabilities(self) -> bool:
        """Whether the predicted class and the true one's probability do not suffice."""
        return self in (Criterion.AUROC, Criterion.COST)
