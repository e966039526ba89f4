"""The search that a user would write without Encore: Optuna, ImageFolder, DataLoader, a loop.

The same network, space and schedules; every trial loads its photos and trains its stages itself.
"""

import argparse
import json
import logging
import time
import warnings
from pathlib import Path

import optuna
import torch
from lists import Lists
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

from study.config.space import DIGITS_SPACE
from study.searching.suggest import suggest_schedule
from trainers.annealing import lr_multiplier
from trainers.backbone import Network, build_network
from trainers.schedule import Stage

WORKERS = 2
Loader = DataLoader[tuple[torch.Tensor, torch.Tensor]]


def loader(folder: Path, stage: Stage, *, training: bool) -> Loader:
    """Load photos as the digits' space sees them: the middle square, nothing changed."""
    views = Compose([Resize(stage.image_size), CenterCrop(stage.image_size), ToTensor()])
    return DataLoader(
        ImageFolder(str(folder), views),
        stage.batch_size,
        shuffle=training,
        drop_last=training,  # BatchNorm cannot train on a lone photo
        num_workers=WORKERS,
        persistent_workers=True,
    )


def train_epoch(
    network: Network,
    photos: Loader,
    optimizer: torch.optim.Optimizer,
    stage: Stage,
    epoch: int,
    layout: torch.memory_format,
) -> None:
    """Train one epoch."""
    network.train()
    for step, (squares, labels) in enumerate(photos):
        scale = lr_multiplier(
            epoch * len(photos) + step, len(photos), stage.cycle_lengths, stage.annealing
        )
        for group, lr in zip(optimizer.param_groups, stage.lrs, strict=True):
            group["lr"] = lr * scale
        loss = functional.cross_entropy(network(squares.to(memory_format=layout)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.inference_mode()
def accuracy(network: Network, photos: Loader, layout: torch.memory_format) -> float:
    """Validate."""
    network.eval()
    hits = seen = 0
    for squares, labels in photos:
        hits += int((network(squares.to(memory_format=layout)).argmax(1) == labels).sum())
        seen += len(labels)
    return hits / seen


class Objective:
    """Trains a trial; prints (seconds since `began`, best accuracy so far) after each epoch."""

    def __init__(self, data: Path, seed: int, began: float, layout: torch.memory_format) -> None:
        self._data, self._seed, self._began, self._layout = data, seed, began, layout
        self._classes = len([each for each in (data / "train").iterdir() if each.is_dir()])
        self._best = 0.0

    def __call__(self, trial: optuna.Trial) -> float:
        """Train one trial; return its best accuracy."""
        schedule = suggest_schedule(Lists(trial), DIGITS_SPACE, "pretrained")
        torch.manual_seed(self._seed)
        network = build_network(schedule, self._classes, self._seed)
        network.to(memory_format=self._layout)  # type: ignore[call-overload]
        best = 0.0
        for stage in schedule.stages:
            network.set_dropout(stage.site_dropout(schedule.dropout_sites))
            groups = zip(network.layer_groups(), stage.lrs, strict=True)
            optimizer = torch.optim.AdamW(
                [{"params": group, "lr": lr} for group, lr in groups], weight_decay=0.0, fused=True
            )
            training = loader(self._data / "train", stage, training=True)
            validation = loader(self._data / "val", stage, training=False)
            for epoch in range(stage.epochs):
                train_epoch(network, training, optimizer, stage, epoch, self._layout)
                best = max(best, accuracy(network, validation, self._layout))
                self._best = max(self._best, best)
                print(json.dumps([time.time() - self._began, self._best]), flush=True)
        return best


def main() -> None:
    """Search."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder {train,val}/CLASS/*")
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--began", type=float, default=time.time(), help="seconds of the epoch")
    parser.add_argument("--channels-last", action="store_true", help="lay pixels out by place")
    given = parser.parse_args()
    optuna.logging.set_verbosity(logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    layout = torch.channels_last if given.channels_last else torch.contiguous_format
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(group=True, seed=given.seed)
    )
    objective = Objective(given.data, given.seed, given.began, layout)
    study.optimize(objective, n_trials=given.trials)


if __name__ == "__main__":
    main()
