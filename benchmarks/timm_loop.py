"""The contestant timm: its dataset, its loaders and a plain PyTorch loop."""

from typing import Any

import torch
from memory import PeakMemory
from network import starting_network
from task import Laps, Outcome, Task, command_line
from timm.data import ImageDataset, create_loader
from timm.utils import random_seed
from torch.nn import functional
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torch.utils.data import DataLoader

from trainers.backbone import Network

Loader = DataLoader[Any]


def loaders(task: Task) -> tuple[Loader, Loader]:
    """Return the loaders of training and validation; mean 0 and std 1: the network normalises.

    The validation sees the whole middle square (crop_pct=1), as it does with the others.
    """
    common: dict[str, Any] = {
        "input_size": (3, task.size, task.size),
        "batch_size": task.batch,
        "interpolation": "bilinear",
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "num_workers": task.workers,
        "persistent_workers": True,
        "use_prefetcher": False,  # its work is the copy to a GPU
        "device": torch.device("cpu"),
    }
    train = create_loader(
        ImageDataset(task.train),
        is_training=True,
        scale=(0.7, 1.0),
        hflip=0.5,
        color_jitter=(0.05, 0.05, 0.0),  # brightness and contrast, as much as the others
        **common,
    )
    return train, create_loader(ImageDataset(task.valid), crop_pct=1.0, **common)


def train_epoch(
    network: Network,
    loader: Loader,
    optimizer: AdamW,
    annealing: LRScheduler,
    layout: torch.memory_format,
) -> int:
    """Train one epoch; gives how many photos it trained on (timm drops the last batch)."""
    network.train()
    trained = 0
    for squares, labels in loader:
        loss = functional.cross_entropy(network(squares.to(memory_format=layout)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        annealing.step()
        trained += len(labels)
    return trained


@torch.inference_mode()
def accuracy(network: Network, loader: Loader, layout: torch.memory_format) -> tuple[float, int]:
    """Validate; gives the accuracy and on how many photos."""
    network.eval()
    hits = photos = 0
    for squares, labels in loader:
        guesses = network(squares.to(memory_format=layout)).argmax(dim=1)
        hits += int((guesses == labels).sum())
        photos += len(labels)
    return hits / photos, photos


def compete(task: Task, layout: torch.memory_format, name: str) -> Outcome:
    """Train and validate `task.epochs` times."""
    network = starting_network(task).to(memory_format=layout)
    random_seed(task.seed)
    accuracies = []
    with PeakMemory(watching=task.memory) as memory:
        laps = Laps()
        train, valid = loaders(task)
        groups = zip(network.layer_groups(), task.schedule.stages[0].lrs, strict=True)
        optimizer = AdamW([{"params": group, "lr": lr} for group, lr in groups], fused=True)
        annealing = CosineAnnealingLR(optimizer, T_max=task.epochs * len(train))
        for _ in range(task.epochs):
            trained = train_epoch(network, train, optimizer, annealing, layout)
            share, validated = accuracy(network, valid, layout)
            accuracies.append(share)
            laps.lap()
    return Outcome(name, laps.seconds, trained, validated, accuracies, memory.peak_mb)


def main() -> None:
    """Compete, and print the outcome."""
    parser = command_line(__doc__)
    parser.add_argument("--channels-last", action="store_true", help="lay pixels out by place")
    given = parser.parse_args()
    if given.channels_last:
        outcome = compete(Task.of(given), torch.channels_last, "timm, channels_last")
    else:
        outcome = compete(Task.of(given), torch.contiguous_format, "timm")
    outcome.print()


if __name__ == "__main__":
    main()
