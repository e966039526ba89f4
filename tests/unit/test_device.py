"""Where and how exactly to compute: what is chosen, what is refused, and what comes of it."""

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tests.tiny_training import CPU, network_of, noise, numbers, outcome, schedule, stage
from trainers.base import Precision, StageTask
from trainers.data.augment import on_device
from trainers.data.manifest import Manifest
from trainers.device import Compute, check_device, choose_compute, choose_device
from trainers.finetuner import Finetuner
from trainers.loop import evaluate, make_optimizer, train_epoch
from trainers.metrics import EpochMetrics

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture(autouse=True)
def switches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put torch's switches back, as choosing sets them for the whole process."""
    monkeypatch.setenv(WORKSPACE, "")  # what is set from now on is taken back
    monkeypatch.delenv(WORKSPACE)
    yield
    choose_compute("cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Make 10 photos to train on and 6 to validate."""
    return noise(tmp_path_factory.mktemp("photos"), 10, 6)


def train(
    photos: Manifest, folder: Path, compute: Compute, epochs: int | None = None, **fields: Any
) -> list[EpochMetrics]:
    """Train a stage of three epochs, and leave it after some."""
    folder.mkdir(exist_ok=True)
    given = {"dropout": 0.3, "augmentation": "side-on", **fields}
    mine = schedule(stage(cycle_len=3, **given))
    generator = Finetuner(photos, compute=compute).train(
        StageTask(schedule=mine, seed=0, folder=folder)
    )
    found = [next(generator) for _ in range(epochs or 3)]
    generator.close()
    return found


def test_a_cpu_computes_exactly() -> None:
    """Without further words it is float32, nothing scaled, nothing compiled."""
    compute = choose_compute("cpu")
    assert compute == Compute(torch.device("cpu"), Precision.FP32)
    assert not compute.scaler().is_enabled()
    assert compute.name == "cpu, fp32"
    with compute.autocast():
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype is torch.float32


@pytest.mark.parametrize(
    ("capability", "precision"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((12, 0), "bf16")]
)
def test_a_gpu_computes_with_what_it_has(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str
) -> None:
    """Those before Ampere know no bfloat16 of their own: they take float16, and scale."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    compute = choose_compute()
    assert (compute.device.type, compute.precision) == ("cuda", precision)
    assert compute.name == f"NVIDIA H200, {precision}"
    assert choose_compute(precision="tf32").precision is Precision.TF32


def test_a_mac_computes_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its GPU is taken where there is no NVIDIA's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_compute().name == "mps, fp32"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device() == torch.device("cpu")


def test_tf32_is_refused_where_there_is_none() -> None:
    """One sentence says whose it is and what to use."""
    with pytest.raises(ValueError, match="tf32") as error:
        choose_compute("cpu", "tf32")
    assert str(error.value) == "precision tf32 is NVIDIA's, got device cpu; use fp32"


@pytest.mark.parametrize("name", ["warp", "cuda:99", ""])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    """One sentence says why, and what to try."""
    with pytest.raises(
        ValueError, match=r"^device '.*' cannot be used here \(.*\); try cpu$"
    ) as it:
        choose_device(name)
    assert str(it.value).isprintable()
    with pytest.raises(ValueError, match="'fp8'"):
        choose_compute("cpu", "fp8")


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("cuda:1", True),
        ("cuda:2", False),
        ("cuda", True),
        ("mps", False),
        ("cpu", True),
        ("auto", True),
    ],
)
def test_devices_are_counted_and_not_touched(
    monkeypatch: pytest.MonkeyPatch, name: str, *, here: bool
) -> None:
    """Two GPUs by torch's word, of which nothing else is asked: these are not there at all."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with nullcontext() if here else pytest.raises(ValueError, match=f"device '{name}' is not here"):
        check_device(name)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_torch_is_told(precision: str, deterministic: bool) -> None:
    """Rounding to TF32 and choosing kernels by trial are for those who do not want exactness."""
    choose_compute("cpu", precision, deterministic=deterministic)
    tf32 = precision != "fp32" and not deterministic
    assert torch.backends.cuda.matmul.allow_tf32 is tf32
    assert torch.backends.cudnn.allow_tf32 is tf32
    assert torch.backends.cudnn.benchmark is not deterministic
    assert torch.are_deterministic_algorithms_enabled() is deterministic
    assert torch.get_deterministic_debug_mode() == int(deterministic)  # it warns
    assert (WORKSPACE in os.environ) is deterministic


def test_what_the_user_has_set_stays() -> None:
    """A workspace that the environment names is left as it is."""
    os.environ[WORKSPACE] = ":16:8"
    choose_compute("cpu", deterministic=True)
    assert os.environ[WORKSPACE] == ":16:8"


@pytest.mark.parametrize(
    ("precision", "rounds"), [("tf32", True), ("fp32", False), ("bf16", False)]
)
def test_tf32_is_deterministic_and_computed_as_reported(
    monkeypatch: pytest.MonkeyPatch, precision: str, rounds: bool
) -> None:
    """What was asked for by name is what is computed: rounding is always alike."""
    with monkeypatch.context() as gpu:
        gpu.setattr("trainers.device.choose_device", lambda _: torch.device("cuda"))
        compute = choose_compute("cuda", precision, deterministic=True)
    assert compute.precision == precision
    assert torch.backends.cuda.matmul.allow_tf32 is rounds
    assert torch.backends.cudnn.allow_tf32 is rounds


class Moves(TorchFunctionMode):
    """Notes where tensors are moved to, and whether that is waited for, and moves none."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[object] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # fmt: skip
        """Take the place of what moves."""
        if function is Tensor.pin_memory:
            self.noted.append("pinned")
            return args[0]
        if function is Tensor.to:
            self.noted.append((args[1].type, (kwargs or {}).get("non_blocking", False)))
            return args[0]
        return function(*args, **(kwargs or {}))


def test_only_cuda_copies_behind_our_back() -> None:
    """From pinned memory, that is: MPS would read a temporary's memory after its end."""
    with Moves() as moves:
        for kind in ("mps", "cuda", "cpu"):
            on_device(torch.zeros(3), torch.device(kind))
    assert moves.noted == [("mps", False), "pinned", ("cuda", True), ("cpu", False)]


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.long)])
def test_half_precision_learns_as_full_precision(precision: str) -> None:
    """A few steps and a validation give finite numbers near to those of float32."""
    losses = []
    for compute in (CPU, choose_compute("cpu", precision)):
        network = network_of()
        torch.manual_seed(0)
        batches = [(torch.rand(6, 3, 24, 24), torch.arange(6) % 2) for _ in range(3)]
        scaler, optimizer = compute.scaler(), make_optimizer(network, stage(lrs=0.001))
        loss = train_epoch(network, batches, optimizer, scaler, lambda _: 1.0, compute)
        evaluation, valid_loss = evaluate(network.eval(), batches, compute)
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
        assert evaluation.probabilities.sum(1) == pytest.approx([1.0] * 18, abs=1e-5)
        losses.append((loss, valid_loss))
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]


