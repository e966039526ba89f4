"""How to make the trainer of a search: a recipe that can be sent to a worker process."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study.config.schema import StudyConfig
from study.engines.slots import Slot
from study.errors import ConfigError
from trainers.base import Trainer
from trainers.data.manifest import Manifest
from trainers.metrics import Metric
from trainers.schedule import Stage

LARGEST = 20 * 10**9
"""No backbone's weights are larger; larger files are refused rather than read for minutes."""

ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True)
class Recipe:
    """Everything needed to make a trainer. `own` names the user's class, `package.module:Class`.

    The user's class is called with the manifest and, by name, the metric and the device. `made_by`
    describes the search; Encore's own weights files store it. With `keep_latest`, the best epoch of
    Encore's own stages is the latest, whatever its score.
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
    keep_latest: bool = False

    @classmethod
    def of(
        cls,
        config: StudyConfig,
        manifest: Manifest,
        cache_folder: Path,
        made_by: Mapping[str, str] | None = None,
    ) -> "Recipe":
        """Return the recipe of settings. Raises `ConfigError` for a missing weights file."""
        return cls(
            manifest=manifest,
            metric=config.metric,
            precision=config.precision,
            compiled=config.compile,
            deterministic=config.deterministic,
            checkpoint_seconds=config.checkpoint_seconds,
            weights_file=weights_file(config),
            cache_folder=cache_folder,
            cache_limit=config.data.cache_limit,
            own=config.trainer,
            made_by=dict(made_by or {}),
        )

    def trainer(self, slot: Slot, cache_folder: Path | None = None, *, alone: bool) -> Trainer:
        """Make the trainer of a slot; `alone` in a process that sees only its device.

        `cache_folder` is given on another machine. Raises `ConfigError` if it cannot be made.
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
            metric=None if self.keep_latest else self.metric,
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


def weights_file(config: StudyConfig) -> Path | None:
    """Return the file of the backbone's weights, if the settings name one. Raises `ConfigError`."""
    file = Path(config.weights) if config.weights not in (None, "random") else None
    if file is not None and not file.is_file():
        raise ConfigError(f"there is no weights file {str(file)!r}; check --weights")
    if file is not None and file.stat().st_size > LARGEST:
        raise ConfigError(
            f"weights file {str(file)!r} must have at most {LARGEST / 1e9:.0f} GB, "
            f"got {file.stat().st_size / 1e9:.0f} GB; check --weights"
        )
    return file


def find_class(name: str) -> Any:
    """Import the class `package.module:Class`, from the current folder as well."""
    module, _, attribute = name.partition(":")
    if not module or not attribute.isidentifier():
        raise ConfigError(f"trainer must be package.module:Class, got {name!r}")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # user code may raise anything
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
