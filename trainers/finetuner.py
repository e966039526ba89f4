"""Train stage by stage, as fast.ai's `fit` did: the trainer behind a search on real photos."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from trainers.annealing import cycle_of, lr_multiplier
from trainers.backbone import Network, build_network, empty_network
from trainers.base import BEST, LAST, StageTask
from trainers.checkpoint import (
    NotOurWeights,
    WeightsCard,
    load_network_weights,
    load_training_state,
    package_versions,
    read_card,
    save_training_state,
    save_weights,
)
from trainers.data.loader import Photos, training_batches, training_steps, validation_batches
from trainers.data.manifest import Manifest, Split
from trainers.device import choose_device
from trainers.loop import evaluate, make_optimizer, train_epoch
from trainers.metrics import EpochMetrics, Metric


class Finetuner:
    """A `Trainer` of timm backbones on the photos of a manifest.

    `metric` decides which epoch's weights are `BEST`, ties by loss. `weights_file` is what
    schedules with weights "sha256:..." start from.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        metric: Metric = Metric.ACCURACY,
        device: str = "auto",
        weights_file: Path | None = None,
    ) -> None:
        self.manifest = manifest
        self.metric = metric
        self.device = choose_device(device)
        self.weights_file = weights_file
        self._photos = Photos(manifest)
        self._labels = manifest.labels(Split.VALID)

    def train(self, task: StageTask) -> Iterator[EpochMetrics]:
        """Train one stage; see `Trainer.train`."""
        network, optimizer, history = self._resume(task)
        self._photos.begin(task.stage)
        yield from history
        for epoch in range(len(history), task.stage.epochs):
            history.append(self._epoch(task, network, optimizer, epoch))
            # LAST before BEST: a crash between them leaves BEST to be made from LAST.
            goes_on = optimizer if len(history) < task.stage.epochs else None
            save_training_state(task.folder / LAST, network, goes_on, history)
            if self._best(history) is history[-1]:
                self._save_best(task, network, history[-1])
            yield history[-1]

    def _network(self, task: StageTask) -> Network:
        n_classes = len(self.manifest.classes)
        if task.start is None:
            network = build_network(task.schedule, n_classes, task.seed, self.weights_file)
        else:
            network = empty_network(task.schedule.backbone, task.schedule.hidden, n_classes)
            load_network_weights(task.start, network)
        network.set_dropout(task.stage.site_dropout(task.schedule.dropout_sites))
        network.freeze(task.stage.frozen_groups)
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def _resume(self, task: StageTask) -> tuple[Network, torch.optim.Optimizer, list[EpochMetrics]]:
        """Go on from LAST, if there is one with a BEST that fits; else begin the stage anew."""
        network = self._network(task)
        optimizer, last = make_optimizer(network, task.stage), task.folder / LAST
        try:
            history = load_training_state(last, network, optimizer, self._labels)
        except NotOurWeights:  # none yet, or a broken file
            return network, optimizer, []
        best = self._best(history)
        if _epoch_of(task.folder / BEST) != best.epoch:
            if best is not history[-1]:  # its weights are lost
                last.unlink()
                return self._resume(task)
            self._save_best(task, network, best)
        return network, optimizer, history

    def _epoch(
        self, task: StageTask, network: Network, optimizer: torch.optim.Optimizer, epoch: int
    ) -> EpochMetrics:
        stage, started = task.stage, time.perf_counter()
        place = {"seed": task.seed, "position": task.position, "epoch": epoch}
        # Dropout draws from torch's generator: seeded here, it depends on the epoch's place alone.
        torch.manual_seed(_number(**place))
        steps = training_steps(self._photos, stage)
        first = epoch * steps
        train_loss = train_epoch(
            network,
            training_batches(self._photos, stage, **place),
            optimizer,
            lambda step: lr_multiplier(first + step, steps, stage.cycle_lengths),
            label_smoothing=stage.label_smoothing,
            device=self.device,
        )
        trained = time.perf_counter()
        batches = validation_batches(self._photos, stage)
        evaluation, valid_loss = evaluate(network, batches, self.device)
        scale = lr_multiplier(first, steps, stage.cycle_lengths)
        photos = len(self.manifest.of_split(Split.TRAIN))
        return EpochMetrics.of(
            evaluation,
            stage=task.position,
            epoch=epoch + 1,
            cycle=cycle_of(epoch, stage.cycle_lengths)[0] + 1,
            lrs=tuple(lr * scale for lr in stage.lrs),
            train_loss=train_loss,
            valid_loss=valid_loss,
            seconds=time.perf_counter() - started,
            images_per_second=photos / (trained - started),
        )

    def _best(self, history: list[EpochMetrics]) -> EpochMetrics:
        return min(history, key=lambda epoch: epoch.rank(self.metric))

    def _save_best(self, task: StageTask, network: Network, epoch: EpochMetrics) -> None:
        names = ("train_loss", "valid_loss", "accuracy", "balanced_accuracy", "f1")
        card = WeightsCard(
            backbone=task.schedule.backbone,
            hidden=task.schedule.hidden,
            classes=self.manifest.classes,
            mean=tuple(network.mean.flatten().tolist()),
            std=tuple(network.std.flatten().tolist()),
            image_size=task.stage.image_size,
            crop=task.stage.crop.value,
            schedule=task.schedule.to_dict(),
            schedule_digest=task.schedule.digest,
            manifest_digest=self.manifest.digest,
            seed=task.seed,
            stage=task.position,
            epoch=epoch.epoch,
            metrics={name: getattr(epoch, name) for name in names},
            packages=package_versions(),
        )
        save_weights(task.folder / BEST, network, card)


def _epoch_of(best: Path) -> int | None:
    try:
        return read_card(best).epoch
    except NotOurWeights:
        return None


def _number(**place: int) -> int:
    """Make one generator seed of several numbers, so that neighbours have nothing in common."""
    return int.from_bytes(hashlib.sha256(repr(place).encode()).digest()[:8], "big") >> 1
