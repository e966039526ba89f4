"""How many operations a training step launches, by part: the same on a CPU as on a GPU.

PYTHONPATH=. python benchmarks/launches.py [--backbone NAME ...] [--size 64]
"""

import argparse
from collections import Counter
from typing import Any

import torch
from contestants import markdown
from torch.utils._python_dispatch import TorchDispatchMode

from trainers.backbone import build_network
from trainers.device import choose_compute
from trainers.loop import make_optimizer, train_epoch
from trainers.schedule import Schedule, Stage

PARTS = {
    "convolutions and products": ("convolution", "mm", "pad_nd"),
    "BatchNorm": ("batch_norm",),
    "activations": ("relu", "threshold", "hardtanh", "clone"),
    "optimizer": ("_fused", "_foreach"),
}
"""What an operation's name contains; all others are residual sums, the loss and the like."""

NO_LAUNCH = ("empty", "new_empty", "detach", "as_strided", "profiler")


class Operations(TorchDispatchMode):
    """Counts what is not a view, by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one."""
        name = str(func.name())
        if not func.is_view and not any(word in name for word in NO_LAUNCH):
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


def step_of(backbone: str, size: int) -> Counter[str]:
    """Count the operations of one step: what two steps have more than one."""
    stage, compute = Stage(image_size=size, batch_size=8), choose_compute("cpu")
    network = build_network(Schedule(backbone=backbone, stages=(stage,), weights="random"), 5, 0)
    network.to(memory_format=torch.channels_last).train()
    optimizer = make_optimizer(network, stage)
    squares = torch.rand(8, 3, size, size).contiguous(memory_format=torch.channels_last)
    batch, counts = (squares, torch.arange(8) % 5), []
    for steps in (1, 1, 2):
        with Operations() as operations:
            train_epoch(
                network, [batch] * steps, optimizer, compute.scaler(), lambda _: 1.0, compute
            )
        counts.append(operations.count)
    return counts[2] - counts[1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    usual = ["resnext50_32x4d", "tf_efficientnet_lite0"]
    parser.add_argument("--backbone", nargs="+", default=usual)
    parser.add_argument("--size", type=int, default=64)
    asked = parser.parse_args()
    rows = []
    for backbone in asked.backbone:
        found = step_of(backbone, asked.size)
        by_part: Counter[str] = Counter()
        for name, count in found.items():
            part = next((p for p, words in PARTS.items() if any(w in name for w in words)), "")
            by_part[part or "all else"] += count
        counts = [*(by_part[part] for part in (*PARTS, "all else")), found.total()]
        rows.append([backbone, *map(str, counts)])
    print(markdown(("backbone", *PARTS, "all else", "in all"), rows))


if __name__ == "__main__":
    main()
