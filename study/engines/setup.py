"""What a command prepares before it trains: devices, weights, the trainer's recipe, the engine."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path

from study.config.schema import EngineKind, StudyConfig
from study.engines.base import Engine
from study.engines.inline import InlineEngine
from study.engines.processes import ProcessEngine
from study.engines.recipe import Recipe, find_class, weights_file
from study.engines.slots import Slot, check_cluster_devices, slots_of
from study.errors import ConfigError
from trainers.data.manifest import Manifest
from trainers.schedule import Schedule, Stage

_ANY_STAGE = Stage(image_size=64)


class Setup:
    """The devices and initial weights that settings ask for, each found once."""

    def __init__(self, config: StudyConfig) -> None:
        self.config = config

    @cached_property
    def slots(self) -> list[Slot]:
        """The slots to train in. Raises `ConfigError`, also if the trainer cannot be imported."""
        return _choose_slots(self.config)

    @cached_property
    def weights(self) -> str:
        """The name of the backbone's weights in schedules. Raises `ConfigError`."""
        file = weights_file(self.config)
        if file is None:
            return self.config.weights or "pretrained"
        from trainers.backbone import file_digest  # torch: seconds to import

        return file_digest(file)

    def training(
        self,
        config: StudyConfig,
        manifest: Manifest,
        cache_folder: Path,
        made_by: Mapping[str, str] | None = None,
    ) -> "Training":
        """Return the training set-up for these data, with settings that fit them; see `Recipe`."""
        return Training(self, config, Recipe.of(config, manifest, cache_folder, made_by))


@dataclass(frozen=True)
class Training:
    """A recipe and where it is trained; `config` are the set-up's settings, fitted to the data."""

    setup: Setup
    config: StudyConfig
    recipe: Recipe

    def check_backbones(self) -> list[str]:
        """Build every backbone once, so that unavailable weights are found now.

        Returns the names of those that have BatchNorm. Raises `ConfigError`.
        """
        made = self.recipe
        if made.own is not None:
            return []
        from trainers.backbone import build_network, has_batch_norm  # torch: seconds to import

        normed, classes, weights = [], len(made.manifest.classes), self.setup.weights
        try:
            for backbone in self.config.resolved_space.backbone:
                schedule = Schedule(backbone=backbone, stages=(_ANY_STAGE,), weights=weights)
                if has_batch_norm(build_network(schedule, classes, 0, made.weights_file).body):
                    normed.append(backbone)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return normed

    def engine(self, say: Callable[[str], None] = lambda _: None) -> Engine:
        """Make the engine that the settings ask for; `say` reports nodes that join and leave.

        Raises `ConfigError` where Ray is missing.
        """
        if self.config.engine is EngineKind.RAY:
            return self._cluster(say)
        slots, kind = self.setup.slots, self.config.engine
        if len(slots) > 1 or kind is EngineKind.PROCESSES or on_a_gpu(self.config, slots[0]):
            return self.processes(slots)
        return InlineEngine(self.recipe.trainer(slots[0], alone=False))

    def processes(self, slots: Sequence[Slot]) -> ProcessEngine:
        """Make an engine with a worker process for each of these slots."""
        build = partial(self.recipe.trainer, alone=True)
        return ProcessEngine(build, slots, max_retries=self.config.budget.max_retries)

    def _cluster(self, say: Callable[[str], None]) -> Engine:
        if find_spec("ray") is None:
            raise ConfigError("engine ray needs Ray; pip install -c constraints.txt -e '.[ray]'")
        # Ray reads it on import; without it, Ray would print a lost node's output to stdout.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
        from study.engines.ray_cluster import ClusterEngine

        return ClusterEngine(
            partial(self.recipe.trainer, alone=True),
            cache=self.recipe.cache_folder,
            maps=self.recipe.maps,
            say=say,
            address=self.config.address,
            devices=self.config.devices,
            per_device=self.config.workers_per_device,
            max_retries=self.config.budget.max_retries,
        )


def on_a_gpu(config: StudyConfig, slot: Slot) -> bool:
    """Return whether AUTO means a worker process even for one slot.

    A GPU's failure ends its process.
    """
    kind, _, _ = slot.device.partition(":")
    if config.engine is not EngineKind.AUTO or (config.trainer or "").startswith("__main__:"):
        return False
    if kind == "auto":
        import torch  # seconds to import

        return torch.cuda.device_count() > 0
    return kind == "cuda"


def _choose_slots(config: StudyConfig) -> list[Slot]:
    if config.trainer is not None:
        find_class(config.trainer)
    try:
        if config.engine is EngineKind.RAY:
            check_cluster_devices(config.devices)
        slots = slots_of(config.devices, config.workers_per_device)
        if config.engine is not EngineKind.RAY and config.trainer is None:
            from trainers.device import check_device  # torch: seconds to import

            for slot in slots:
                check_device(slot.device, config.precision)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    in_this_process = len(slots) == 1 and config.engine in (EngineKind.AUTO, EngineKind.INLINE)
    if (config.trainer or "").startswith("__main__:") and not in_this_process:
        raise ConfigError(
            f"trainer {config.trainer!r} is part of the program that is run, which worker "
            "processes do not import; put the class into a module of its own and name that, as in "
            "mine:MyTrainer"
        )
    if len(slots) > 1 and config.engine is EngineKind.INLINE:
        raise ConfigError(
            f"engine inline must have one slot, got {len(slots)} ({config.devices}); "
            "drop --engine, or give one device"
        )
    return slots
