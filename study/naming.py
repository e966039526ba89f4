"""What weights files are called, after the article: `acc98.70_<backbone>_<epochs>_<size>_...`."""

from collections.abc import Sequence

from storage.records import Kind, Trial
from study.scoring import Criterion
from trainers.metrics import Metric
from trainers.schedule import Annealing, Schedule, Stage

_TAGS = {
    Metric.ACCURACY: "acc",
    Metric.BALANCED_ACCURACY: "bacc",
    Metric.F1: "f1-",
    Metric.LOG_LOSS: "loss",
}


def score_text(metric: Metric | Criterion, score: float | None) -> str:
    """Give a score as people read it: shares in per cent, losses and costs as they are."""
    if score is None:
        return "-"
    return f"{100 * score:.2f}" if metric.higher_is_better else f"{score:.4f}"


def time_text(seconds: float) -> str:
    """Give a span of time as people say it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def weights_name(
    kind: Kind, trial: Trial, position: int, epochs: int, metric: Metric, score: float
) -> str:
    """Name the weights that stage `position` of a trial left after `epochs` epochs in all.

    No two files of a study share a name: trial, seed and epochs are in it.
    """
    what = f"{_TAGS[metric]}{score_text(metric, score)}" if kind is Kind.BEST else "last"
    size = trial.schedule.stages[position].image_size
    backbone = trial.schedule.backbone
    return f"{what}_{backbone}_{epochs}_{size}_t{trial.number:04d}_s{trial.seed}.safetensors"


def schedule_text(schedule: Schedule) -> str:
    """Give a schedule in a few words; what differs between its stages is joined by `>`."""
    stages = schedule.stages
    parts = [
        f"{_joined([stage.image_size for stage in stages])} px",
        f"epochs {_joined([stage.epochs for stage in stages])}",
        f"lr {_joined([f'{stage.lrs[-1]:g}' for stage in stages])}",
        f"bs {_joined([stage.batch_size for stage in stages])}",
        f"{_joined([stage.crop for stage in stages])} crop",
        f"dropout {_joined([_dropout_text(stage) for stage in stages])}",
    ]
    if any(stage.frozen for stage in stages):
        parts.append(f"frozen {_joined([f'{stage.frozen:.0%}' for stage in stages])}")
    if any(stage.annealing is not Annealing.COSINE for stage in stages):
        parts.append(_joined([stage.annealing for stage in stages]))
    return ", ".join(parts)


def _joined(values: Sequence[object]) -> str:
    texts = [str(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else ">".join(texts)


def _dropout_text(stage: Stage) -> str:
    rates = (stage.dropout,) if isinstance(stage.dropout, float) else stage.dropout
    return "/".join(f"{rate:g}" for rate in rates)


def count_text(count: int, what: str) -> str:
    """Give a number of things in words: "1 trial", "2,000 trials"."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
