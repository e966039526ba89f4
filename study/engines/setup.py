"""How to make the trainer of a search: a recipe that can be sent to a worker process."""

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from study.config.schema import EngineKind, StudyConfig
from study.engines.base import Engine
from study.engines.inline import InlineEngine
from study.engines.processes import ProcessEngine
from study.engines.slots import Slot, check_cluster_devices, slots_of
from study.errors import ConfigError
from trainers.base import Trainer
from trainers.data.manifest import Manifest
from trainers.metrics import Metric
from trainers.schedule import Schedule, Stage

LARGEST = 20 * 10**9
"""No backbone's weights have more bytes: what is larger is not read for a minute, or an hour."""

_ANY_STAGE = Stage(image_size=64)

ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True)
class Recipe:
    """Everything that a trainer is made of. `own` names the user's class, `package.module:Class`.

    The user's class is called with the manifest and, by name, the metric and the device. `made_by`
    says who searches; Encore's own weights files tell it on.
    """

    manifest: Manifest
    metric: Metric
    precision: str
    compiled: bool
    deterministic: bool
    checkpoint_seconds: float
    weights_file: Path | None
    cache_folder: Path
    cache_limit: int | None
    own: str | None = None
    made_by: Mapping[str, str] = field(default_factory=dict)

    def trainer(self, slot: Slot, cache_folder: Path | None = None, *, alone: bool) -> Trainer:
        """Make the trainer of a slot; `alone` in a process that sees nothing but its device.

        `cache_folder` is that of another machine. Raises `ConfigError` for what it cannot do.
        """
        device = slot.alone if alone else slot.device
        if self.own is not None:
            return _own_trainer(self.own, self.manifest, self.metric, device)
        import torch  # seconds to import

        from trainers.data.cache import Cache
        from trainers.data.room import ROOM
        from trainers.device import choose_compute
        from trainers.finetuner import Finetuner

        try:
            compute = choose_compute(
                device, self.precision, compiled=self.compiled, deterministic=self.deterministic
            )
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if alone:
            torch.set_num_threads(slot.threads)
            ROOM.share(slot.sharers)
        return Finetuner(
            self.manifest,
            metric=self.metric,
            compute=compute,
            weights_file=self.weights_file,
            cache=Cache(cache_folder or self.cache_folder, self.manifest, limit=self.cache_limit),
            checkpoint_seconds=self.checkpoint_seconds,
            sharers=slot.sharers,
            device_sharers=slot.device_sharers,
            made_by=self.made_by,
        )

    def maps(self) -> list[Path]:
        """List the files of decoded photos that there are by now."""
        return sorted((self.cache_folder / self.manifest.digest[:16]).glob("*.pixels"))

    def prepare(
        self, stages: Sequence[Stage], progress: ProgressCallback, say: Callable[[str], None]
    ) -> None:
        """Decode all photos for all these stages, once for all slots."""
        if self.own is None:
            import torch

            from trainers.data.cache import Cache
            from trainers.device import Compute
            from trainers.finetuner import Finetuner

            cache = Cache(self.cache_folder, self.manifest, limit=self.cache_limit, say=say)
            compute = Compute(torch.device("cpu"))
            Finetuner(self.manifest, compute=compute, cache=cache).prepare(stages, progress)


def recipe(
    config: StudyConfig,
    manifest: Manifest,
    cache_folder: Path,
    made_by: Mapping[str, str] | None = None,
) -> Recipe:
    """Return the recipe for a search's trainer. Raises `ConfigError` for a missing weights file."""
    return Recipe(
        manifest=manifest,
        metric=config.metric,
        precision=config.precision,
        compiled=config.compile,
        deterministic=config.deterministic,
        checkpoint_seconds=config.checkpoint_seconds,
        weights_file=_weights_file(config),
        cache_folder=cache_folder,
        cache_limit=config.data.cache_limit,
        own=config.trainer,
        made_by=dict(made_by or {}),
    )


def find_class(name: str) -> Any:
    """Import the class `package.module:Class`, from the current folder as well."""
    module, _, attribute = name.partition(":")
    if not module or not attribute.isidentifier():
        raise ConfigError(f"trainer must be package.module:Class, got {name!r}")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # it is the user's code: it may do anything
        raise ConfigError(f"trainer {name!r} cannot be imported: {_what(error)}") from error
    if not callable(getattr(found, "train", None)):
        raise ConfigError(f"trainer {name!r} must be a class with a method `train`")
    return found


