"""The contestant fastai: ImageDataLoaders, aug_transforms and fit_one_cycle, as its users write."""

import math

import torch
from fastai.callback.channelslast import ChannelsLast
from fastai.vision.all import (
    Callback,
    CrossEntropyLossFlat,
    DataLoaders,
    ImageDataLoaders,
    Learner,
    Resize,
    accuracy,
    aug_transforms,
    set_seed,
)
from memory import PeakMemory
from network import starting_network
from task import Laps, Outcome, Task, command_line

from trainers.backbone import Network


class Clock(Callback):  # type: ignore[misc]  # fastai comes without types
    """Takes the time of each epoch and counts the photos it trained on."""

    order = 60  # after the Recorder, so that the epoch ends with its metrics

    def __init__(self, laps: Laps) -> None:
        self.laps = laps
        self.trained = 0

    def before_train(self) -> None:
        """Count anew."""
        self.trained = 0

    def after_batch(self) -> None:
        """Count what was trained on: fastai drops the last, incomplete batch."""
        if self.training:
            self.trained += len(self.yb[0])

    def after_epoch(self) -> None:
        """End an epoch, its validation included."""
        self.laps.lap()


def loaders(task: Task) -> DataLoaders:
    """Photos a tenth too large from the workers, changed and cut batch by batch.

    fastai 2.8 starts its workers anew in every epoch, also with persistent_workers=True. There is
    no Normalize, because the network normalises.
    """
    return ImageDataLoaders.from_folder(
        task.data,
        train=task.train.name,
        valid=task.valid.name,
        item_tfms=Resize(math.ceil(1.1 * task.size)),
        batch_tfms=aug_transforms(
            size=task.size, max_rotate=10, max_zoom=1.1, max_warp=0, max_lighting=0.05
        ),
        bs=task.batch,
        num_workers=task.workers,
        device=torch.device("cpu"),
    )


def compete(task: Task, name: str, *callbacks: Callback) -> Outcome:
    """Train and validate `task.epochs` times."""
    network = starting_network(task)
    set_seed(task.seed)
    with PeakMemory(watching=task.memory) as memory:
        laps = Laps()
        clock = Clock(laps)
        photos = loaders(task)
        learner = Learner(
            photos,
            network,
            loss_func=CrossEntropyLossFlat(),
            splitter=Network.layer_groups,
            metrics=accuracy,
            cbs=[clock, *callbacks],
        )
        with learner.no_bar(), learner.no_logging():
            learner.fit_one_cycle(task.epochs, lr_max=list(task.schedule.stages[0].lrs))
    return Outcome(
        name=name,
        epoch_seconds=laps.seconds,
        train_images=clock.trained,
        valid_images=len(photos.valid_ds),
        accuracy=[float(row[-1]) for row in learner.recorder.values],
        peak_rss_mb=memory.peak_mb,
    )


def main() -> None:
    """Compete, and print the outcome."""
    parser = command_line(__doc__)
    parser.add_argument("--channels-last", action="store_true", help="lay pixels out by place")
    given = parser.parse_args()
    if given.channels_last:
        outcome = compete(Task.of(given), "fastai, channels_last", ChannelsLast())
    else:
        outcome = compete(Task.of(given), "fastai")
    outcome.print()


if __name__ == "__main__":
    main()
