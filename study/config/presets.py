"""Schedules given by the user: by the name of a preset, or in a file."""

from pathlib import Path
from typing import Any

from study.config.loading import read_toml
from study.config.portfolio import QUICK, DataFacts, staged, tuned
from study.config.schema import Preset
from study.errors import ConfigError
from trainers.schedule import Augmentation, CropType, Optimizer, Schedule, Stage, spread_lr


def _article_stage(
    batch_size: int, image_size: int, crop: CropType, dropout: float | tuple[float, ...]
) -> Stage:
    return Stage(
        image_size=image_size,
        batch_size=batch_size,
        n_cycles=5,
        cycle_len=1,
        cycle_mult=2,
        lrs=spread_lr(1e-3),
        crop=crop,
        max_zoom=1.1,
        augmentation=Augmentation.SIDE_ON,
        dropout=dropout,
        optimizer=Optimizer.SGD,
    )


ARTICLE = (
    _article_stage(512, 64, CropType.RANDOM, (0.25, 0.5)),
    _article_stage(256, 128, CropType.RANDOM, (0.25, 0.5)),
    _article_stage(123, 300, CropType.RANDOM, (0.25, 0.5)),
    _article_stage(123, 300, CropType.NO, (0.25, 0.5, 0.7)),
    _article_stage(123, 300, CropType.RANDOM, 0.6),
    _article_stage(123, 300, CropType.CENTER, (0.25, 0.5)),
    _article_stage(123, 300, CropType.GOOGLENET, (0.25, 0.5)),
)
"""The training loop of "How to beat Google AutoML in Image Classification": 7 x 31 epochs."""


def preset_schedule(
    preset: Preset, facts: DataFacts, backbone: str, weights: str, *, probe: bool = True
) -> Schedule:
    """Return a preset's schedule for these data; without a probe if the trainer has none.

    The article's head has three dropout sites.
    """
    if preset is Preset.ARTICLE:
        return Schedule(backbone=backbone, stages=ARTICLE, hidden=(1024, 512), weights=weights)
    if not probe:
        return staged(facts, backbone, weights)
    return tuned(facts, backbone, weights, QUICK if preset is Preset.QUICK else None)


def grid_schedules(file: Path, backbone: str, weights: str) -> tuple[Schedule, ...]:
    """Read a grid: a TOML file with a `[[schedules]]` table for each schedule.

    Each holds `[[schedules.stages]]` and, if they differ from the search's, `backbone`, `hidden`
    and `weights`. Raises `ConfigError`.
    """
    plain = read_toml(file, "grid")
    tables = plain.get("schedules")
    if not isinstance(tables, list) or not tables or plain.keys() != {"schedules"}:
        raise ConfigError(f"{str(file)!r} must hold [[schedules]] tables and nothing else")
    common = {"backbone": backbone, "weights": weights}
    return tuple(_grid_schedule(file, n, common, table) for n, table in enumerate(tables, 1))


def _grid_schedule(file: Path, number: int, common: dict[str, Any], plain: Any) -> Schedule:
    try:
        return Schedule.from_dict(common | plain)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{file}: schedule {number}: {error}") from None
