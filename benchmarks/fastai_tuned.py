"""The contestant fastai, tuned: `vision_learner` and `fine_tune`, as its users write it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from fastai.callback.channelslast import ChannelsLast
from fastai.vision.all import (
    Callback,
    CategoryBlock,
    CrossEntropyLossFlat,
    DataBlock,
    DataLoaders,
    ImageBlock,
    IndexSplitter,
    Learner,
    Normalize,
    Resize,
    aug_transforms,
    default_split,
    set_seed,
    vision_learner,
)
from recipe_task import BACKBONE, PhotoList, Probabilities, asked_of, loading_workers, packaged_body
from tuning import Deadline, Settings, Trained, tune

BATCH = 32
DECODED = 256
"""Pixels of the squares that the loaders give, from which a batch's crops are cut (presizing)."""

USUAL: Settings = {"base_lr": 2e-3, "epochs": 4, "freeze_epochs": 1, "size": 224}


class Ends(Callback):  # type: ignore[misc]  # fastai comes without types
    """Ends training when the time is over."""

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline

    def before_batch(self) -> None:
        """Look at the clock."""
        self.deadline.check()


def suggest(trial: optuna.Trial) -> Settings:
    """Suggest what `fine_tune` is called with, and an image size."""
    return {
        "base_lr": trial.suggest_float("base_lr", 5e-4, 2e-2, log=True),
        "epochs": trial.suggest_int("epochs", 2, 12),
        "freeze_epochs": trial.suggest_int("freeze_epochs", 1, 4),
        "size": trial.suggest_categorical("size", (128, 160, 224)),
    }


def loaders(photos: PhotoList, size: int) -> DataLoaders:
    """Cut 75 to 100 % of each photo's area, with fastai's usual changes, and normalise."""
    both = (photos.train, photos.valid)
    items = [path for split in both for path in split.paths]
    labels = dict(
        zip(items, (label for split in both for label in split.labels.tolist()), strict=True)
    )
    body: Any = packaged_body()
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=list(range(len(photos.classes))))),
        get_y=lambda path: labels[path],
        splitter=IndexSplitter(range(len(photos.train), len(items))),
        item_tfms=Resize(DECODED),
        batch_tfms=[
            *aug_transforms(size=size, min_scale=0.75),
            Normalize.from_stats(body.pretrained_cfg["mean"], body.pretrained_cfg["std"]),
        ],
    )
    return block.dataloaders(
        items, bs=BATCH, num_workers=loading_workers(), device=torch.device("cpu")
    )


def learner(photos: PhotoList, settings: Settings) -> Learner:
    """Build fastai's own network on the packaged body."""
    built = vision_learner(
        loaders(photos, settings["size"]),
        BACKBONE,
        pretrained=False,  # they are loaded below: vision_learner would fetch them from a hub
        loss_func=CrossEntropyLossFlat(),
        splitter=default_split,
        cbs=ChannelsLast(),
    )
    built.model[0].model.load_state_dict(packaged_body().state_dict())
    return built


def train(photos: PhotoList, settings: Settings, seed: int, deadline: Deadline) -> Trained:
    """Fine-tune once."""
    set_seed(seed)
    built = learner(photos, settings)
    built.add_cb(Ends(deadline))
    with built.no_bar(), built.no_logging():
        built.fine_tune(
            settings["epochs"], settings["base_lr"], freeze_epochs=settings["freeze_epochs"]
        )
        built.remove_cb(Ends)
        valid = built.get_preds(ds_idx=1)[0].numpy()
    return Trained(valid, lambda: predicted(built, photos.test.paths))


def predicted(built: Learner, paths: Iterable[Path]) -> Probabilities:
    """Return the probabilities of photos that it was not given before."""
    with built.no_bar(), built.no_logging():
        found = built.get_preds(dl=built.dls.test_dl(list(paths)))[0].numpy()
    return np.asarray(found)


def main() -> None:
    """Compete, and print the answer."""
    asked = asked_of(__doc__)
    torch.set_num_threads(asked.threads)
    tune("fastai", asked, USUAL, suggest, train).print()


if __name__ == "__main__":
    main()
