"""Kinds of stages by the cost of their epochs."""

from dataclasses import dataclass

from study.stage_text import value_text
from trainers.data.batches import passes_of
from trainers.schedule import Schedule, Train


@dataclass(frozen=True, order=True)
class Work:
    """A kind of stage whose epochs cost the same, whatever else is chosen.

    With `cached`, activations of the frozen part are cached. An epoch of training has `passes` over
    the photos.
    """

    backbone: str
    train: Train
    image_size: int
    frozen: float = 0.0
    cached: bool = False
    tta: bool = False
    passes: int = 1

    def __str__(self) -> str:
        """Say it in a few words."""
        parts = [f"{'probe ' if self.train is Train.PROBE else ''}{self.image_size} px"]
        if self.frozen:
            parts.append(f"frozen {value_text('frozen', self.frozen)}")
        parts += ["cached"] if self.cached else []
        parts += ["mirror images"] if self.tta else []
        parts += [f"{self.passes} passes"] if self.passes > 1 else []
        return ", ".join(parts)


def work_of(schedule: Schedule, position: int, photos: int) -> Work:
    """Return the kind of a schedule's stage, given the number of training photos."""
    stage = schedule.stages[position]
    return Work(
        backbone=schedule.backbone,
        train=stage.train,
        image_size=stage.image_size,
        frozen=stage.frozen,
        cached=stage.views > 0,
        tta=stage.tta,
        passes=passes_of(stage, photos),
    )
