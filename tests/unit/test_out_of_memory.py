"""When memory is short: batches pass in parts, and nothing else about the training changes."""

import errno
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from study.engines.base import FailureKind, StageFailed
from study.engines.inline import InlineEngine
from tests.tiny_training import CPU, noise, numbers, outcome, schedule, stage
from trainers import inputs, shortage
from trainers.backbone import Network
from trainers.base import StageTask, is_device_lost, is_out_of_memory
from trainers.cut import Cut
from trainers.data import loader
from trainers.data.cache import Cache
from trainers.data.manifest import Manifest
from trainers.device import Compute
from trainers.finetuner import Finetuner
from trainers.metrics import EpochMetrics
from trainers.schedule import Stage

TOO_MUCH = 1 << 60
STAGES: dict[str, dict[str, Any]] = {
    "adamw": {"dropout": 0.3, "augmentation": "side-on"},
    "sgd": {"optimizer": "sgd", "frozen": 0.5},
    "features": {"frozen": 1.0, "crop": "no"},
}
KINDS = [
    pytest.param(kind, marks=() if kind == "sgd" else pytest.mark.long)
    for kind in ("adamw", "sgd", "features")
]


class Memory:
    """Has room for some photos at once: showing a network more makes a real allocator fail.

    The next `ample` times, there is room for any number.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.room_to_validate = room
        self.ample = 0
        self.taken: Callable[[], int] = lambda: 0  # of the room, by something else
        self.failures: list[int] = []
        self.left_over: list[weakref.ref[Tensor]] = []

    def take(self, network: nn.Module, squares: Tensor) -> None:
        """Fail if this is too much."""
        assert [each() for each in self.left_over] == [None] * len(self.left_over)
        room = self.room if network.training else self.room_to_validate
        self.ample -= 1
        if self.ample < 0 and len(squares) > room - self.taken():
            self.failures.append(len(squares))
            self.left_over.append(weakref.ref(squares))
            torch.empty(TOO_MUCH)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """Return all networks a memory that has room for four photos."""
    memory, whole, front = Memory(4), Network.features, Cut.rows

    def features(network: Network, squares: Tensor) -> Tensor:
        memory.take(network, squares)
        return whole(network, squares)

    def rows(cut: Cut, squares: Tensor, compute: Compute, size: int) -> Tensor:
        memory.take(cut._body, squares[:size])
        return front(cut, squares, compute, size)

    monkeypatch.setattr(Network, "features", features)
    monkeypatch.setattr(Cut, "rows", rows)
    return memory


@pytest.fixture
def reach(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have the CPU play a device with memory of its own; return how much of it is within reach."""
    reach = [100]
    for module in (loader, inputs, shortage):
        monkeypatch.setattr(module, "has_own_memory", lambda _: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 30, 1 << 30))
    monkeypatch.setattr(shortage, "memory_within_reach", lambda _: reach[0])
    return reach


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Make 10 photos to train on and 6 to validate."""
    return noise(tmp_path_factory.mktemp("photos"), 10, 6)


@pytest.fixture
def trainer(photos: Manifest) -> Finetuner:
    """Make a trainer that knows nothing of its memory."""
    return Finetuner(photos, compute=CPU, checkpoint_seconds=0)


def mine_of(**fields: Any) -> Stage:
    """Return a stage of three epochs with batches of eight photos, and a last one of two."""
    return stage(**{"batch_size": 8, "cycle_len": 3, **fields})


def task_in(folder: Path, mine: Stage, seed: int = 0) -> StageTask:
    """Return the task of a stage."""
    folder.mkdir(exist_ok=True)
    return StageTask(schedule=schedule(mine), seed=seed, folder=folder)


def train(
    trainer: Finetuner, folder: Path, mine: Stage, epochs: int = 3, seed: int = 0
) -> list[EpochMetrics]:
    """Train a stage, and leave it after some epochs."""
    generator = trainer.train(task_in(folder, mine, seed))
    found = [next(generator) for _ in range(epochs)]
    generator.close()
    return found


def knowing(photos: Manifest, folder: Path, **fields: Any) -> Finetuner:
    """Make a trainer that has found out, in another stage, what fits."""
    trainer = Finetuner(photos, compute=CPU, checkpoint_seconds=0)
    train(trainer, folder, mine_of(cycle_len=1, **fields), 1, seed=9)
    return trainer


def cuda() -> None:
    """Fail as a GPU does."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def of_a_library(name: str) -> None:
    """Fail as a library of NVIDIA's does."""
    raise RuntimeError(name)


