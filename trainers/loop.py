"""One epoch of training and one pass of validation, as plain functions."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from trainers.backbone import Network
from trainers.data.loader import Batch
from trainers.device import Compute
from trainers.errors import TrainingDiverged
from trainers.labels import CROSS_ENTROPY, Objective
from trainers.metrics import Evaluation
from trainers.schedule import Optimizer, Stage

MOMENTUM = 0.9

_BATCH_NORM = nn.modules.batchnorm._BatchNorm


def make_optimizer(network: Network, stage: Stage) -> torch.optim.Optimizer:
    """Return the optimizer, with a learning rate for each layer group.

    Norms and biases are not decayed.
    """
    shares = network.shares_by_block(stage.layer_decay)
    groups = []
    for lr, parameters in zip(stage.lrs, network.layer_groups(), strict=True):
        training = [parameter for parameter in parameters if parameter.requires_grad]
        for share, decayed in product(dict.fromkeys(shares[p] for p in training), (True, False)):
            members = [p for p in training if shares[p] == share and (p.ndim > 1) is decayed]
            decay, own = stage.weight_decay if decayed else 0.0, lr * share
            groups.append({"params": members, "lr": own, "peak_lr": own, "weight_decay": decay})
    groups = [group for group in groups if group["params"]]
    if stage.optimizer is Optimizer.SGD:
        optimizer = torch.optim.SGD(groups, momentum=MOMENTUM, fused=True)
        # If the first step overflowed under FP16, torch would leave the momentum uninitialised.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    return torch.optim.AdamW(groups, fused=True)


@dataclass(frozen=True, kw_only=True)
class Step:
    """How a step is computed from a batch: by default from its mean `objective`.

    `mix` makes other inputs and soft labels of a batch. `class_weights` (one for each class)
    multiply the losses of photos. `clip_grad` is the largest norm of the gradient. `then` is called
    with the number of each step. With a `micro_batch`, gradients are accumulated over parts of
    about that size.
    """

    mix: Callable[[Tensor, Tensor], Batch] | None = None
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    clip_grad: float = 0.0
    then: Callable[[int], None] | None = None
    micro_batch: int | None = None
    objective: Objective = CROSS_ENTROPY

    def loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Return the mean loss of photos, whose labels may be shares of classes."""
        return self.objective.loss(
            logits,
            truth,
            label_smoothing=self.label_smoothing,
            class_weights=self.class_weights,
        )


def train_epoch(
    model: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    multiplier: Callable[[int], float],
    compute: Compute,
    how: Step = Step(),
) -> float:
    """Train on every batch once and return the mean loss.

    `multiplier` maps the epoch's step to the factor of each group's learning rate. The device is
    synchronised only at the end. Raises `TrainingDiverged` if the loss is not finite.
    """
    total, photos = torch.zeros((), device=compute.device), 0
    with _BatchCounters(model, kept=how.then is not None) as counters:
        for step, (inputs, labels) in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * multiplier(step)
            if how.mix:
                inputs, labels = how.mix(inputs, labels)
            optimizer.zero_grad()
            parts = _parts(len(labels), how.micro_batch)
            for some, true in zip(
                inputs.tensor_split(parts), labels.tensor_split(parts), strict=True
            ):
                with compute.autocast():
                    logits = model(some)
                loss = how.loss(logits.float(), true)
                if parts > 1:
                    loss = loss * (len(true) / len(labels))
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                total += loss.detach() * len(labels)
                counters.batches += 1
            _take_step(optimizer, scaler, how.clip_grad)
            if how.then:
                how.then(step)
            photos += len(labels)
    return _finite(total.item() / photos, "training")


class _BatchCounters:
    """Counts BatchNorm's `batches` within its `with`, and adds them to all counters at its end.

    With a momentum nothing reads these counters; one by one, they are an eighth of what a step
    launches on a GPU. They count themselves if they are to be `kept`: where an average of the
    network is.
    """

    def __init__(self, model: nn.Module, *, kept: bool) -> None:
        self.batches = 0
        norms = [] if kept else [m for m in model.modules() if isinstance(m, _BATCH_NORM)]
        self._counted = [
            (norm, norm.num_batches_tracked)
            for norm in norms
            if norm.training and norm.momentum is not None and norm.num_batches_tracked is not None
        ]

    def __enter__(self) -> Self:
        """Take the counters away from their layers."""
        for norm, _ in self._counted:
            norm.num_batches_tracked = None
        return self

    def __exit__(self, *_: object) -> None:
        """Put them back."""
        for norm, counter in self._counted:
            norm.num_batches_tracked = counter
        if self._counted:
            torch._foreach_add_([counter for _, counter in self._counted], self.batches)


def _take_step(
    optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, clip_grad: float
) -> None:
    if clip_grad:
        scaler.unscale_(optimizer)
        groups = optimizer.param_groups
        nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], clip_grad)
    scaler.step(optimizer)
    scaler.update()


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    compute: Compute,
    *,
    micro_batch: int | None = None,
    objective: Objective = CROSS_ENTROPY,
) -> tuple[Evaluation, float]:
    """Predict every photo; return the predictions and the mean loss."""
    logits, labels = [], []
    for inputs, truth in batches:
        with compute.autocast():
            logits += [
                model(some).float() for some in torch.split(inputs, micro_batch or len(inputs))
            ]
        labels.append(truth)
    every_logit, every_label = torch.cat(logits).cpu(), torch.cat(labels).cpu()
    loss = objective.validation_loss(every_logit, every_label).item()
    return objective.evaluation(every_logit, every_label), _finite(loss, "validation")


class Waited:
    """Iterates over batches, and counts the `seconds` spent waiting for them."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = batches
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        coming = iter(self._batches)
        while True:
            began = time.perf_counter()
            batch = next(coming, None)
            self.seconds += time.perf_counter() - began
            if batch is None:
                return
            yield batch


def _parts(count: int, micro_batch: int | None) -> int:
    """Return how many parts to split a batch into, none of a single photo (for BatchNorm)."""
    return max(1, min(-(-count // micro_batch), count // 2)) if micro_batch else 1


def _finite(loss: float, what: str) -> float:
    if not np.isfinite(loss):
        raise TrainingDiverged(f"the {what} loss is {loss}; lower the learning rates")
    return loss
