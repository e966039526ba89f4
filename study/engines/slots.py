"""From `--devices` to slots: where stage runs train, and the resources each may use."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from trainers.allowance import usable_cpus


@dataclass(frozen=True)
class Slot:
    """A device or a share of one.

    `device` is its name for torch. A separate process gets `environment`, which hides all other
    devices, calls the device `alone`, and uses `threads` CPU threads. `sharers` counts the slots of
    this machine, `device_sharers` those of the same device.
    """

    device: str
    alone: str
    threads: int
    sharers: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    device_sharers: int = 1


def slots_of(devices: str, per_device: int = 1) -> list[Slot]:
    """Return the slots of a list of devices, such as "0,1", "cuda:1", "mps", "cpu:2" or "auto".

    AUTO is every GPU, or the one device there is. Raises ValueError for an invalid list.
    """
    names = _names(devices)
    named = [name for name in names for _ in range(per_device)]
    threads = max(1, usable_cpus() // len(named))
    return [
        replace(_slot(name, threads, len(named)), device_sharers=named.count(name))
        for name in named
    ]


@dataclass(frozen=True)
class Share:
    """A slot of a cluster's node, and the resources that it requests from the node."""

    slot: Slot
    cpus: float = 0.0
    gpus: float = 0.0


def check_cluster_devices(devices: str) -> None:
    """Raise ValueError for devices that only one node of a cluster can have, such as cuda:1."""
    if not _ON_A_NODE.fullmatch(devices.strip().lower()):
        raise ValueError(
            f"devices must be auto, cuda or cpu:2 with engine ray, got {devices!r}: "
            "on each node, Ray chooses the GPUs"
        )


def shares_of(
    nodes: Mapping[str, Mapping[str, float]], devices: str, per_device: int = 1
) -> dict[str, list[Share]]:
    """Return the slots of each node by its resources ("CPU", "GPU"): `devices`, on each of them.

    AUTO is every GPU, or one CPU slot on each node where no node has a GPU.
    """
    name = devices.strip().lower()
    on_gpus = name == "cuda" or (name == "auto" and any(has.get("GPU") for has in nodes.values()))
    _, _, count = name.partition(":")
    return {
        node: _shares(has, int(has.get("GPU", 0)) if on_gpus else int(count or 1),
                      per_device, on_gpus=on_gpus)
        for node, has in nodes.items()
    }  # fmt: skip


def _shares(has: Mapping[str, float], devices: int, per: int, *, on_gpus: bool) -> list[Share]:
    cores, n = has.get("CPU", 0.0), devices * per
    if n == 0 or not (on_gpus or cores):
        return []
    threads = max(1, int(cores) // n)
    environment = {"OMP_NUM_THREADS": str(threads)}
    if on_gpus:
        # Ray lets the process see its GPU alone.
        return [Share(Slot("cuda", "cuda", threads, n, environment, per), gpus=1 / per)] * n
    slot = Slot("cpu", "cpu", threads, n, environment | {"CUDA_VISIBLE_DEVICES": ""}, n)
    return [Share(slot, cpus=min(threads, cores / n))] * n


_ON_A_NODE = re.compile(r"auto|cuda|cpu(:[1-9]\d{0,2})?")


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
    """Return the system's name of the GPU that has number `index` in this process."""
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[index] if index < len(visible) else str(index)
