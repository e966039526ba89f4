"""The contestant timm, tuned: its transforms, mixup, optimizer and scheduler, as in train.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import timm
import torch
from PIL import Image
from recipe_task import (
    BACKBONE,
    PhotoList,
    Photos,
    Probabilities,
    asked_of,
    loading_workers,
    packaged_body,
)
from timm.data import create_transform
from timm.data.mixup import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch.nn import Module
from torch.utils.data import DataLoader, Dataset
from tuning import Deadline, Settings, Trained, tune

BATCH = 32
SMOOTHING = 0.1
WEIGHT_DECAY = 0.05
USUAL: Settings = {
    "lr": 1e-3,
    "layer_decay": 0.75,
    "epochs": 8,
    "mixup": 0.0,
    "re_prob": 0.25,
    "auto_augment": "rand-m9-mstd0.5",
    "scale": 0.35,
    "drop_path": 0.1,
    "ema": 0.0,
    "size": 224,
}
Loader = DataLoader[tuple[torch.Tensor, int]]


class Views(Dataset[tuple[torch.Tensor, int]]):
    """Photos as a timm transform shows them."""

    def __init__(self, paths: Sequence[Path], labels: Sequence[int], transform: Any) -> None:
        self._paths, self._labels, self._transform = paths, labels, transform

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self._paths[index]) as photo:
            return self._transform(photo.convert("RGB")), self._labels[index]


def suggest(trial: optuna.Trial) -> Settings:
    """Suggest what its users turn; label smoothing and weight decay stay as usual."""
    return {
        "lr": trial.suggest_float("lr", 1e-4, 5e-3, log=True),
        "layer_decay": trial.suggest_categorical("layer_decay", (0.75, 0.9, 1.0)),
        "epochs": trial.suggest_int("epochs", 4, 20),
        "mixup": trial.suggest_categorical("mixup", (0.0, 0.2)),
        "re_prob": trial.suggest_categorical("re_prob", (0.0, 0.25)),
        "auto_augment": trial.suggest_categorical("auto_augment", ("", "rand-m9-mstd0.5")),
        "scale": trial.suggest_categorical("scale", (0.35, 0.7)),
        "drop_path": trial.suggest_categorical("drop_path", (0.0, 0.1)),
        "ema": trial.suggest_categorical("ema", (0.0, 0.99)),
        "size": trial.suggest_categorical("size", (128, 160, 224)),
    }


def build(classes: int, settings: Settings) -> Module:
    """Build timm's network, with the packaged weights but for its classifier."""
    network: Module = timm.create_model(
        BACKBONE, num_classes=classes, drop_path_rate=settings["drop_path"]
    )
    network.load_state_dict(packaged_body().state_dict(), strict=False)
    return network.to(memory_format=torch.channels_last)


def loader(photos: Photos, network: Any, settings: Settings, *, training: bool) -> Loader:
    """Load with timm's transforms, on a worker per core."""
    config = network.pretrained_cfg
    changes: dict[str, Any] = {
        "scale": (settings["scale"], 1.0),
        "auto_augment": settings["auto_augment"] or None,
        "re_prob": settings["re_prob"],
        "re_mode": "pixel",
    }
    transform = create_transform(
        settings["size"],
        is_training=training,
        mean=config["mean"],
        std=config["std"],
        interpolation="bicubic",
        **(changes if training else {"crop_pct": 1.0}),
    )
    return DataLoader(
        Views(photos.paths, photos.labels.tolist(), transform),
        BATCH,
        shuffle=training,
        drop_last=training,
        num_workers=loading_workers(),
    )


def train(photos: PhotoList, settings: Settings, seed: int, deadline: Deadline) -> Trained:
    """Fine-tune once: AdamW, cosine with an epoch of warm-up, perhaps an average of the weights."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # what timm's mixup draws from
    classes = len(photos.classes)
    network = build(classes, settings)
    batches = loader(photos.train, network, settings, training=True)
    optimizer = create_optimizer_v2(
        network,
        "adamw",
        lr=settings["lr"],
        weight_decay=WEIGHT_DECAY,
        layer_decay=settings["layer_decay"] if settings["layer_decay"] < 1 else None,
    )
    scheduler, epochs = create_scheduler_v2(
        optimizer,
        num_epochs=settings["epochs"],
        warmup_epochs=1,
        warmup_lr=settings["lr"] / 100,
        step_on_epochs=False,
        updates_per_epoch=len(batches),
    )
    average = (
        ModelEmaV3(network, decay=settings["ema"], use_warmup=True) if settings["ema"] else None
    )
    mixup = (
        Mixup(settings["mixup"], label_smoothing=SMOOTHING, num_classes=classes)
        if settings["mixup"]
        else None
    )
    loss_of: Module = SoftTargetCrossEntropy() if mixup else LabelSmoothingCrossEntropy(SMOOTHING)
    step = 0
    for _ in range(epochs):
        network.train()
        for squares, labels in batches:
            deadline.check()
            if mixup:
                squares, labels = mixup(squares, labels)
            loss = loss_of(network(squares.to(memory_format=torch.channels_last)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            scheduler.step_update(step)
            if average:
                average.update(network, step=step)
    judged = average.module if average else network
    valid = predicted(judged, photos.valid, settings)
    return Trained(valid, lambda: predicted(judged, photos.test, settings))


@torch.inference_mode()
def predicted(network: Module, photos: Photos, settings: Settings) -> Probabilities:
    """Return the probabilities of photos, of their whole middle square."""
    network.eval()
    batches = loader(photos, network, settings, training=False)
    rows = [
        network(squares.to(memory_format=torch.channels_last)).softmax(1) for squares, _ in batches
    ]
    return torch.cat(rows).numpy()


def main() -> None:
    """Compete, and print the answer."""
    asked = asked_of(__doc__)
    torch.set_num_threads(asked.threads)
    tune("timm", asked, USUAL, suggest, train).print()


if __name__ == "__main__":
    main()