def test_scaled_gradients_resume_to_the_last_bit(photos: Manifest, tmp_path: Path) -> None:
    """Under FP16 the scale is part of the state: left and gone on with, the end is the same."""
    compute = choose_compute("cpu", "fp16")
    assert compute.scaler().is_enabled()
    expected = train(photos, tmp_path / "whole", compute)
    train(photos, tmp_path / "left", compute, 1)
    found = train(photos, tmp_path / "left", compute)
    assert [*map(numbers, found)] == [*map(numbers, expected)]
    assert outcome(tmp_path / "left") == outcome(tmp_path / "whole")


def test_a_cpu_repeats_itself_anyway(photos: Manifest, tmp_path: Path) -> None:
    """All that training does there has a deterministic form, which changes nothing."""
    train(photos, tmp_path / "a", CPU)
    train(photos, tmp_path / "b", choose_compute("cpu", deterministic=True))
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="there is no C++ compiler"
)
def test_a_compiled_network_learns_the_same(photos: Manifest, tmp_path: Path) -> None:
    """Its losses are those of the network as it is written, but for rounding.

    Without dropout, that is: compiled, it draws other numbers.
    """
    plain, compiled = (
        train(photos, tmp_path / str(compute), compute, 2, dropout=0.0, batch_size=5)
        for compute in (CPU, choose_compute("cpu", compiled=True))
    )
    for one, other in zip(plain, compiled, strict=True):
        assert other.train_loss == pytest.approx(one.train_loss, abs=1e-3)
        assert other.valid_loss == pytest.approx(one.valid_loss, abs=1e-3)


def test_freed_memory_is_kept_where_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The C library of Linux is told so, and takes it; elsewhere nothing is asked of it."""
    told: list[int] = []
    real = ctypes.CDLL(None)

    class Library:
        gnu_get_libc_version = None

        @staticmethod
        def mallopt(option: int, value: int) -> None:
            told.append(real.mallopt(option, value))

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library)
    monkeypatch.setattr(sys, "platform", "darwin")
    choose_compute("cpu")
    assert told == []
    if hasattr(real, "gnu_get_libc_version"):
        monkeypatch.setattr(sys, "platform", "linux")
        choose_compute("cpu")
        assert told == [1, 1]
