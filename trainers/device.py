"""Devices and precision."""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache as remembered
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from trainers.allowance import usable_cpus
from trainers.base import Precision

_DTYPES = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


@dataclass(frozen=True)
class Compute:
    """A device and how it computes. `compiled` passes networks through `torch.compile`.

    `deterministic` makes a GPU bit-reproducible, at a cost; a CPU always is.
    """

    device: torch.device
    precision: Precision = Precision.FP32
    compiled: bool = False
    deterministic: bool = False

    def autocast(self) -> torch.autocast:
        """Return the context in which the network is applied."""
        dtype = _DTYPES.get(self.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    @contextmanager
    def rounded(self) -> Iterator[None]:
        """Round float32 products to TF32, or not, as in training, within a context."""
        switches: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
        if self.device.type != "cuda":
            switches = []
        before = [switch.allow_tf32 for switch in switches]
        try:
            for switch in switches:
                switch.allow_tf32 = self.precision is not Precision.FP32
            yield
        finally:
            for switch, was in zip(switches, before, strict=True):
                switch.allow_tf32 = was

    def scaler(self) -> torch.amp.GradScaler:
        """Return a gradient scaler for FP16; a disabled one otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision is Precision.FP16)

    @cached_property
    def name(self) -> str:
        """Return a short description, such as "NVIDIA H200, bf16"."""
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {self.precision}"
        return f"{self.device.type}, {self.precision}"


def choose_compute(
    device: str = "auto",
    precision: str = "auto",
    *,
    compiled: bool = False,
    deterministic: bool = False,
) -> Compute:
    """Choose where and how to compute, and set torch's switches for this process accordingly.

    Raises ValueError if this machine does not support it.
    """
    use_no_more_than_usable_cpus()
    chosen = choose_device(device)
    exactness = _precision(Precision(precision), chosen)
    # It rounds, but always in the same way: on request, it is deterministic, too.
    tf32 = exactness is Precision.TF32 or (exactness is not Precision.FP32 and not deterministic)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        # cuBLAS reads this when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # torch only warns of an operation that has no deterministic version, rather than fail.
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    if chosen.type == "cpu":
        _keep_freed_memory()
    return Compute(chosen, exactness, compiled, deterministic)


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of a name; "auto" is CUDA, then MPS, then CPU. ValueError if absent."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason}); try cpu") from None
    return device


def check_device(name: str, precision: str = "auto") -> None:
    """Raise ValueError unless this machine has the device, and it supports the precision.

    The device is not initialised, which would take some hundred MB of a GPU's memory per process.
    """
    kind, _, index = name.partition(":")
    kind = choose_device().type if kind == "auto" else kind
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    there = count.get(kind, 1)
    if int(index or 0) >= there:
        raise ValueError(
            f"device {name!r} is not here: torch sees {there or 'none'} of its kind; "
            "check --devices, and what the command doctor says"
        )
    wanted = Precision(precision)
    if wanted is not Precision.AUTO:
        _precision(wanted, torch.device(kind))


def has_own_memory(device: torch.device) -> bool:
    """Whether a device has its own memory, of which torch reports the free part."""
    return device.type == "cuda"


def memory_within_reach(device: torch.device) -> int | None:
    """Count the bytes of a device that this process holds or may still take; None if unknown."""
    if not has_own_memory(device):
        return None
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)


def mps_runs() -> bool:
    """Whether NVIDIA's Multi-Process Service runs on this machine."""
    place = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")  # noqa: S108 - its own
    return Path(place, "control").exists()


def use_no_more_than_usable_cpus() -> None:
    """Limit torch's threads to this process's CPUs, as torch ignores quotas."""
    if torch.get_num_threads() > (cpus := usable_cpus()):
        torch.set_num_threads(cpus)


def use_one_thread() -> None:
    """Limit torch to one thread in the calling thread, so that threads do not compete for cores."""
    torch.set_num_threads(1)


@remembered
def processor() -> str:
    """Name this machine's CPU, such as "AMD EPYC 7B13"."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), "") or platform.processor() or platform.machine()


def _precision(wanted: Precision, device: torch.device) -> Precision:
    if wanted is not Precision.AUTO:
        if wanted is Precision.TF32 and device.type != "cuda":
            raise ValueError(f"precision tf32 is NVIDIA's, got device {device.type}; use fp32")
        return wanted
    if device.type != "cuda":
        return Precision.FP32
    major, _ = torch.cuda.get_device_capability(device)
    return Precision.BF16 if major >= 8 else Precision.FP16  # older ones emulate it, slowly


def _keep_freed_memory() -> None:
    """Keep the memory of large tensors for reuse, as torch does on a GPU.

    The C library would return it to the system at every step and get it back zeroed, page by page:
    that was a fifth of a training step at 128 pixels.
    """
    if sys.platform == "linux":
        library: Any = ctypes.CDLL(None)
        if hasattr(library, "gnu_get_libc_version"):
            trim_threshold, mmap_threshold = -1, -3  # malloc.h
            library.mallopt(mmap_threshold, 1 << 30)
            library.mallopt(trim_threshold, 2**31 - 1)
