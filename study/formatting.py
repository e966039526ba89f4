"""Common text formats: scores, times, counts, paths, JSON, names of weights.

Weights files are called after the article: `acc98.70_<backbone>_<epochs>_<size>_...`.
"""

import json
import math
from dataclasses import asdict, is_dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from storage.records import Kind, Trial
from trainers.metrics import Criterion, Metric


def percent(share: float, photos: int = 0) -> str:
    """Return a share in per cent, without the sign, rounded once, halves up as pages do it.

    It has one decimal, or two if a single one of the `photos` is less than 0.1 %.
    """
    if not math.isfinite(share):
        return str(share)
    places = Decimal("0.01" if photos > 1000 else "0.1")
    return str(Decimal(100 * float(share)).quantize(places, ROUND_HALF_UP))


def score_text(metric: Criterion, score: float | None, photos: int = 0) -> str:
    """Return a score as in tables: shares in per cent, all others unchanged."""
    if score is None:
        return "-"
    return percent(score, photos) if metric.is_share else f"{score:.4f}"


def score_phrase(metric: Criterion, score: float | None, photos: int = 0) -> str:
    """Return a score as in sentences: shares with a per cent sign."""
    unit = " %" if metric.is_share and score is not None else ""
    return score_text(metric, score, photos) + unit


def score_in_name(metric: Criterion, score: float) -> str:
    """Return a score as in file names, always with two decimals."""
    return f"{100 * score:.2f}" if metric.is_share else f"{score:.4f}"


def time_text(seconds: float) -> str:
    """Return a span of time as text: "54 s", "3.2 min"."""
    for unit, size in (("s", 1), ("min", 60), ("h", 3600)):
        span = seconds / size
        if unit == "h" or round(span) < 60:
            break
    return f"{span:.1f} {unit}" if span < 9.95 else f"{span:.0f} {unit}"


def size_text(size: int) -> str:
    """Return a number of bytes as text: "12 bytes", "3.1 kB", "84.3 MB", "1.2 GB"."""
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= least:
            return f"{size / least:.1f} {unit}"
    return count_text(size, "byte")


def weights_name(
    kind: Kind, trial: Trial, position: int, epochs: int, metric: Metric, score: float
) -> str:
    """Name the weights that stage `position` of a trial left after `epochs` epochs in all.

    No two files of a study share a name: trial, seed and epochs are in it.
    """
    what = f"{metric.tag}{score_in_name(metric, score)}" if kind is Kind.BEST else "last"
    size = trial.schedule.stages[position].image_size
    backbone = trial.schedule.backbone
    return f"{what}_{backbone}_{epochs}_{size}_t{trial.number:04d}_s{trial.seed}.safetensors"


def count_text(count: int, what: str) -> str:
    """Return a count with its noun: "1 trial", "2,000 trials"."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def photos_text(count: int, groups: int | None, kind: str = "validation") -> str:
    """Return a count of photos, and of their groups if there are any."""
    within = "" if groups is None else f" in {count_text(groups, 'group')}"
    return f"{count_text(count, f'{kind} photo')}{within}"


def path_text(path: Path) -> str:
    """Return a path relative to the current folder if it lies there."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def json_text(document: Any) -> str:
    """Return one JSON document; records become objects, times ISO 8601."""
    return json.dumps(document, default=_plain, ensure_ascii=False, indent=2, allow_nan=False)


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"value must be plain, a record or a time, got {type(value).__name__}")
