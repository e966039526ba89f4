"""Training state <-> one file; weights <-> safetensors with a card.

Nothing is pickled: tensors are safetensors, the rest is JSON in the file's metadata.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from trainers.averaging import Average
from trainers.backbone import Network
from trainers.card import CARD, WeightsCard, opened
from trainers.errors import NotOurWeights
from trainers.files import replacing
from trainers.handover import NETWORK
from trainers.metrics import EpochMetrics, Evaluation

_AVERAGE, _OPTIMIZER, _BEST = "average.", "optimizer.", "best."


def save_weights(path: Path, weights: Mapping[str, Tensor], card: WeightsCard) -> None:
    """Write a network's state and its card, whole or not at all."""
    _write(path, _cpu(weights), {"format": "pt", CARD: json.dumps(asdict(card))})


def read_weights(path: Path) -> tuple[dict[str, Tensor], WeightsCard]:
    """Read a file of `save_weights`. Raises `NotOurWeights`; runs no code from the file."""
    with opened(path) as file:
        metadata = file.metadata() or {}
        if CARD not in metadata:
            raise NotOurWeights(
                f"{str(path)!r} holds no Encore metadata; give one that Encore has written"
            )
        card = WeightsCard.from_json(metadata[CARD])
        return {name: file.get_tensor(name) for name in file.keys()}, card  # noqa: SIM118


@dataclass
class TrainingState:
    """The full state that the next epoch of a stage depends on, and the results so far.

    `best` are the validated network's tensors after the best epoch, None if that is the latest.
    """

    network: Network
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    history: list[EpochMetrics]
    best: dict[str, Tensor] | None = None
    average: Average | None = None

    @property
    def judged(self) -> Network:
        """The network that is validated and kept: the average of the weights, if there is one."""
        return self.average.network if self.average else self.network

    def tensors(self) -> dict[str, Tensor]:
        """Return network, average and optimizer as they are, not copied."""
        tensors = named(NETWORK, self.network.state_dict())
        if self.average:
            tensors |= named(_AVERAGE, self.average.network.state_dict())
        for index, values in self.optimizer.state_dict()["state"].items():
            for name, value in values.items():
                if value is not None:
                    tensors[f"{_OPTIMIZER}{index}.{name}"] = torch.as_tensor(value)
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore network, average and optimizer from `tensors`."""
        self.network.load_state_dict(under(NETWORK, tensors))
        self.judged.load_state_dict(judged_of(tensors))
        groups = self.optimizer.param_groups
        parameters = [parameter for group in groups for parameter in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in under(_OPTIMIZER, tensors).items():
            index, _, field = name.partition(".")
            laid_out = _laid_out_like(parameters[int(index)], value)
            state.setdefault(int(index), {})[field] = laid_out
        plain = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": plain})
        for left_by_scaler in ("grad_scale", "found_inf"):  # left by a step that has failed
            vars(self.optimizer).pop(left_by_scaler, None)
        self.optimizer.zero_grad()

    def adopt(self, saved: "SavedState") -> None:
        """Restore from a file's content."""
        self.restore(saved.tensors)
        if saved.scaler:
            self.scaler.load_state_dict(saved.scaler)
        self.history = saved.history
        device = next(self.network.parameters()).device
        self.best = saved.best and {name: value.to(device) for name, value in saved.best.items()}


@dataclass(frozen=True)
class SavedState:
    """The content of `LAST`; see `TrainingState`."""

    tensors: dict[str, Tensor]
    history: list[EpochMetrics]
    best: dict[str, Tensor] | None
    scaler: dict[str, Any]


def save_training_state(
    path: Path,
    tensors: Mapping[str, Tensor],
    history: Sequence[EpochMetrics],
    *,
    best: Mapping[str, Tensor] | None = None,
    scaler: Mapping[str, Any] | None = None,
) -> None:
    """Write the tensors of `TrainingState`, the epochs so far, and the best epoch's network.

    After a stage's last epoch only its network is needed: the next stage starts with a new
    optimizer.
    """
    written = _cpu(tensors)
    written |= named(_BEST, _cpu(best or {}))
    for epoch in history:
        found = epoch.evaluation  # in the same precision as in the database
        written[f"probabilities.{epoch.epoch}"] = torch.from_numpy(found.probabilities).half()
        written[f"predicted.{epoch.epoch}"] = torch.from_numpy(found.predicted).int()
    plain = [_plain_epoch(epoch) for epoch in history]
    metadata = {"history": json.dumps(plain), "scaler": json.dumps(scaler or {})}
    _write(path, written, metadata)


def read_training_state(path: Path, network: nn.Module, labels: NDArray[np.int64]) -> SavedState:
    """Read a file of `save_training_state`; `labels` are those of its predictions.

    Raises `NotOurWeights` for anything but a whole state of this network.
    """
    with opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    try:
        history = [_epoch(past, labels, tensors) for past in json.loads(metadata["history"])]
        scaler = dict(json.loads(metadata["scaler"]))
    except (KeyError, TypeError, ValueError) as error:
        raise NotOurWeights(f"{path} holds no whole history of epochs ({error})") from error
    fits = shapes(network.state_dict())
    average, best = under(_AVERAGE, tensors), under(_BEST, tensors)
    whole = shapes(under(NETWORK, tensors)) == fits
    if not history or not whole or any(shapes(more) not in (fits, {}) for more in (average, best)):
        raise NotOurWeights(f"{path} holds no training state of this network")
    return SavedState(tensors, history, best or None, scaler)


def load_network_weights(path: Path, network: nn.Module) -> None:
    """Load a parent stage's weights, `last` or `best`, into a network."""
    with opened(path) as file:
        names = list(file.keys())
        own = [name for name in names if name.startswith(NETWORK)] or names
        tensors = {name: file.get_tensor(name) for name in own}
    network.load_state_dict(under(NETWORK, tensors) or tensors)


def shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Return each tensor's shape by its name: equal for networks that can swap weights."""
    return {name: tensor.shape for name, tensor in state.items()}


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    # Fused optimizers iterate over memory: a state must have its parameter's memory format.
    if value.shape == parameter.shape:
        return torch.empty_like(parameter).copy_(value)
    return value.clone()  # a step counter, which the optimizer would modify


def _plain_epoch(epoch: EpochMetrics) -> dict[str, Any]:
    names = (field.name for field in fields(epoch) if field.name != "evaluation")
    return {name: getattr(epoch, name) for name in names}


def _epoch(
    plain: Mapping[str, Any],
    labels: NDArray[np.int64],
    tensors: Mapping[str, Tensor],
) -> EpochMetrics:
    probabilities = tensors[f"probabilities.{plain['epoch']}"].numpy()
    predicted = tensors.get(f"predicted.{plain['epoch']}")
    if predicted is None:  # written by Encore 0.1.0, in float32
        evaluation = Evaluation(labels, probabilities)
    else:
        evaluation = Evaluation.kept(labels, predicted.numpy(), probabilities)
    return EpochMetrics(**{**plain, "lrs": tuple(plain["lrs"])}, evaluation=evaluation)


def judged_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the validated network's tensors among those of `TrainingState.tensors`."""
    return under(_AVERAGE, tensors) or under(NETWORK, tensors)


def named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with names that begin with a prefix."""
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    with replacing(path, synced=True) as temporary:
        save_file(tensors, temporary, metadata)
