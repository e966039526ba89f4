"""From `--devices` to slots: where stage runs train, and what of the machine each may use."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Slot:
    """A device or a share of one.

    `device` is its name for torch. A process of its own gets `environment`, which lets it see
    nothing but that device, as `alone`, and computes with `threads` of the CPU. `sharers` are all
    the slots of this machine.
    """

    device: str
    alone: str
    threads: int
    sharers: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)


def slots_of(devices: str, per_device: int = 1) -> list[Slot]:
    """Give the slots of a list of devices, such as "0,1", "cuda:1", "mps", "cpu:2" or "auto".

    AUTO is every GPU, or the one device there is. Raises ValueError for what cannot be read.
    """
    names = _names(devices)
    named = [name for name in names for _ in range(per_device)]
    threads = max(1, (os.cpu_count() or 1) // len(named))
    return [_slot(name, threads, len(named)) for name in named]


def _names(devices: str) -> list[str]:
    if devices.strip() == "auto":
        return _all_devices()
    names: list[str] = []
    for text in devices.lower().split(","):
        part = text.strip()
        if part.isdecimal():
            names.append(f"cuda:{part}")
        elif cpus := re.fullmatch(r"cpu(?::([1-9]\d{0,2}))?", part):
            names += ["cpu"] * int(cpus[1] or 1)
        elif re.fullmatch(r"mps|auto|cuda(:\d+)?", part):
            names.append(part)
        else:
            raise ValueError(
                f"devices must be a list such as 0,1 or cuda:1 or mps or cpu:2, got {devices!r}"
            )
    return names


def _all_devices() -> list[str]:
    import torch  # seconds to import

    count = torch.cuda.device_count()
    return [f"cuda:{index}" for index in range(count)] if count > 1 else ["auto"]


def _slot(name: str, threads: int, sharers: int) -> Slot:
    environment = {"OMP_NUM_THREADS": str(threads)}
    kind, _, index = name.partition(":")
    if kind == "cuda" and index:
        environment["CUDA_VISIBLE_DEVICES"] = _physical(int(index))
    elif kind == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return Slot(name, kind, threads, sharers, environment)


def _physical(index: int) -> str:
    """Give what the system calls the GPU that this process counts as `index`."""
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[index] if index < len(visible) else str(index)
