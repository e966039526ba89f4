"""Worker processes that decode photos anew for each batch: what they give, epoch after epoch."""

import multiprocessing
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tiny_photos import photo
from tests.unit.test_scale import saved, scene
from trainers.data import decode_workers
from trainers.data.decode_workers import Decoders, Request
from trainers.data.manifest import DatasetError
from trainers.data.scale import Scale, read_at
from trainers.errors import UnreadablePhoto
from trainers.signals import INTERRUPTS

WHOLE = Scale(2, squeeze=False, cut=True)


@pytest.fixture(scope="module")
def decoders() -> Decoders:
    """Return two worker processes, which begin with the first request, for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_workers, "usable_cpus", lambda: 2)
        return Decoders()


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Write 30 tiny photos, each of a red that is its number."""
    return [photo(tmp_path / f"{number}.png", number) for number in range(30)]


def requests(paths: list[Path], size: int) -> list[list[Request]]:
    """Ask for photos in batches."""
    return [[(path, WHOLE) for path in paths[at : at + size]] for at in range(0, len(paths), size)]


def reds(batches: Iterator[list[Tensor]]) -> list[list[int]]:
    """Return the number of each photo of each batch."""
    return [[int(one[0, 0, 0]) for one in batch] for batch in batches]


def batched(numbers: range, size: int) -> list[list[int]]:
    """Cut numbers into batches."""
    return [list(numbers[at : at + size]) for at in range(0, len(numbers), size)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # it sees other CPUs
@pytest.mark.parametrize(("cpus", "slots", "each"), [(8, 1, 8), (8, 3, 2), (2, 4, 1), (1, 1, 1)])
def test_slots_share_the_cpus_among_their_decoders(
    monkeypatch: pytest.MonkeyPatch, cpus: int, slots: int, each: int
) -> None:
    """All together are no more than the CPUs, but for one in each slot."""
    monkeypatch.setattr(decode_workers, "usable_cpus", lambda: cpus)
    assert Decoders(slots)._loader.num_workers == each


@pytest.mark.long
def test_photos_come_in_order_as_they_are_read(decoders: Decoders, tmp_path: Path) -> None:
    """Each photo of each batch, at the scale of its own request, has the pixels of read_at."""
    files = [saved(tmp_path, scene(90, 60 + 9 * n), f"{n}.jpg") for n in range(4)]
    scales = [Scale(20, False, True), Scale(13, True, False), Scale(40, False, False)]
    wanted = [[(files[n], scales[(n + k) % 3]) for n in range(4)] for k in range(5)]
    found = list(decoders.batches(wanted))
    assert [len(batch) for batch in found] == [4] * 5
    for batch, some in zip(found, wanted, strict=True):
        for one, (path, scale) in zip(batch, some, strict=True):
            assert one.dtype == torch.uint8
            assert np.array_equal(one.numpy(), read_at(path, [scale])[0])


@pytest.mark.long
def test_the_same_processes_serve_every_epoch(decoders: Decoders, paths: list[Path]) -> None:
    """Other requests, in other numbers and batches, are answered by the very same workers."""
    assert reds(decoders.batches(requests(paths, 7))) == batched(range(30), 7)
    processes = {process.pid for process in multiprocessing.active_children()}
    for count, size in ((30, 4), (3, 2), (29, 29), (1, 1)):
        found = reds(decoders.batches(requests(paths[-count:], size)))
        assert found == batched(range(30 - count, 30), size)
    assert {process.pid for process in multiprocessing.active_children()} == processes


@pytest.mark.long
def test_an_interrupt_of_all_processes_disturbs_no_epoch(
    decoders: Decoders, paths: list[Path]
) -> None:
    """Ctrl-C and a cluster's SIGTERM reach these, too; whether to stop is said elsewhere."""
    batches = decoders.batches(requests(paths, 4))
    assert reds(iter([next(batches)])) == batched(range(4), 4)
    processes = [process.pid for process in multiprocessing.active_children()]
    for number in INTERRUPTS:
        subprocess.run(["kill", f"-{number}", *map(str, processes)], check=True)
    assert reds(batches) == batched(range(30), 4)[1:]


@pytest.mark.long
@pytest.mark.parametrize("taken", [0, 1, 5])
def test_an_epoch_after_one_that_was_abandoned(
    decoders: Decoders, paths: list[Path], taken: int
) -> None:
    """What an epoch that was left early had asked for never turns up in the next one."""
    left = decoders.batches(requests(paths[:20], 1))
    assert [reds(iter([next(left)])) for _ in range(taken)] == [[[n]] for n in range(taken)]
    left.close()  # type: ignore[attr-defined]
    assert reds(decoders.batches(requests(paths[20:], 3))) == batched(range(20, 30), 3)


@pytest.mark.long
@pytest.mark.parametrize("content", [b"no photo", b"\x89PNG\r\n\x1a\n"])
def test_a_damaged_photo_is_an_error_where_it_is_asked_for(
    decoders: Decoders, paths: list[Path], content: bytes
) -> None:
    """It is raised to who takes the batches, and the epoch after it is not disturbed."""
    paths[8].write_bytes(content)
    batches = decoders.batches(requests(paths, 4))
    assert reds(iter([next(batches), next(batches)])) == batched(range(8), 4)
    with pytest.raises((UnreadablePhoto, DatasetError), match=r"not an image|damaged|truncated"):
        next(batches)
    assert reds(decoders.batches(requests(paths[9:], 5))) == batched(range(9, 30), 5)
