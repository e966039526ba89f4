"""A stage trained once per fold: the states of its networks as one, and their predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainers.backbone import Network
from trainers.checkpoint import (
    SavedState,
    TrainingState,
    read_training_state,
    save_training_state,
)
from trainers.labels import CROSS_ENTROPY, Objective
from trainers.metrics import EpochMetrics, Evaluation

_EXACT, _NOT_KEPT = "exact", "optimizer."


def fold_name(number: int) -> str:
    """Return the prefix of the names of a fold's tensors."""
    return f"fold{number}"


def each_network(network: nn.Module) -> list[Network]:
    """Return the networks of all folds, or the one of photos in none."""
    each = network.values() if isinstance(network, FoldNetworks) else [network]
    return [one for one in each if isinstance(one, Network)]


class FoldNetworks(nn.ModuleDict):
    """The networks of all folds, each trained without its fold, as one network for new photos.

    The logits are those whose probabilities are the mean of theirs (`Objective.mean`).
    """

    def __init__(self, networks: Sequence[Network], objective: Objective = CROSS_ENTROPY) -> None:
        super().__init__({fold_name(n): network for n, network in enumerate(networks)})
        self.objective = objective

    @property
    def networks(self) -> list[Network]:
        """The networks, fold by fold."""
        return each_network(self)

    @property
    def mean(self) -> Tensor:
        """The normalisation of squares, the same in each of them."""
        return self.networks[0].mean

    @property
    def std(self) -> Tensor:
        """The normalisation of squares, the same in each of them."""
        return self.networks[0].std

    def forward(self, squares: Tensor) -> Tensor:
        """Return logits (B, C)."""
        return self.objective.mean(*(network(squares) for network in self.values()))


class _Scalers:
    """The scalers of all folds as one."""

    def __init__(self, states: Mapping[str, TrainingState]) -> None:
        self._states = states

    def state_dict(self) -> dict[str, Any]:
        return {name: state.scaler.state_dict() for name, state in self._states.items()}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        for name, state in self._states.items():
            state.scaler.load_state_dict(saved[name])


class FoldStates:
    """The training states of all folds as one; see `TrainingState`. All are of the same epoch."""

    def __init__(self, states: Sequence[TrainingState]) -> None:
        self.states = list(states)
        self._named = {fold_name(number): state for number, state in enumerate(states)}
        self.network = FoldNetworks([state.network for state in states])
        self.scaler = _Scalers(self._named)
        self.history: list[EpochMetrics] = []
        self.best: dict[str, Tensor] | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Return those of all folds, not copied: names are kind, fold, name."""
        return {
            key.replace(".", f".{name}.", 1): value
            for name, state in self._named.items()
            for key, value in state.tensors().items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore all folds from `tensors`."""
        own: dict[str, dict[str, Tensor]] = {name: {} for name in self._named}
        for key, value in tensors.items():
            kind, _, rest = key.partition(".")
            name, _, rest = rest.partition(".")
            if name in own:
                own[name][f"{kind}.{rest}"] = value
        for name, state in self._named.items():
            state.restore(own[name])

    def adopt(self, saved: SavedState) -> None:
        """Restore from a file's content."""
        self.restore(saved.tensors)
        if saved.scaler:
            self.scaler.load_state_dict(saved.scaler)
        self.history = saved.history
        device = self.network.mean.device
        self.best = saved.best and {name: value.to(device) for name, value in saved.best.items()}


class FirstFolds:
    """The networks of the first folds, trained alone to a stage's end: each epoch's, in a folder.

    Which epoch is the best is known only once the others have trained, too: so all are kept.
    """

    def __init__(self, folder: Path, epochs: int) -> None:
        self._folder, self._epochs = folder / "first", epochs

    @property
    def folder(self) -> Path:
        """Where they lie, and what they go on from."""
        self._folder.mkdir(exist_ok=True)
        return self._folder

    def has(self, fold: int) -> bool:
        """Whether all epochs of a fold's network are there."""
        return all(self._file(fold, epoch).exists() for epoch in range(1, self._epochs + 1))

    def save(self, fold: int, state: TrainingState, epoch: EpochMetrics) -> None:
        """Keep an epoch of a fold's network, and its predictions as they are, not rounded."""
        tensors = {k: v for k, v in state.tensors().items() if not k.startswith(_NOT_KEPT)}
        tensors[_EXACT] = torch.from_numpy(epoch.evaluation.probabilities)
        save_training_state(self._file(fold, epoch.epoch), tensors, [epoch])

    def restore(
        self, fold: int, epoch: int, state: TrainingState, labels: NDArray[np.int64]
    ) -> EpochMetrics:
        """Put a fold's network to what it was after an epoch; raises `NotOurWeights`."""
        saved = read_training_state(self._file(fold, epoch), state.network, labels)
        exact = Evaluation(labels, saved.tensors.pop(_EXACT).numpy())
        state.restore(saved.tensors)
        return replace(saved.history[0], evaluation=exact)

    def _file(self, fold: int, epoch: int) -> Path:
        return self._folder / f"{fold_name(fold)}.{epoch}.safetensors"


def together(epochs: Sequence[EpochMetrics], fold_of: NDArray[np.int64]) -> EpochMetrics:
    """Combine the same epoch of all folds: each photo is scored by its own fold's network.

    Losses are means over photos, times are sums. `fold_of` is the fold of each row, (n,).
    """
    first, n_classes = epochs[0], epochs[0].evaluation.probabilities.shape[1]
    labels = np.empty(len(fold_of), np.int64)
    probabilities = np.empty((len(fold_of), n_classes), np.float32)
    for number, epoch in enumerate(epochs):
        labels[fold_of == number] = epoch.evaluation.labels
        probabilities[fold_of == number] = epoch.evaluation.probabilities
    own = np.bincount(fold_of, minlength=len(epochs))
    seconds = [epoch.seconds for epoch in epochs]
    waits = [epoch.data_wait for epoch in epochs if epoch.data_wait is not None]
    whole = EpochMetrics.of(
        Evaluation(labels, probabilities),
        stage=first.stage,
        epoch=first.epoch,
        cycle=first.cycle,
        lrs=first.lrs,
        train_loss=_mean([epoch.train_loss for epoch in epochs], len(fold_of) - own),
        valid_loss=_mean([epoch.valid_loss for epoch in epochs], own),
        seconds=sum(seconds),
        images_per_second=_mean([epoch.images_per_second for epoch in epochs], seconds),
        micro_batch=first.micro_batch,
    )
    return replace(whole, data_wait=_mean(waits, seconds)) if len(waits) == len(epochs) else whole


def _mean(values: Sequence[float], weights: Sequence[float] | NDArray[np.int64]) -> float:
    return float(np.average(np.array(values, np.float64), weights=weights))
