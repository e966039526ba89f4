"""Keep a stage's state: in memory after every epoch, on disk at intervals."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from trainers.base import BEST, LAST
from trainers.card import WeightsCard, read_card
from trainers.checkpoint import (
    SavedState,
    judged_of,
    named,
    read_training_state,
    save_training_state,
    save_weights,
)
from trainers.device import use_one_thread
from trainers.errors import NotOurWeights
from trainers.handover import NETWORK
from trainers.metrics import EpochMetrics, Metric


class Scaling(Protocol):
    """The state of a gradient scaler."""

    def state_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        ...

    def load_state_dict(self, saved: dict[str, Any], /) -> None:
        """Put it back."""
        ...


class State(Protocol):
    """The state of a stage: a `TrainingState`, or those of several networks as one."""

    history: list[EpochMetrics]
    best: dict[str, Tensor] | None

    @property
    def network(self) -> nn.Module:
        """The network that trains."""
        ...

    @property
    def scaler(self) -> Scaling:
        """The scaler of its gradients."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return network, average and optimizer as they are, not copied."""
        ...

    def restore(self, tensors: Mapping[str, Tensor], /) -> None:
        """Restore them from `tensors`."""
        ...

    def adopt(self, saved: SavedState, /) -> None:
        """Go on from what was read from a file."""
        ...


class Keeper:
    """Copies a stage's state after each epoch, and writes `LAST` from the copy, in the background.

    `seconds` is how much training a crash may cost, if an epoch is not longer. `LAST` also holds
    the best epoch's weights, so that it is enough to continue; `BEST` is written when the stage
    ends, after `epochs`, or is cancelled; without a `metric` the latest epoch is the best. `card`
    makes the metadata of an epoch's weights.
    """

    def __init__(
        self,
        folder: Path,
        state: State,
        *,
        epochs: int,
        metric: Metric | None,
        seconds: float,
        card: Callable[[EpochMetrics], WeightsCard],
    ) -> None:
        self._last, self._best = folder / LAST, folder / BEST
        self._state = state
        self._epochs = epochs
        self._metric = metric
        self._seconds = seconds
        self._card = card
        self._copy: dict[str, Tensor] = {}
        self._scaler: dict[str, Any] = {}
        self._writer = ThreadPoolExecutor(1, initializer=use_one_thread)
        self._writing: Future[None] | None = None
        self._saved, self._saved_at = 0, time.monotonic()  # epochs in LAST, and when it was written

    def resume(self, labels: NDArray[np.int64]) -> None:
        """Continue from `LAST`, if there is one that fits."""
        try:
            saved = read_training_state(self._last, self._state.network, labels)
            if len(saved.history) < self._epochs or self._is_whole(saved):
                self._state.adopt(saved)
            else:  # the stage had ended, and its best weights are lost: it is trained again
                self._last.unlink()
        except NotOurWeights:  # none yet, or a broken file
            pass
        self._saved = len(self._state.history)
        self._take_copy()

    def keep(self) -> None:
        """Note an epoch that has just been added to the history; write the files of the last."""
        self._wait()
        state = self._state
        if self._best_epoch() is state.history[-1]:
            state.best = None
        elif state.best is None:  # the latest was the best until now: it is still in the copy
            state.best = {k: v.clone() for k, v in judged_of(self._copy).items()}
        self._take_copy()
        if self._has_ended:
            self._finish()
        elif time.monotonic() - self._saved_at >= self._seconds:
            self._writing = self._writer.submit(self._save, list(state.history), state.best)

    def restore(self) -> None:
        """Restore the state at the end of the latest epoch, or at the stage's start."""
        self._state.restore(self._copy)
        self._state.scaler.load_state_dict(self._scaler)

    def leave(self) -> None:
        """Write the files of a cancelled stage, unless it has ended: then they exist."""
        self._wait()
        if self._has_ended or not self._state.history:
            return
        if self._saved < len(self._state.history):
            self._save(self._state.history, self._state.best)
        self._save_best()

    def close(self) -> None:
        """End the thread that writes."""
        self._writer.shutdown()

    @property
    def _has_ended(self) -> bool:
        return len(self._state.history) == self._epochs

    def _finish(self) -> None:
        """Write the files of a stage that has ended: of the last epoch, only the network."""
        self._save_best()
        # BEST first: once LAST marks the stage as ended, BEST could not be written again.
        network = named(NETWORK, judged_of(self._copy))
        save_training_state(self._last, network, self._state.history)

    def _wait(self) -> None:
        if self._writing:
            self._writing.result()  # raises its exception, such as a full disk

    def _take_copy(self) -> None:
        """Copy the state, into the same memory as before."""
        for name, value in self._state.tensors().items():
            if name in self._copy:
                self._copy[name].copy_(value)
            else:
                self._copy[name] = value.clone()
        self._scaler = self._state.scaler.state_dict()

    def _save(self, history: Sequence[EpochMetrics], best: Mapping[str, Tensor] | None) -> None:
        save_training_state(self._last, self._copy, history, best=best, scaler=self._scaler)
        self._saved, self._saved_at = len(history), time.monotonic()

    def _save_best(self) -> None:
        weights = self._state.best or judged_of(self._copy)
        save_weights(self._best, weights, self._card(self._best_epoch()))

    def _is_whole(self, saved: SavedState) -> bool:
        """Whether the best weights of an ended stage exist, or can be restored."""
        best = self._best_of(saved.history)
        try:
            if read_card(self._best).epoch == best.epoch:
                return True
        except NotOurWeights:
            pass
        if best is not saved.history[-1]:
            return False
        save_weights(self._best, judged_of(saved.tensors), self._card(best))
        return True

    def _best_epoch(self) -> EpochMetrics:
        return self._best_of(self._state.history)

    def _best_of(self, history: Sequence[EpochMetrics]) -> EpochMetrics:
        metric = self._metric
        if metric is None:
            return history[-1]
        return min(history, key=lambda epoch: epoch.rank(metric))
