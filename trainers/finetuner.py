"""Train stage by stage, as fast.ai's `fit` did: the trainer behind a search on real photos."""

import hashlib
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from trainers.annealing import cycle_of, lr_multiplier
from trainers.averaging import Average
from trainers.backbone import Network, build_network, empty_network
from trainers.base import StageTask, is_out_of_memory
from trainers.batch_count import BatchCount
from trainers.card import WeightsCard, package_versions
from trainers.checkpoint import TrainingState, load_network_weights
from trainers.checkpointing import Keeper
from trainers.data.batches import passes_of
from trainers.data.cache import Cache, wanted_by
from trainers.data.loader import Batch, Photos, training_steps
from trainers.data.manifest import Manifest, Split
from trainers.device import Compute, choose_compute, processor
from trainers.folded import FirstFolds, FoldNetworks, FoldStates, together
from trainers.inputs import Inputs
from trainers.loop import Step, Waited, evaluate, make_optimizer, train_epoch
from trainers.metrics import EpochMetrics, Evaluation, Metric
from trainers.mixing import Mixing
from trainers.probe import balancing, fit_probe
from trainers.schedule import Balance, Stage, Train
from trainers.shortage import Shortage

CHECKPOINT_SECONDS = 30.0


class Finetuner:
    """A `Trainer` of timm backbones on the photos of a manifest.

    With folds, a stage trains one network without each fold, all to the same epoch.
    `metric` decides which epoch's weights are `BEST`, ties by loss; None takes the latest.
    `weights_file` is what
    schedules with weights "sha256:..." start from. `cache` shares decoded photos with other
    processes; without one they are kept in memory. A crash costs at most `checkpoint_seconds` of
    training, or an epoch, whichever is longer. `sharers` such trainers share this machine,
    `device_sharers` of them this one's device (by default all).
    `made_by` describes the environment (a command, a commit) and is stored in weights files.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        metric: Metric | None = Metric.ACCURACY,
        compute: Compute | None = None,
        weights_file: Path | None = None,
        cache: Cache | None = None,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        sharers: int = 1,
        device_sharers: int | None = None,
        made_by: Mapping[str, str] | None = None,
    ) -> None:
        self.manifest = manifest
        self.metric = metric
        self.compute = compute or choose_compute()
        self.weights_file = weights_file
        self.checkpoint_seconds = checkpoint_seconds
        self.made_by = dict(made_by or {})
        self._cache = cache
        self._photos = Photos(
            manifest, cache, self.compute.device, sharers=sharers, device_sharers=device_sharers
        )
        self._inputs = Inputs(self._photos, self.compute)
        self._shortage = Shortage(self.compute.device)
        self._objective = manifest.kind.objective
        self._folds = [self._of_fold(number) for number in range(manifest.folds)]

    def _of_fold(self, number: int) -> "Finetuner":
        """Return the trainer of a fold's network, sharing all decoded and computed data."""
        found = copy(self)
        found.manifest = self.manifest.fold(number)
        found._inputs = self._inputs.of_fold(number)
        found._photos = found._inputs.photos
        return found

    def prepare(self, stages: Sequence[Stage], progress: Callable[[int, int], None]) -> None:
        """Decode all photos for all these stages at once; `progress` gets (photos done, of)."""
        if self._cache:
            self._cache.prepare(wanted_by(stages), progress)

    def train(self, task: StageTask) -> Generator[EpochMetrics, None, None]:
        """Train one stage; see `Trainer.train`."""
        # Read here: the thread that writes the files has another number of threads.
        made_by = self.made_by | circumstances(self.compute)
        self._inputs.begin()
        networks = [self._built(task) for _ in self._folds or [self]]
        whole = FoldNetworks(networks, self._objective) if self._folds else networks[0]
        if task.start is not None:
            load_network_weights(task.start, whole)
        networks = networks[: task.first_folds or None]
        states = [self._begun(task, network) for network in networks]
        state = FoldStates(states) if self._folds else states[0]
        first = task.first_folds
        keeper = Keeper(
            FirstFolds(task.folder, task.stage.epochs).folder if first else task.folder,
            state,
            epochs=task.stage.epochs,
            metric=self.metric,
            seconds=self.checkpoint_seconds,
            card=lambda epoch: self._card(task, networks[0], epoch, made_by),
        )
        try:
            labels = self.manifest.labels(Split.VALID)
            keeper.resume(labels[self.manifest.fold_of_answers < first] if first else labels)
            yield from list(state.history)
            while len(state.history) < task.stage.epochs:
                state.history.append(self._epoch_that_fits(task, state, keeper))
                keeper.keep()
                yield state.history[-1]
        except GeneratorExit:
            keeper.leave()
            raise
        finally:
            keeper.close()

    def _built(self, task: StageTask) -> Network:
        n_classes = len(self.manifest.classes)
        if task.start is None:
            return build_network(task.schedule, n_classes, task.seed, self.weights_file)
        schedule = task.schedule
        return empty_network(schedule.backbone, schedule.hidden, n_classes, schedule.levels)

    def _begun(self, task: StageTask, network: Network) -> TrainingState:
        network.set_dropout(task.stage.site_dropout(task.schedule.dropout_sites))
        network.set_drop_path(task.stage.drop_path)
        network.freeze(task.stage.frozen, task.stage.batch_norm)
        network.to(self.compute.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return TrainingState(
            network,
            make_optimizer(network, task.stage),
            self.compute.scaler(),
            history=[],
            average=Average(network, task.stage.ema) if task.stage.ema else None,
        )

    def _epoch_that_fits(
        self, task: StageTask, state: TrainingState | FoldStates, keeper: Keeper
    ) -> EpochMetrics:
        """Train an epoch; if memory is short, train it again as `Shortage` decides."""
        place = task.schedule.backbone, task.stage.image_size
        while True:
            way = self._shortage.way(place)
            self._inputs.keep_on_device(kept=way.kept)
            micro_batch = way.micro_batch(task.stage.batch_size)
            try:
                if isinstance(state, FoldStates):
                    return self._of_each_fold(task, state, micro_batch)
                return self._once(task, state, micro_batch)
            except (RuntimeError, MemoryError) as error:
                if not (
                    is_out_of_memory(error)
                    and self._shortage.note(place, way, task.stage.batch_size)
                ):
                    raise
            # Outside of `except`: the traceback would keep memory that must be freed.
            keeper.restore()
            torch.cuda.empty_cache()

    def _of_each_fold(
        self, task: StageTask, state: FoldStates, micro_batch: int | None
    ) -> EpochMetrics:
        """Train an epoch of each fold's network; return the combined predictions.

        Networks that were trained before, as those of the first folds, are taken over.
        """
        epochs, count = list[EpochMetrics](), len(state.states)
        first = FirstFolds(task.folder, task.stage.epochs)
        for number, (fold, own) in enumerate(zip(self._folds, state.states, strict=False)):
            own.history = state.history
            if not task.first_folds and first.has(number):
                labels = fold.manifest.labels(Split.VALID)
                epochs.append(first.restore(number, len(state.history) + 1, own, labels))
                continue

            def progress(done: int, total: int, before: int = number) -> None:
                task.progress(before * total + done, count * total)

            epochs.append(fold._once(replace(task, progress=progress), own, micro_batch))
            if task.first_folds:
                first.save(number, own, epochs[-1])
        fold_of = self.manifest.fold_of_answers
        return together(epochs, fold_of[fold_of < count])

    def _once(self, task: StageTask, state: TrainingState, micro_batch: int | None) -> EpochMetrics:
        train = self._probe if task.stage.train is Train.PROBE else self._epoch
        return train(task, state, micro_batch)

    def _epoch(
        self, task: StageTask, state: TrainingState, micro_batch: int | None
    ) -> EpochMetrics:
        stage, epoch, started = task.stage, len(state.history), time.perf_counter()
        place = {"seed": task.seed, "position": task.position, "epoch": epoch}
        # Dropout uses torch's generator: seeded here, it depends only on the epoch's position.
        torch.manual_seed(_number(**place))
        steps = training_steps(self._photos, stage)
        first = epoch * steps

        def multiplier(step: int) -> float:
            cycles, annealing = stage.cycle_lengths, stage.annealing
            return lr_multiplier(step, steps, cycles, annealing, stage.warm_up)

        state.network.train()
        validation_steps = self._inputs.validation_steps(state.network, stage)
        progress = BatchCount(task.progress, steps + validation_steps)
        model, batches = self._inputs.training(state.network, stage, micro_batch, progress, **place)
        training = Waited(progress.passing(batches))
        train_loss = train_epoch(
            model,
            training,
            state.optimizer,
            state.scaler,
            lambda step: multiplier(first + step),
            self.compute,
            self._step(state, stage, first, micro_batch),
        )
        trained = time.perf_counter()
        state.network.eval()
        model, batches = self._inputs.validation(state.judged, stage, micro_batch, progress)
        validation = Waited(progress.passing(batches))
        evaluation, valid_loss = self._evaluate(model, validation, micro_batch)
        seconds = time.perf_counter() - started
        photos = len(self.manifest.of_split(Split.TRAIN))
        scale = multiplier(first)
        return EpochMetrics.of(
            evaluation,
            stage=task.position,
            epoch=epoch + 1,
            cycle=cycle_of(epoch, stage.cycle_lengths)[0] + 1,
            lrs=tuple(lr * scale for lr in stage.lrs),
            train_loss=train_loss,
            valid_loss=valid_loss,
            seconds=seconds,
            images_per_second=photos * passes_of(stage, photos) / (trained - started),
            data_wait=(training.seconds + validation.seconds) / seconds,
            micro_batch=micro_batch,
        )

    def _step(
        self, state: TrainingState, stage: Stage, first: int, micro_batch: int | None
    ) -> Step:
        """Return the options of a stage's steps; `first` is the epoch's first step."""
        average = state.average
        return Step(
            mix=Mixing.of(stage, len(self.manifest.classes)),
            label_smoothing=stage.label_smoothing,
            class_weights=self._class_weights() if stage.balance is Balance.LOSS else None,
            clip_grad=stage.clip_grad,
            then=(lambda step: average.update(state.network, first + step)) if average else None,
            micro_batch=micro_batch,
            objective=self._objective.lowering(stage.loss),
        )

    def _evaluate(
        self, model: nn.Module, batches: Iterable[Batch], micro_batch: int | None
    ) -> tuple[Evaluation, float]:
        return evaluate(
            model, batches, self.compute, micro_batch=micro_batch, objective=self._objective
        )

    def _class_weights(self) -> Tensor:
        labels = torch.from_numpy(self.manifest.labels(Split.TRAIN))
        weights = balancing(labels, len(self.manifest.classes))
        return weights.float().to(self.compute.device)

    def _prior(self, stage: Stage) -> tuple[float, ...]:
        """Return how much each class counts in training, or which share of photos has a label."""
        counts = np.array(self.manifest.counts(Split.TRAIN))
        if self.manifest.n_questions > 1:
            return tuple((counts / len(self.manifest.of_split(Split.TRAIN))).tolist())
        if stage.balance is not Balance.NONE:
            counts = np.ones_like(counts)
        return tuple((counts / counts.sum()).tolist())

    def _probe(
        self, task: StageTask, state: TrainingState, micro_batch: int | None
    ) -> EpochMetrics:
        """Fit the head to the body's features of the training photos and their mirror images."""
        stage, network, started = task.stage, state.network.eval(), time.perf_counter()
        inputs, split = self._inputs, Split.TRAIN
        ahead = 2 * inputs.blocks(split) + inputs.blocks(Split.VALID) * (1 + stage.tta)
        progress = BatchCount(task.progress, ahead, ahead)
        photos, labels = inputs.features(network, stage, split, micro_batch, progress)
        mirrored, _ = inputs.features(network, stage, split, micro_batch, progress, mirrored=True)
        train_loss = fit_probe(
            network.head, photos, mirrored, labels, stage.balance, network.widths
        )
        fitted = time.perf_counter()
        model, batches = inputs.validation(network, stage, micro_batch, progress)
        evaluation, valid_loss = self._evaluate(model, batches, micro_batch)
        return EpochMetrics.of(
            evaluation,
            stage=task.position,
            epoch=1,
            cycle=1,
            lrs=(0.0,) * len(stage.lrs),  # no gradient step was taken
            train_loss=train_loss,
            valid_loss=valid_loss,
            seconds=time.perf_counter() - started,
            images_per_second=len(labels) / (fitted - started),
            micro_batch=micro_batch,
        )

    def _card(
        self, task: StageTask, network: Network, epoch: EpochMetrics, made_by: dict[str, str]
    ) -> WeightsCard:
        names = ("train_loss", "valid_loss", "accuracy", "balanced_accuracy", "f1")
        return WeightsCard(
            backbone=task.schedule.backbone,
            hidden=task.schedule.hidden,
            levels=task.schedule.levels,
            classes=self.manifest.classes,
            kind=self.manifest.kind.name,
            format_version=self.manifest.kind.weights_format,
            mean=tuple(network.mean.flatten().tolist()),
            std=tuple(network.std.flatten().tolist()),
            image_size=task.stage.image_size,
            crop=task.stage.crop.value,
            tta=task.stage.tta,
            schedule=task.schedule.to_dict(),
            schedule_digest=task.schedule.digest,
            manifest_digest=self.manifest.digest,
            seed=task.seed,
            stage=task.position,
            epoch=epoch.epoch,
            metrics={name: getattr(epoch, name) for name in names},
            prior=self._prior(task.stage),
            folds=self.manifest.folds,
            packages=package_versions(),
            made_by=made_by | ({"compiled": "no"} if self._inputs.not_compiled else {}),
        )


def circumstances(compute: Compute) -> dict[str, str]:
    """Return what bit-identical training depends on, beside the versions of packages.

    The number of threads changes the order of summation, and processors differ in their
    instructions.
    """
    found = {
        "device": compute.name,
        "threads": str(torch.get_num_threads()),
        "processor": processor(),
    }
    if compute.device.type != "cpu":  # which is always deterministic
        found["deterministic"] = "yes" if compute.deterministic else "no"
    return found | ({"compiled": "yes"} if compute.compiled else {})


def _number(**place: int) -> int:
    """Combine several numbers into one seed, so that neighbours are unrelated."""
    return int.from_bytes(hashlib.sha256(repr(place).encode()).digest()[:8], "big") >> 1
