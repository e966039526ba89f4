"""The interface between a trainer and its caller."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from trainers.annealing import cycle_of
from trainers.errors import TrainingDiverged as TrainingDiverged  # raised by custom trainers
from trainers.errors import WeightsUnavailable as WeightsUnavailable
from trainers.metrics import EpochMetrics, Evaluation, Metric
from trainers.schedule import Schedule, Stage

LAST = "last.safetensors"
"""File in a task's folder with the full state after its latest epoch."""

BEST = "best.safetensors"
"""File in a task's folder with the weights of its best epoch so far."""


class Precision(StrEnum):
    """The number format of the computation; weights and optimizer are always float32.

    AUTO is BF16 on a GPU that supports it, FP16 (with scaled gradients) on other GPUs, FP32
    elsewhere. TF32 rounds the factors of float32 products to 10 bits, on NVIDIA's tensor cores.
    """

    AUTO = "auto"
    BF16 = "bf16"
    FP16 = "fp16"
    TF32 = "tf32"
    FP32 = "fp32"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means out of memory: torch and each library have their own."""
    signs = ("out of memory", "can't allocate memory", "not enough memory", "status_alloc_failed")
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)


def is_device_lost(error: BaseException) -> bool:
    """Return whether an error means that this process cannot use its GPU any more.

    After a kernel's fault every CUDA call fails. Some errors leave the GPU usable, but cannot be
    distinguished from the others.
    """
    signs = ("cuda error", "cuda driver error", "triton error [cuda]", "hip error")
    of_cudnn = ("cudnn_status_execution_failed", "cudnn_status_internal_error")
    text = str(error).lower()
    return any(sign in text for sign in signs + of_cudnn) and not is_out_of_memory(error)


def _unheard(done: int, total: int) -> None:
    """Ignore a trainer's reports of batches, where nothing shows them."""


@dataclass(frozen=True, kw_only=True)
class StageTask:
    """A trainer's task: train the last stage of `schedule` under `seed`.

    `folder` belongs to this task alone and is where the trainer writes `LAST` and `BEST`. `start`
    is the parent stage's weights file; None for a first stage. A trainer may call `progress(done,
    total)` with the batches of the current epoch, from the thread that trains. The calls are cheap
    and optional.
    If photos are in folds, `first_folds` asks for the networks of so many folds alone (0: of all):
    their epochs predict the photos of these folds, and a task for all folds takes them over.
    """

    schedule: Schedule
    seed: int
    folder: Path
    start: Path | None = None
    first_folds: int = 0
    progress: Callable[[int, int], None] = field(default=_unheard, compare=False, repr=False)

    @property
    def stage(self) -> Stage:
        """The stage to train."""
        return self.schedule.stages[-1]

    @property
    def position(self) -> int:
        """The position of the stage in the schedule, counted from 0."""
        return len(self.schedule.stages) - 1

    def metrics(
        self, evaluation: Evaluation, *, epoch: int, train_loss: float, images: int, seconds: float
    ) -> EpochMetrics:
        """Describe an epoch (from 1) that trained on `images` photos, in a plain training loop.

        The validation loss is the evaluation's log loss, the learning rates are the stage's own.
        """
        lengths = self.stage.cycle_lengths
        return EpochMetrics.of(
            evaluation,
            stage=self.position,
            epoch=epoch,
            cycle=cycle_of(epoch - 1, lengths)[0] + 1,
            lrs=self.stage.lrs,
            train_loss=train_loss,
            valid_loss=Metric.LOG_LOSS.of(evaluation),
            seconds=seconds,
            images_per_second=images / seconds,
        )


class Trainer(Protocol):
    """Anything that can train a stage."""

    def train(self, task: StageTask) -> Generator[EpochMetrics, None, None]:
        """Train one stage; yield each epoch's metrics.

        When the last epoch is yielded, and when the generator is closed earlier, `LAST` and `BEST`
        are those of the epochs yielded so far. In between, `LAST` may be older, so that a crash
        costs some training. If `task.folder` holds a `LAST`, continue from it, and first yield its
        epochs again, as they may not have been recorded before a crash. Raises `TrainingDiverged`
        when the loss is no longer finite.
        """
        ...
