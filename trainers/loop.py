"""One epoch of training and one pass of validation, as plain functions."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trainers.backbone import Network
from trainers.base import TrainingDiverged
from trainers.data.loader import Batch
from trainers.metrics import Evaluation
from trainers.schedule import Optimizer, Stage

MOMENTUM = 0.9


def make_optimizer(network: Network, stage: Stage) -> torch.optim.Optimizer:
    """Give each layer group its learning rate; norms and biases are not decayed."""
    groups = []
    for lr, parameters in zip(stage.lrs, network.layer_groups(), strict=True):
        training = [parameter for parameter in parameters if parameter.requires_grad]
        for decayed in (True, False):
            members = [p for p in training if (p.ndim > 1) is decayed]
            decay = stage.weight_decay if decayed else 0.0
            groups.append({"params": members, "lr": lr, "peak_lr": lr, "weight_decay": decay})
    groups = [group for group in groups if group["params"]]
    if stage.optimizer is Optimizer.SGD:
        return torch.optim.SGD(groups, momentum=MOMENTUM, fused=True)
    return torch.optim.AdamW(groups, fused=True)


def train_epoch(
    network: Network,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    multiplier: Callable[[int], float],
    *,
    label_smoothing: float,
    device: torch.device,
) -> float:
    """Train on every batch once and give the mean loss.

    `multiplier` maps the epoch's step to what each group's learning rate is multiplied by.
    Raises `TrainingDiverged` if the loss is not finite.
    """
    network.train()
    total, photos = torch.zeros((), device=device), 0
    for step, (squares, labels) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * multiplier(step)
        logits = network(_to_device(squares, device))
        loss = functional.cross_entropy(logits, labels.to(device), label_smoothing=label_smoothing)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.detach() * len(labels)
        photos += len(labels)
    return _finite(total.item() / photos, "training")


@torch.inference_mode()
def evaluate(
    network: Network, batches: Iterable[Batch], device: torch.device
) -> tuple[Evaluation, float]:
    """Predict every photo; give the predictions and the mean cross-entropy."""
    network.eval()
    logits, labels = [], []
    for squares, truth in batches:
        logits.append(network(_to_device(squares, device)).float().cpu())
        labels.append(truth)
    every_logit, every_label = torch.cat(logits), torch.cat(labels)
    loss = functional.cross_entropy(every_logit, every_label).item()
    probabilities = every_logit.softmax(1).numpy().astype(np.float32)
    return Evaluation(every_label.numpy(), probabilities), _finite(loss, "validation")


def _to_device(squares: Tensor, device: torch.device) -> Tensor:
    # channels_last: convolutions of small photos run about three times as fast on a CPU.
    return squares.to(device, memory_format=torch.channels_last)


def _finite(loss: float, what: str) -> float:
    if not np.isfinite(loss):
        raise TrainingDiverged(f"the {what} loss is {loss}; lower the learning rates")
    return loss
