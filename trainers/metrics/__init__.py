"""Predictions on the validation photos, and their metrics.

A metric is one module beside this one, and one line of registration below.
"""

from trainers.metrics.accuracy import Accuracy
from trainers.metrics.average_precision import MeanAveragePrecision
from trainers.metrics.balanced_accuracy import BalancedAccuracy
from trainers.metrics.criterion import Criterion, register
from trainers.metrics.epochs import EpochMetrics, EpochNumbers, calibrated_loss, f1_of
from trainers.metrics.evaluation import (
    ClassNumbers,
    Evaluation,
    class_counts,
    columns_of,
    confusion_matrix,
    negative_log,
    of_presence,
    per_class,
)
from trainers.metrics.f1 import MacroF1
from trainers.metrics.grade_error import GradeError
from trainers.metrics.kinds import Metric, OfClasses, OfPhotos, OfRanks, OfSums, shares_of
from trainers.metrics.label_auroc import MacroAuroc
from trainers.metrics.label_f1 import LabelMacroF1, LabelMicroF1
from trainers.metrics.log_loss import LogLoss
from trainers.metrics.matthews import Matthews
from trainers.metrics.quadratic_kappa import QuadraticKappa

__all__ = [
    "ClassNumbers",
    "Criterion",
    "EpochMetrics",
    "EpochNumbers",
    "Evaluation",
    "Metric",
    "OfClasses",
    "OfPhotos",
    "OfRanks",
    "OfSums",
    "calibrated_loss",
    "class_counts",
    "columns_of",
    "confusion_matrix",
    "f1_of",
    "negative_log",
    "of_presence",
    "per_class",
    "register",
    "shares_of",
]

register(Accuracy())
register(BalancedAccuracy())
register(MacroF1())
register(LogLoss())
register(Matthews())
register(LabelMacroF1())
register(LabelMicroF1())
register(MeanAveragePrecision())
register(MacroAuroc())
register(GradeError())
register(QuadraticKappa())
