"""The seam between what is trained and who asks for it."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from trainers.annealing import cycle_of
from trainers.errors import TrainingDiverged as TrainingDiverged  # raised by trainers of one's own
from trainers.errors import WeightsUnavailable as WeightsUnavailable
from trainers.metrics import EpochMetrics, Evaluation, Metric
from trainers.schedule import Schedule, Stage

LAST = "last.safetensors"
"""File in a task's folder with all that is needed to go on after its latest epoch."""

BEST = "best.safetensors"
"""File in a task's folder with the weights of its best epoch so far."""


class Precision(StrEnum):
    """What numbers the network computes with; weights and optimizer are always float32.

    AUTO is BF16 on a GPU that has it, FP16 (its gradients scaled) on one that has not, FP32
    elsewhere. TF32 rounds the factors of float32 products to 10 bits, on NVIDIA's tensor cores.
    """

    AUTO = "auto"
    BF16 = "bf16"
    FP16 = "fp16"
    TF32 = "tf32"
    FP32 = "fp32"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an allocator has failed: torch and each library have an error of their own."""
    signs = ("out of memory", "can't allocate memory", "not enough memory", "status_alloc_failed")
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)


def is_device_lost(error: BaseException) -> bool:
    """Tell whether a GPU has failed in a way after which this process cannot use it any more.

    After a kernel's fault CUDA answers everything with an error, whatever is asked of it. Some of
    its errors leave it usable, and cannot be told from the others.
    """
    signs = ("cuda error", "cuda driver error", "triton error [cuda]", "hip error")
    of_cudnn = ("cudnn_status_execution_failed", "cudnn_status_internal_error")
    text = str(error).lower()
    return any(sign in text for sign in signs + of_cudnn) and not is_out_of_memory(error)


def _unheard(done: int, total: int) -> None:
    """Take what a trainer tells of its batches, where nothing shows it."""


@dataclass(frozen=True, kw_only=True)
class StageTask:
    """What a trainer is asked to do: train the last stage of `schedule` under `seed`.

    `folder` belongs to this task alone and is where the trainer writes `LAST` and `BEST`.
    `start` is the parent stage's weights file; None for a first stage. A trainer may call
    `progress(done, total)` with the batches of the epoch at hand, as often as it likes and in the
    thread that trains: all but a few calls a second cost nothing, and it need not call at all.
    """

    schedule: Schedule
    seed: int
    folder: Path
    start: Path | None = None
    progress: Callable[[int, int], None] = field(default=_unheard, compare=False, repr=False)

    @property
    def stage(self) -> Stage:
        """The stage to train."""
        return self.schedule.stages[-1]

    @property
    def position(self) -> int:
        """Where the stage stands in the schedule, counted from 0."""
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

        When the last epoch is yielded, and when the generator is closed before, `LAST` and `BEST`
        are those of the epochs yielded so far. In between, `LAST` may be older, so that a crash
        costs some training.

        If `task.folder` holds a `LAST`, go on from it, and first yield again the epochs it knows:
        so they are learned that a crash has withheld. Raises `TrainingDiverged` when the
        loss is no longer finite.
        """
        ...