@pytest.mark.parametrize(
    "fail",
    [
        cuda,
        partial(of_a_library, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
        partial(of_a_library, "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        lambda: torch.empty(TOO_MUCH),
        lambda: np.empty(TOO_MUCH // 2, np.uint8),
        lambda: bytearray(1 << 62),
    ],
)
def test_a_failing_allocator_is_recognised(fail: Callable[[], object]) -> None:
    """Whatever error torch, NumPy and Python have for it."""
    with pytest.raises((RuntimeError, MemoryError)) as error:
        fail()
    assert is_out_of_memory(error.value)
    assert not is_device_lost(error.value)


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("CUDA error: unspecified launch failure\nCUDA kernel errors might be ...", True),
        ("CUDA error: device-side assert triggered", True),
        ("CUDA error: uncorrectable ECC error encountered", True),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", True),
        ("Triton Error [CUDA]: an illegal memory access was encountered", True),
        ("CUDA error: out of memory", False),
        ("CUDA out of memory. Tried to allocate 2.00 GiB.", False),
        ("Expected all tensors to be on the same device, but found cuda:0 and cpu", False),
    ],
)
def test_a_lost_device_is_recognised(text: str, lost: bool) -> None:
    """By what CUDA says of all but a want of memory."""
    assert is_device_lost(RuntimeError(text)) == lost


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("memory must be a number"),
        KeyError("epoch"),
    ],
    ids=str,
)
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    """A stage that fails for another reason is not trained again in smaller parts."""
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("kind", KINDS)
def test_training_goes_on_in_parts(
    kind: str, trainer: Finetuner, photos: Manifest, memory: Memory, tmp_path: Path
) -> None:
    """One failure, noted in every epoch; all else is as if the size had been known before.

    The failed attempt has let go of its photos before the next one begins: see `Memory.take`.
    """
    mine = mine_of(**STAGES[kind])
    found = train(trainer, tmp_path / "a", mine)
    assert len(memory.failures) == 1
    assert [epoch.micro_batch for epoch in found] == [4, 4, 4]
    known = knowing(photos, tmp_path / "before", **STAGES[kind])
    memory.failures.clear()
    assert [*map(numbers, train(known, tmp_path / "b", mine))] == [*map(numbers, found)]
    assert outcome(tmp_path / "b") == outcome(tmp_path / "a")
    assert memory.failures == []


def test_what_fits_is_known_at_that_size(
    trainer: Finetuner, memory: Memory, tmp_path: Path
) -> None:
    """The next stage does not fail again, smaller batches are whole; another size finds out."""
    memory.room_to_validate = 64
    train(trainer, tmp_path / "a", mine_of())
    train(trainer, tmp_path / "b", mine_of(optimizer="sgd"))
    assert memory.failures == [8]
    (epoch,) = train(trainer, tmp_path / "c", mine_of(batch_size=4, cycle_len=1), 1)
    assert epoch.micro_batch is None
    (epoch,) = train(trainer, tmp_path / "d", mine_of(image_size=32, cycle_len=1), 1)
    assert epoch.micro_batch == 4
    assert memory.failures == [8, 8]


@pytest.mark.parametrize("kind", KINDS[:2])
def test_memory_becomes_short_later(
    kind: str, trainer: Finetuner, photos: Manifest, memory: Memory, tmp_path: Path
) -> None:
    """The second epoch fails in its second batch: it begins again where the first one ended."""
    mine = mine_of(batch_size=5, **STAGES[kind])
    memory.room_to_validate = 64
    memory.ample = 2 + 1 + 1  # two batches and a validation, then a batch
    found = train(trainer, tmp_path / "a", mine)
    assert memory.failures == [5]
    assert [epoch.micro_batch for epoch in found] == [None, 2, 2]
    memory.ample = 2 + 1
    train(Finetuner(photos, compute=CPU), tmp_path / "b", mine, 1)
    known = knowing(photos, tmp_path / "before", batch_size=5, **STAGES[kind])
    assert [*map(numbers, train(known, tmp_path / "b", mine))] == [*map(numbers, found)]
    assert outcome(tmp_path / "b") == outcome(tmp_path / "a")


