"""On a real GPU: right in each precision, after kill -9, out of memory, shared and failing.

Without one they are skipped; ENCORE_GPU_TESTS=cpu tries the tests themselves out, on a CPU.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from study.engines.base import StageEnded
from study.engines.processes import ProcessEngine
from study.engines.slots import Slot, slots_of
from tests import lab
from tests.contract.conftest import told
from tests.engines import poisoned, workers
from tests.tiny_training import CPU, noise, numbers, outcome, schedule, stage
from trainers.backbone import Network
from trainers.base import StageTask, Trainer
from trainers.data.manifest import Manifest, build_manifest
from trainers.device import Compute, choose_compute
from trainers.finetuner import Finetuner
from trainers.metrics import EpochMetrics
from trainers.schedule import Stage

DEVICE = os.environ.get("ENCORE_GPU_TESTS", "cuda")
ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE.startswith("cuda") and not torch.cuda.is_available(), reason="there is no GPU"
    ),
]

TRAIN = """
import sys
from pathlib import Path
from tests.integration.test_on_a_gpu import deterministic, train

for _ in train(sys.argv[1], Path(sys.argv[2]), deterministic()):
    print("epoch", flush=True)
"""


@pytest.fixture(autouse=True)
def _switches() -> Iterator[None]:
    """Put torch's switches back, as choosing sets them for the whole process."""
    yield
    choose_compute("cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Make 24 photos to train on and 12 to validate."""
    return noise(tmp_path_factory.mktemp("photos"), 24, 12)


def deterministic() -> Compute:
    """Choose the device so that it repeats itself."""
    return choose_compute(DEVICE, "fp32", deterministic=True)


def mine() -> Stage:
    """Return a stage of four epochs in which all is drawn that can be."""
    return stage(cycle_len=4, dropout=0.3, augmentation="side-on", max_zoom=1.2)


def train(
    root: str | Path, folder: Path, compute: Compute, plain: Stage | None = None
) -> Iterator[EpochMetrics]:
    """Train a stage, and yield its epochs."""
    folder.mkdir(exist_ok=True)
    trainer = Finetuner(build_manifest(Path(root)), compute=compute, checkpoint_seconds=0)
    task = StageTask(schedule=schedule(plain or mine()), seed=0, folder=folder)
    yield from trainer.train(task)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", 1e-3), ("tf32", 1e-2), ("bf16", 0.05), ("fp16", 0.05)]
)
def test_a_gpu_learns_what_a_cpu_does(
    photos: Manifest, tmp_path: Path, precision: str, tolerance: float
) -> None:
    """Losses and predictions of three epochs are those of float32 on the CPU, but for rounding.

    Without dropout, whose numbers are others on a GPU.
    """
    if precision == "tf32" and not DEVICE.startswith("cuda"):
        pytest.skip("TF32 is NVIDIA's")
    plain = stage(cycle_len=3, lrs=0.0005, augmentation="side-on")
    expected = list(train(photos.root, tmp_path / "cpu", CPU, plain))
    compute = choose_compute(DEVICE, precision)
    found = list(train(photos.root, tmp_path / "gpu", compute, plain))
    for one, other in zip(found, expected, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, abs=tolerance)
        assert one.valid_loss == pytest.approx(other.valid_loss, abs=2 * tolerance)
        mine, theirs = one.evaluation.probabilities, other.evaluation.probabilities
        assert np.abs(mine - theirs).mean() < tolerance


def test_a_deterministic_gpu_goes_on_to_the_last_bit(photos: Manifest, tmp_path: Path) -> None:
    """Killed after two epochs, a training ends with the bits of one that was left alone."""
    command = [sys.executable, "-c", TRAIN, str(photos.root), str(tmp_path / "killed")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert len(list(islice(process.stdout, 2))) == 2
        process.send_signal(signal.SIGKILL)
    found = [numbers(epoch) for epoch in train(photos.root, tmp_path / "killed", deterministic())]
    expected = [numbers(epoch) for epoch in train(photos.root, tmp_path / "calm", deterministic())]
    assert found == expected
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "calm")


@contextmanager
def little_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Bound what this process may take of the GPU; a CPU plays that."""
    if DEVICE.startswith("cuda"):
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        most = torch.cuda.memory_allocated() + (600 << 20)
        torch.cuda.set_per_process_memory_fraction(most / total)
        yield
        torch.cuda.set_per_process_memory_fraction(1.0)
        return
    real = Network.features

    def features(network: Network, squares: Tensor) -> Tensor:
        if len(squares) > 16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(network, squares)

    with monkeypatch.context() as patch:
        patch.setattr(Network, "features", features)
        yield


def test_a_batch_that_memory_is_too_short_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The allocator's own error is understood: the epoch is trained in parts, and ends."""
    root = noise(tmp_path / "photos", 64, 8).root
    real = DEVICE.startswith("cuda")
    large = stage(batch_size=64, image_size=192 if real else 24)
    task = StageTask(
        schedule=schedule(large, backbone="resnet18" if real else "test_resnet"),
        seed=0,
        folder=tmp_path,
    )
    trainer = Finetuner(build_manifest(root), compute=choose_compute(DEVICE, "fp32"))
    with little_memory(monkeypatch):
        (epoch,) = trainer.train(task)
    assert epoch.micro_batch is not None
    assert epoch.micro_batch < 64


def build(slot: Slot, *, root: Path) -> Trainer:
    """Make the trainer of a worker."""
    device = "cpu" if DEVICE == "cpu" else slot.alone
    compute = choose_compute(device, "fp32", deterministic=True)
    sharers = {"sharers": slot.sharers, "device_sharers": slot.device_sharers}
    return Finetuner(build_manifest(root), compute=compute, checkpoint_seconds=0, **sharers)


def slots(workers: int) -> list[Slot]:
    """Return the slots of so many workers on the one device."""
    return slots_of(f"cpu:{workers}") if DEVICE == "cpu" else slots_of("0", workers)


def test_two_workers_share_a_gpu(photos: Manifest, tmp_path: Path) -> None:
    """Both train at a time what one alone trains, to the last bit."""
    engine = ProcessEngine(partial(build, root=photos.root), slots(2))
    for key in "ab":
        (tmp_path / key).mkdir()
        task = StageTask(schedule=schedule(mine()), seed=0, folder=tmp_path / key)
        engine.submit(key, task)
    ended = [event for event in engine.events() if isinstance(event, StageEnded)]
    engine.close()
    assert {event.key for event in ended} == {"a", "b"}
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")


def test_a_gpu_that_fails_costs_a_worker(tmp_path: Path) -> None:
    """A kernel's fault leaves that process useless; another one goes on with the stage run."""
    device = DEVICE if DEVICE == "cpu" else "cuda"
    engine = ProcessEngine(partial(poisoned, device=device), slots(1))
    for key in "ab":
        (tmp_path / key).mkdir()
        task = StageTask(schedule=lab.schedule(lab.stage(epochs=4)), seed=0, folder=tmp_path / key)
        engine.submit(key, task)
    found = list(engine.events())
    engine.close()
    assert told(found, "a") == [1, 1, 2, 3, 4, StageEnded]
    assert told(found, "b") == [1, 2, 3, 4, StageEnded]
    assert workers() == []
