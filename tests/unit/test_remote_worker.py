"""The worker on another machine, looked at in this one."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from study.engines.base import EpochEnded, StageEnded
from study.engines.remote_worker import AwayWorker, read_whole, write_whole
from study.engines.slots import Slot, check_cluster_devices, shares_of
from study.engines.worker import Lost
from tests import lab
from tests.engines import Late, Poisoned
from trainers.base import BEST, LAST, StageTask, Trainer

SLOT = Slot("cpu", "cpu", 1)


def late(_slot: Slot, _cache: Path) -> Trainer:
    """Build a trainer that writes when its stage ends."""
    return Late(np.array([0, 1]), 2)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AwayWorker:
    """Make a worker whose machine has its own temporary files and not the coordinator's cache."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return AwayWorker(late, SLOT, tmp_path / "not-here")


def test_a_machine_keeps_the_decoded_photos_that_it_lacks(worker: AwayWorker) -> None:
    """They are written whole and once; what is there is not written again."""
    names = ["d/train-64.pixels", "d/valid-64.pixels"]
    content = np.arange(9, dtype=np.uint8)
    assert worker.missing(names) == names
    assert worker.keep(names[:1], content) == []
    assert worker.missing(names) == names[1:]
    assert worker.keep(names, content[::-1].copy(), content) == []
    assert (read_whole(worker._cache / names[0]) == content).all()


def test_files_come_home_when_they_have_changed(worker: AwayWorker, tmp_path: Path) -> None:
    """And not where the trainer has written none; at the end all is there."""
    (tmp_path / "a").mkdir()
    task = StageTask(schedule=lab.schedule(lab.stage(epochs=2)), seed=0, folder=tmp_path / "a")
    first, second = worker.begin("a", task, None, {}), worker.go_on()
    assert isinstance(first.said, EpochEnded)
    assert first.files == {}
    assert isinstance(second.said, EpochEnded)
    assert set(second.files) == {LAST, BEST}
    end = worker.go_on()
    assert isinstance(end.said, StageEnded)
    worker.vacate()
    assert list(tmp_path.glob("encore-*/worker-*")) == []


def failing(_slot: Slot, _cache: Path) -> Trainer:
    """Build a trainer whose GPU fails."""
    return Poisoned(1, "cpu")


def test_a_gpu_that_has_failed_is_told(worker: AwayWorker, tmp_path: Path) -> None:
    """So that the coordinator ends this worker, and another goes on."""
    worker._build = failing
    (tmp_path / "a").mkdir()
    task = StageTask(schedule=lab.schedule(lab.stage(epochs=3)), seed=0, folder=tmp_path / "a")
    assert isinstance(worker.begin("a", task, None, {}).said, EpochEnded)
    assert worker.go_on().said == Lost("CUDA error: device-side assert triggered")


@pytest.mark.usefixtures("worker")
def test_scratch_of_a_killed_worker_is_swept(tmp_path: Path) -> None:
    """The next worker on the machine removes it, and not that of one that lives."""
    ours = tmp_path / f"encore-{os.getuid()}"
    (ours / "worker-999999999-x").mkdir()
    AwayWorker(late, SLOT, tmp_path / "not-here")
    left = [path.name for path in ours.glob("worker-*")]
    assert len(left) == 2
    assert all(name.startswith(f"worker-{os.getpid()}-") for name in left)


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    """A reader sees the old file or the new one."""
    path = tmp_path / LAST
    write_whole(path, np.zeros(3, np.uint8))
    with pytest.raises(AttributeError):
        write_whole(path, None)  # type: ignore[arg-type]
    assert path.read_bytes() == bytes(3)
    assert list(tmp_path.iterdir()) == [path]


def test_slots_are_shares_of_each_nodes_resources() -> None:
    """GPUs where there are any, in fractions; else CPUs, shared out among a node's slots."""
    nodes = {"a": {"CPU": 8.0, "GPU": 2.0}, "b": {"CPU": 4.0}}
    shares = shares_of(nodes, "auto", 2)
    assert [share.gpus for share in shares["a"]] == [0.5] * 4
    assert {share.slot.threads for share in shares["a"]} == {2}
    assert shares["b"] == []
    assert [share.cpus for share in shares_of({"b": nodes["b"]}, "auto")["b"]] == [4.0]
    assert [share.cpus for share in shares_of(nodes, "cpu:8")["b"]] == [0.5] * 8
    assert [share.cpus for share in shares_of(nodes, "cpu:3")["a"]] == [2.0] * 3
    assert shares_of({"head": {}}, "auto") == {"head": []}


@pytest.mark.parametrize("devices", ["0,1", "cuda:1", "mps", "cpu:0", ""])
def test_devices_that_a_node_may_not_have_are_refused(devices: str) -> None:
    """Which GPU it is, Ray decides."""
    with pytest.raises(ValueError, match="engine ray"):
        check_cluster_devices(devices)
