"""What a trainer of one's own needs (`--trainer package.module:Class`)."""

from trainers.base import BEST, LAST, StageTask, TrainingDiverged
from trainers.data.manifest import Manifest, Photo, Split
from trainers.metrics import EpochMetrics, Evaluation, Metric

__all__ = [
    "BEST",
    "LAST",
    "EpochMetrics",
    "Evaluation",
    "Manifest",
    "Metric",
    "Photo",
    "Split",
    "StageTask",
    "TrainingDiverged",
]
