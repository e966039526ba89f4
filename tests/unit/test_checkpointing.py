"""Files of a stage: when they are written, of which epoch they are, and what a crash leaves."""

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny_training import (
    LABELS,
    card_of,
    epoch_of_best,
    epochs_in_last,
    metrics_of,
    network_of,
    same,
    stage,
)
from trainers import checkpointing
from trainers.base import BEST, LAST
from trainers.checkpoint import (
    TrainingState,
    read_training_state,
    read_weights,
    save_training_state,
)
from trainers.checkpointing import Keeper
from trainers.device import choose_compute
from trainers.loop import make_optimizer
from trainers.metrics import Metric

Copy = dict[str, Tensor]


def state_of(precision: str = "fp16") -> TrainingState:
    """Make the state at the beginning of a stage."""
    network = network_of()
    scaler = choose_compute("cpu", precision).scaler()
    return TrainingState(network, make_optimizer(network, stage()), scaler, history=[])


def keeper_of(folder: Path, state: TrainingState, **options: Any) -> Keeper:
    """Make the keeper of a stage of four epochs, which writes every one of them."""
    given: dict[str, Any] = {"epochs": 4, "seconds": 0.0, "metric": Metric.ACCURACY}
    return Keeper(
        folder, state, card=lambda epoch: card_of(epoch=epoch.epoch), **{**given, **options}
    )


def learn(state: TrainingState, hits: int = 2) -> None:
    """Change weights, BatchNorm, optimizer and scaler in place, as an epoch does."""
    train_on(state)
    state.history.append(metrics_of(len(state.history) + 1, hits))


def train_on(state: TrainingState) -> None:
    """Take a step towards somewhere; the scale becomes smaller, as after an overflow."""
    state.optimizer.zero_grad()
    loss = state.network(torch.rand(4, 3, 24, 24)).square().mean()
    state.scaler.scale(loss).backward()
    state.scaler.step(state.optimizer)
    state.scaler.update(state.scaler.get_scale() / 2)


def copied(state: TrainingState) -> Copy:
    """Copy network and optimizer."""
    return {name: value.clone() for name, value in state.tensors().items()}


def network_in(copy: Copy) -> Copy:
    """Return the network's part of a copy."""
    return {k.removeprefix("network."): v for k, v in copy.items() if k.startswith("network.")}


@contextmanager
def keeping_in(folder: Path, **options: Any) -> Iterator[tuple[TrainingState, Keeper]]:
    """Begin to keep a stage, and end the writing thread whatever happens."""
    state = state_of()
    with closing(keeper_of(folder, state, **options)) as keeper:
        keeper.resume(LABELS)
        yield state, keeper


def check_last(folder: Path, state: TrainingState, copy: Copy, epochs: int, scale: float) -> None:
    """Check that LAST holds a copy, its epochs and its scale, and nothing of later."""
    saved = read_training_state(folder / LAST, state.network, LABELS)
    found = {k: v for k, v in saved.tensors.items() if k.startswith(("network.", "optimizer."))}
    assert same(found, copy)
    assert [epoch.epoch for epoch in saved.history] == list(range(1, epochs + 1))
    assert saved.history == state.history[:epochs]
    assert saved.scaler["scale"] == scale


def test_last_is_of_its_epoch_though_training_goes_on(tmp_path: Path) -> None:
    """The writer, held up until much has changed in place, still writes the epoch's state."""
    with keeping_in(tmp_path) as (state, keeper):
        learn(state)
        copy, scale = copied(state), state.scaler.get_scale()
        go_on = threading.Event()
        keeper._writer.submit(go_on.wait, 60)
        keeper.keep()
        for _ in range(3):
            train_on(state)
        state.history.append(metrics_of(2))
        assert not same(copied(state), copy)
        assert list(tmp_path.iterdir()) == []
        go_on.set()
    check_last(tmp_path, state, copy, 1, scale)


def test_last_holds_the_best_weights_as_well(tmp_path: Path) -> None:
    """Where the latest epoch is not the best, and however many come after the best."""
    with keeping_in(tmp_path) as (state, keeper):
        learn(state, hits=3)
        best = network_in(copied(state))
        keeper.keep()
        for _ in range(2):
            learn(state, hits=1)
            copy, scale = copied(state), state.scaler.get_scale()
            keeper.keep()
    check_last(tmp_path, state, copy, 3, scale)
    assert same(read_training_state(tmp_path / LAST, state.network, LABELS).best or {}, best)
    assert not (tmp_path / BEST).exists()
    with keeping_in(tmp_path) as (_, keeper):
        keeper.leave()
    assert epoch_of_best(tmp_path) == 1
    assert same(read_weights(tmp_path / BEST)[0], best)


