"""Training state <-> one file; weights <-> safetensors that say themselves what they are.

Nothing is pickled: tensors are safetensors, the rest is JSON in the file's metadata.
"""

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from trainers.metrics import EpochMetrics, Evaluation
from trainers.schedule import CropType, Schedule, Stage

FORMAT_VERSION = "1"
_KEY = "encore"


class NotOurWeights(Exception):
    """A file that is no Encore weights file, or a broken one; the message says which."""


@dataclass(frozen=True, kw_only=True)
class WeightsCard:
    """What a weights file says about itself: how to rebuild the network, and what made it."""

    backbone: str
    hidden: tuple[int, ...]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    crop: str
    schedule: dict[str, Any]
    schedule_digest: str
    manifest_digest: str
    seed: int
    stage: int
    epoch: int
    metrics: dict[str, float]
    packages: dict[str, str]
    format_version: str = FORMAT_VERSION

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a card; anything but a whole card of this format version is a `NotOurWeights`."""
        try:
            plain = json.loads(text)
            if plain["format_version"] != FORMAT_VERSION:
                raise NotOurWeights(
                    f"weights are of format {plain['format_version']}, this Encore reads "
                    f"{FORMAT_VERSION}; upgrade encore-search"
                )
            known = {field.name: plain[field.name] for field in fields(cls)}
            for name in ("hidden", "classes", "mean", "std"):
                known[name] = tuple(known[name])
            card = cls(**known)
            card._check()
            return card
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise NotOurWeights(f"the metadata of these weights is not Encore's: {error}") from None

    def _check(self) -> None:
        # What a network is built by is checked as a schedule checks it.
        stage = Stage(image_size=self.image_size, batch_size=2, crop=CropType(self.crop))
        Schedule(backbone=self.backbone, hidden=self.hidden, stages=(stage,))
        if not self.classes or not all(isinstance(name, str) for name in self.classes):
            raise ValueError(f"classes must be names, got {str(self.classes)[:100]}")


def package_versions() -> dict[str, str]:
    """Give the versions that a training depends on."""
    versions = {"python": platform.python_version()}
    for name in ("encore-search", "torch", "torchvision", "timm", "numpy", "pillow"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def save_weights(path: Path, network: nn.Module, card: WeightsCard) -> None:
    """Write a network's weights and their card, whole or not at all."""
    _write(path, _cpu(network.state_dict()), {"format": "pt", _KEY: json.dumps(asdict(card))})


def read_weights(path: Path) -> tuple[dict[str, Tensor], WeightsCard]:
    """Read what `save_weights` wrote. Raises `NotOurWeights`; runs no code from the file."""
    with _opened(path) as file:
        metadata = file.metadata() or {}
        if _KEY not in metadata:
            raise NotOurWeights(f"{path} holds no Encore metadata; give a file that `best` names")
        card = WeightsCard.from_json(metadata[_KEY])
        return {name: file.get_tensor(name) for name in file.keys()}, card  # noqa: SIM118


def read_card(path: Path) -> WeightsCard:
    """Read only what a weights file says about itself."""
    with _opened(path) as file:
        return WeightsCard.from_json((file.metadata() or {}).get(_KEY, "null"))


def save_training_state(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    history: Sequence[EpochMetrics],
) -> None:
    """Write all that the next epoch depends on, and the epochs so far.

    After a stage's last epoch no optimizer is needed: the next stage begins with a new one.
    """
    tensors = {f"network.{name}": value for name, value in _cpu(network.state_dict()).items()}
    states = optimizer.state_dict()["state"] if optimizer else {}
    for index, values in states.items():
        for name, value in values.items():
            if value is not None:
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value).cpu().contiguous()
    for epoch in history:
        probabilities = torch.from_numpy(epoch.evaluation.probabilities)
        tensors[f"probabilities.{epoch.epoch}"] = probabilities
    plain = [_plain_epoch(epoch) for epoch in history]
    _write(path, tensors, {"history": json.dumps(plain)})


def load_training_state(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    labels: np.ndarray[Any, np.dtype[np.int64]],
) -> list[EpochMetrics]:
    """Put network and optimizer back as they were; give the epochs so far.

    Raises `NotOurWeights`, with nothing changed, for anything but a whole state of this network.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = (file.metadata() or {}).get("history", "null")
    weights = _under("network.", tensors)
    try:
        epochs = [_epoch(past, labels, tensors) for past in json.loads(text)]
    except (KeyError, TypeError, ValueError) as error:
        raise NotOurWeights(f"{path} holds no whole history of epochs ({error})") from error
    if not epochs or shapes(weights) != shapes(network.state_dict()):
        raise NotOurWeights(f"{path} holds no training state of this network")
    network.load_state_dict(weights)
    groups = optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("optimizer.", tensors).items():
        index, _, field = name.partition(".")
        state.setdefault(int(index), {})[field] = _laid_out_like(parameters[int(index)], value)
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return epochs


def load_network_weights(path: Path, network: nn.Module) -> None:
    """Put a parent stage's weights, be they `last` or `best`, into a network."""
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    network.load_state_dict(_under("network.", tensors) or tensors)


def shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Give each tensor's shape by its name: equal for networks that can swap weights."""
    return {name: tensor.shape for name, tensor in state.items()}


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    # Fused optimizers walk through memory: a state must lie there in its parameter's order.
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value


def _plain_epoch(epoch: EpochMetrics) -> dict[str, Any]:
    names = (field.name for field in fields(epoch) if field.name != "evaluation")
    return {name: getattr(epoch, name) for name in names}


def _epoch(
    plain: Mapping[str, Any],
    labels: np.ndarray[Any, np.dtype[np.int64]],
    tensors: Mapping[str, Tensor],
) -> EpochMetrics:
    probabilities = tensors[f"probabilities.{plain['epoch']}"]
    evaluation = Evaluation(labels, probabilities.numpy())
    return EpochMetrics(**{**plain, "lrs": tuple(plain["lrs"])}, evaluation=evaluation)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, metadata)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except (safetensors.SafetensorError, OSError) as error:
        raise NotOurWeights(f"{path} is not a whole safetensors file ({error})") from error