def _own_trainer(name: str, manifest: Manifest, metric: Metric, device: str) -> Trainer:
    kind = find_class(name)
    try:
        made: Trainer = kind(manifest, metric=metric, device=device)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"trainer {name!r} cannot be made: {_what(error)}") from error
    return made


def _what(error: BaseException) -> str:
    if isinstance(error, ImportError | AttributeError):
        return str(error)
    if isinstance(error, SystemExit):
        return f"it exits with {error.code!r}"
    return " ".join(f"it raises {type(error).__name__}: {error}".split()).removesuffix(":")


def choose_weights(config: StudyConfig) -> str:
    """Return what schedules say of the backbone's weights. Raises `ConfigError`."""
    file = _weights_file(config)
    if file is None:
        return config.weights or "pretrained"
    from trainers.backbone import file_digest  # torch: seconds to import

    return file_digest(file)


def check_backbones(config: StudyConfig, made: Recipe, weights: str) -> list[str]:
    """Build every backbone once, so that weights which cannot be had are found now.

    Returns the names of those that have BatchNorm.
    """
    if made.own is not None:
        return []
    from trainers.backbone import build_network, has_batch_norm  # torch: seconds to import

    normed = []
    try:
        for backbone in config.resolved_space.backbone:
            schedule = Schedule(backbone=backbone, stages=(_ANY_STAGE,), weights=weights)
            network = build_network(schedule, len(made.manifest.classes), 0, made.weights_file)
            if has_batch_norm(network.body):
                normed.append(backbone)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return normed


def choose_slots(config: StudyConfig) -> list[Slot]:
    """Return the slots to train in. Raises `ConfigError`, also for a trainer that is not there."""
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
            "leave --engine away, or give one device"
        )
    return slots


def _weights_file(config: StudyConfig) -> Path | None:
    file = Path(config.weights) if config.weights not in (None, "random") else None
    if file is not None and not file.is_file():
        raise ConfigError(f"there is no weights file {str(file)!r}; check --weights")
    if file is not None and file.stat().st_size > LARGEST:
        raise ConfigError(
            f"weights file {str(file)!r} must have at most {LARGEST / 1e9:.0f} GB, "
            f"got {file.stat().st_size / 1e9:.0f} GB; check --weights"
        )
    return file


def make_engine(
    config: StudyConfig,
    made: Recipe,
    slots: Sequence[Slot],
    say: Callable[[str], None] = lambda _: None,
) -> Engine:
    """Make the engine that the settings ask for; `say` gets a sentence of nodes that come and go.

    Raises `ConfigError` where Ray is missing.
    """
    if config.engine is EngineKind.RAY:
        return _cluster(config, made, say)
    if len(slots) > 1 or config.engine is EngineKind.PROCESSES or _on_a_gpu(config, slots[0]):
        build = partial(made.trainer, alone=True)
        return ProcessEngine(build, slots, max_retries=config.budget.max_retries)
    return InlineEngine(made.trainer(slots[0], alone=False))


def _on_a_gpu(config: StudyConfig, slot: Slot) -> bool:
    """Whether AUTO means a worker process for one slot, too: one that survives no GPU's failure."""
    kind, _, _ = slot.device.partition(":")
    if config.engine is not EngineKind.AUTO or (config.trainer or "").startswith("__main__:"):
        return False
    if kind == "auto":
        import torch  # seconds to import

        return torch.cuda.device_count() > 0
    return kind == "cuda"


def _cluster(config: StudyConfig, made: Recipe, say: Callable[[str], None]) -> Engine:
    if find_spec("ray") is None:
        raise ConfigError("engine ray needs Ray; pip install -c constraints.txt -e '.[ray]'")
    # Ray reads it when it is imported; else it would print a lost node's last words to stdout.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    from study.engines.ray_cluster import ClusterEngine

    return ClusterEngine(
        partial(made.trainer, alone=True),
        cache=made.cache_folder,
        maps=made.maps,
        say=say,
        address=config.address,
        devices=config.devices,
        per_device=config.workers_per_device,
        max_retries=config.budget.max_retries,
    )