@pytest.mark.parametrize("seconds", [0.0, pytest.param(1e9, marks=pytest.mark.long)])
@pytest.mark.parametrize("left_after", [pytest.param(None, marks=pytest.mark.long), 2])
def test_best_is_of_the_best_epoch(tmp_path: Path, seconds: float, left_after: int | None) -> None:
    """Be it the first, a later one or the last; left in between and gone on with, or not."""
    for best in range(4):
        (folder := tmp_path / str(best)).mkdir()
        weights: list[Copy] = []
        for epochs in (range(left_after or 0), range(left_after or 0, 4)):
            with keeping_in(folder, seconds=seconds) as (state, keeper):
                assert [past.epoch for past in state.history] == [
                    e + 1 for e in range(epochs.start)
                ]
                for epoch in epochs:
                    learn(state, hits=3 if epoch == best else 1)
                    weights.append(network_in(copied(state)))
                    keeper.keep()
                keeper.leave()
        assert same(read_weights(folder / BEST)[0], weights[best])
        assert epoch_of_best(folder) == best + 1
        last = read_training_state(folder / LAST, state.network, LABELS)
        assert same(network_in(last.tensors), weights[-1])
        assert last.history == state.history
        assert not any(name.startswith(("optimizer.", "best.")) for name in last.tensors)


def test_without_a_metric_the_latest_epoch_is_the_best(tmp_path: Path) -> None:
    """Where nothing may judge, a stage's weights are those that it ends with."""
    with keeping_in(tmp_path, metric=None, epochs=3) as (state, keeper):
        for hits in (3, 2, 1):
            learn(state, hits=hits)
            keeper.keep()
        assert same(read_weights(tmp_path / BEST)[0], network_in(copied(state)))
    assert epoch_of_best(tmp_path) == 3


def test_what_is_read_is_what_was_left(tmp_path: Path) -> None:
    """Another process goes on with the same network, optimizer, scaler, best weights, history."""
    with keeping_in(tmp_path, seconds=1e9) as (state, keeper):
        for hits in (1, 3, 2):
            learn(state, hits)
            keeper.keep()
        assert list(tmp_path.iterdir()) == []
        keeper.leave()
    with keeping_in(tmp_path) as (other, _):
        assert same(other.tensors(), state.tensors())
        assert other.scaler.state_dict() == state.scaler.state_dict()
        assert same(other.best or {}, state.best or {})
        assert other.best
        assert other.history == state.history


def test_last_is_written_as_often_as_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never more often than so many seconds, then after the next epoch."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(checkpointing, "time", SimpleNamespace(monotonic=lambda: clock.now))
    known = []
    with keeping_in(tmp_path, seconds=30.0, epochs=99) as (state, keeper):
        for clock.now in (10, 29, 31, 40, 60, 62, 95):
            learn(state)
            keeper.keep()
            keeper._wait()
            known.append(epochs_in_last(tmp_path))
    assert known == [0, 0, 3, 3, 3, 6, 7]


def test_an_epoch_can_be_begun_again(tmp_path: Path) -> None:
    """Network, optimizer and scaler go back to where the latest epoch ended, or the stage began."""
    with keeping_in(tmp_path) as (state, keeper):
        for _ in range(2):
            copy, scaler = copied(state), state.scaler.state_dict()
            for _ in range(2):
                train_on(state)
            assert not same(copied(state), copy)
            keeper.restore()
            assert same(copied(state), copy)
            assert state.scaler.state_dict() == scaler
            learn(state)
            keeper.keep()


def fail(*args: object, **options: object) -> None:  # noqa: ARG001
    """Fail as a full disk does."""
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("following", [Keeper.keep, Keeper.leave])
def test_an_error_of_the_writing_thread_comes_out(
    following: Callable[[Keeper], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full is told with the next epoch, or when the stage is left."""
    with keeping_in(tmp_path) as (state, keeper):
        learn(state)
        monkeypatch.setattr(checkpointing, "save_training_state", fail)
        keeper.keep()
        learn(state)
        with pytest.raises(OSError, match="No space left") as error:
            following(keeper)
        assert error.value.errno == errno.ENOSPC


def test_nothing_runs_on_once_it_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing waits for what is being written, and ends the thread, also after an error."""
    before = threading.active_count()
    for broken in (False, True):
        monkeypatch.setattr(
            checkpointing, "save_training_state", fail if broken else save_training_state
        )
        with keeping_in(tmp_path) as (state, keeper):
            learn(state)
            keeper.keep()
            assert threading.active_count() == before + 1
        assert threading.active_count() == before
        assert [path.name for path in tmp_path.iterdir()] == [LAST]


def test_a_stage_without_an_epoch_leaves_nothing(tmp_path: Path) -> None:
    """Left before its first epoch has ended, there is nothing to go on from."""
    with keeping_in(tmp_path) as (_, keeper):
        keeper.leave()
    assert list(tmp_path.iterdir()) == []