def test_validation_is_what_does_not_fit(
    trainer: Finetuner, photos: Manifest, memory: Memory, tmp_path: Path
) -> None:
    """An epoch that has already trained begins again, though its batches would have fitted."""
    memory.room = 8
    found = train(trainer, tmp_path / "a", mine_of())
    assert memory.failures == [6]
    assert [epoch.micro_batch for epoch in found] == [4, 4, 4]
    known = knowing(photos, tmp_path / "before")
    assert [*map(numbers, train(known, tmp_path / "b", mine_of()))] == [*map(numbers, found)]
    assert outcome(tmp_path / "b") == outcome(tmp_path / "a")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("memory")
def test_a_training_in_parts_resumes_to_the_last_bit(
    kind: str, trainer: Finetuner, photos: Manifest, tmp_path: Path
) -> None:
    """Another process finds out again what fits, and ends with the same."""
    mine = mine_of(**STAGES[kind])
    expected = train(trainer, tmp_path / "whole", mine)
    for epochs in (1, 2):
        folder = tmp_path / str(epochs)
        train(Finetuner(photos, compute=CPU), folder, mine, epochs)
        found = train(Finetuner(photos, compute=CPU), folder, mine)
        assert [*map(numbers, found)] == [*map(numbers, expected)]
        assert outcome(folder) == outcome(tmp_path / "whole")


def test_what_is_kept_on_a_device_goes_before_batches_are_split(
    photos: Manifest, memory: Memory, reach: list[int], tmp_path: Path
) -> None:
    """Without the photos that lay there the batch fits, and all numbers are as if it always had."""
    assert reach
    cache = Cache(tmp_path / "cache", photos)
    trainer = Finetuner(photos, compute=CPU, cache=cache, checkpoint_seconds=0)
    memory.room = memory.room_to_validate = 8
    memory.taken = lambda: 4 if trainer._photos._held else 0
    found = train(trainer, tmp_path / "a", mine_of())
    assert memory.failures == [8]
    assert [epoch.micro_batch for epoch in found] == [None] * 3
    memory.taken = lambda: 0
    expected = train(Finetuner(photos, compute=CPU), tmp_path / "b", mine_of())
    assert [*map(numbers, found)] == [*map(numbers, expected)]
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")


def test_a_shortage_that_passes_is_forgotten(
    trainer: Finetuner, memory: Memory, reach: list[int], tmp_path: Path
) -> None:
    """Once another process has let go of memory, batches are whole again, and not before."""
    memory.room_to_validate = 64
    epochs = trainer.train(task_in(tmp_path / "a", mine_of(cycle_len=4)))
    found = [next(epochs), next(epochs)]
    assert memory.failures == [8, 8]  # the second without what was kept
    memory.room, reach[0] = 8, 200
    found += epochs
    assert [epoch.micro_batch for epoch in found] == [4, 4, None, None]
    assert memory.failures == [8, 8]


def test_halves_of_halves(trainer: Finetuner, memory: Memory, tmp_path: Path) -> None:
    """It is tried with half as many photos until they fit."""
    memory.room = memory.room_to_validate = 2
    (epoch,) = train(trainer, tmp_path / "a", mine_of(cycle_len=1), 1)
    assert epoch.micro_batch == 2
    assert memory.failures == [8, 4]


def test_two_photos_are_too_many(trainer: Finetuner, memory: Memory, tmp_path: Path) -> None:
    """The error comes out, and the engine says of what kind it is."""
    memory.room = 1
    with pytest.raises(RuntimeError) as error:
        train(trainer, tmp_path / "a", mine_of())
    assert is_out_of_memory(error.value)
    assert memory.failures == [8, 4, 2]
    memory.left_over.clear()  # the error is still at hand, and with it the photos
    engine = InlineEngine(trainer)
    engine.submit("b", task_in(tmp_path / "b", mine_of()))
    (failed,) = engine.events()
    assert isinstance(failed, StageFailed)
    assert failed.kind is FailureKind.OUT_OF_MEMORY


def test_another_error_comes_out_at_once(
    trainer: Finetuner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What has nothing to do with memory is not tried again."""
    calls = []

    def broken(network: Network, squares: Tensor) -> Tensor:  # noqa: ARG001
        calls.append(len(squares))
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Network, "features", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train(trainer, tmp_path / "a", mine_of())
    assert calls == [8]
