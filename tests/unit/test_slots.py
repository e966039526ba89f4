"""From a list of devices to slots: what each trains on, sees and may use of the CPU."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from study.config.schema import StudyConfig
from study.engines import slots
from study.engines.base import Engine
from study.engines.inline import InlineEngine
from study.engines.processes import ProcessEngine
from study.engines.setup import Setup, Training
from study.engines.slots import slots_of


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a machine of twelve CPU cores where every GPU is visible."""
    monkeypatch.setattr(slots, "usable_cpus", lambda: 12)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("devices", "names"),
    [
        ("0,1", ["cuda:0", "cuda:1"]),
        ("cuda:1", ["cuda:1"]),
        ("cuda", ["cuda"]),
        ("mps", ["mps"]),
        ("cpu", ["cpu"]),
        ("cpu:3", ["cpu", "cpu", "cpu"]),
        (" 2 , CPU:2 ", ["cuda:2", "cpu", "cpu"]),
        ("0,0", ["cuda:0", "cuda:0"]),
    ],
)
def test_devices_are_read(devices: str, names: list[str]) -> None:
    """Bare numbers are GPUs, cpu:N is N slots, and a device may be listed twice."""
    assert [slot.device for slot in slots_of(devices)] == names


@pytest.mark.parametrize(
    "devices", ["", "0,", "gpu", "cuda:", "cuda:x", "cpu:0", "cpu:-1", "cpu:1000", "-1", "0;1"]
)
def test_devices_that_cannot_be_read_are_refused(devices: str) -> None:
    """The sentence shows how a list looks and what was given."""
    with pytest.raises(ValueError, match="devices must be a list such as") as error:
        slots_of(devices)
    assert str(error.value).endswith(f"got {devices!r}")


@pytest.mark.parametrize(
    ("count", "names"), [(0, ["auto"]), (1, ["auto"]), (3, ["cuda:0", "cuda:1", "cuda:2"])]
)
def test_auto_is_every_gpu(monkeypatch: pytest.MonkeyPatch, count: int, names: list[str]) -> None:
    """With one device or none, which one it is is left to the trainer."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert [slot.device for slot in slots_of("auto")] == names


def test_slots_share_out_the_cpu() -> None:
    """Threads are divided among all slots, workers on one device included; none gets 0."""
    slots = slots_of("0,1", per_device=2)
    assert [slot.device for slot in slots] == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]
    assert {
        (slot.threads, slot.sharers, slot.environment["OMP_NUM_THREADS"]) for slot in slots
    } == {(3, 4, "3")}
    assert {slot.threads for slot in slots_of("cpu:50")} == {1}


def test_who_shares_a_device_is_counted_by_device() -> None:
    """Eight GPUs have one worker each; all slots of a CPU share it."""
    assert {slot.device_sharers for slot in slots_of("0,1,2,3,4,5,6,7")} == {1}
    assert {slot.device_sharers for slot in slots_of("0,1", per_device=2)} == {2}
    assert [slot.device_sharers for slot in slots_of("1,cpu:3")] == [1, 3, 3, 3]
    nodes = {"a": {"CPU": 8.0, "GPU": 4.0}}
    assert {share.slot.device_sharers for share in slots.shares_of(nodes, "cuda", 2)["a"]} == {2}
    assert {share.slot.device_sharers for share in slots.shares_of(nodes, "cpu:2")["a"]} == {2}


@pytest.mark.parametrize(
    ("settings", "gpus", "kind"),
    [
        ({"devices": "0"}, 1, ProcessEngine),
        ({"devices": "auto"}, 1, ProcessEngine),
        ({"devices": "0", "engine": "inline"}, 1, InlineEngine),
        ({"devices": "0", "trainer": "__main__:Mine"}, 1, InlineEngine),
        ({"devices": "auto"}, 0, InlineEngine),
        ({"devices": "cpu"}, 1, InlineEngine),
    ],
    ids=str,
)
def test_a_gpu_is_used_by_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], gpus: int, kind: type[Engine]
) -> None:
    """A search outlives a GPU's failure, unless it is to train, or has to, in its own process."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    config = StudyConfig(**settings)
    made: Any = SimpleNamespace(trainer=lambda *_, **__: None)
    monkeypatch.setattr(Setup, "slots", slots_of(config.devices))
    assert type(Training(Setup(config), config, made).engine()) is kind


def test_a_process_sees_its_own_device_alone() -> None:
    """A numbered GPU is the only one there is, under its bare name; a CPU slot sees no GPU."""
    gpu, cpu, mps = slots_of("1,cpu,mps")
    assert (gpu.alone, gpu.environment["CUDA_VISIBLE_DEVICES"]) == ("cuda", "1")
    assert (cpu.alone, cpu.environment["CUDA_VISIBLE_DEVICES"]) == ("cpu", "")
    assert (mps.alone, "CUDA_VISIBLE_DEVICES" in mps.environment) == ("mps", False)


def test_gpus_are_counted_among_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the user shows only some, number 0 is the first of these, named as the system does."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-abc")
    seen = [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots_of("0,1,2")]
    assert seen == ["5", "GPU-abc", "2"]
