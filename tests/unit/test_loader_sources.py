"""Where the photos of batches come from, that it makes no difference, and when it happens."""

import gc
import multiprocessing
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.unit.test_loader import epoch_of, labels, stage, write_noise
from trainers.data import decode_workers, decoding, loader
from trainers.data.augment import Changes, apply_changes
from trainers.data.cache import Cache, wanted_by
from trainers.data.decode_workers import Request
from trainers.data.decoding import estimated_bytes
from trainers.data.loader import Batch, Photos, View, training_batches, validation_batches
from trainers.data.manifest import DatasetError, Manifest, Split
from trainers.data.scale import Scale, read_at, training_scale
from trainers.errors import UnreadablePhoto
from trainers.schedule import Stage

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

PLENTY = 10**9
TRAIN, VALID = Split.TRAIN, Split.VALID
SMALL, LARGE = (Scale(edge, squeeze=False, cut=True) for edge in (4, 8))
N_TRAIN, N_VALID = 10, 5


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Return 10 photos of noise to train on and 5 to validate."""
    return write_noise(tmp_path / "photos")


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[View]:
    """Note which photos are decoded into memory; worker processes are only played."""
    noted: list[View] = []
    decoded = loader.decoded

    def noting(
        manifest: Manifest, split: Split, scales: Sequence[Scale], *, sharers: int
    ) -> Iterator[list[NDArray[np.uint8]]]:
        noted.extend((split, scale) for scale in scales)
        return decoded(manifest, split, scales, sharers=sharers)

    monkeypatch.setattr(loader, "decoded", noting)
    monkeypatch.setattr(loader, "Decoders", PlayedDecoders)
    return noted


class PlayedDecoders:
    """Decodes at once, in this process, what worker processes would."""

    served = 0
    sharers = 0

    def __init__(self, sharers: int) -> None:
        type(self).sharers = sharers

    def batches(self, requests: Sequence[list[Request]]) -> Iterator[list[Tensor]]:
        """Yield the photos of each batch of requests."""
        type(self).served += 1
        for batch in requests:
            read = [read_at(path, [scale])[0].copy() for path, scale in batch]
            yield [torch.from_numpy(photo) for photo in read]


def everything(photos: Photos) -> list[Batch]:
    """Return the batches of two stages, two epochs each, and of their validation."""
    stages = [
        stage(crop="googlenet", augmentation="top-down"),
        stage(image_size=24, crop="random", augmentation="side-on", max_zoom=1.3),
    ]
    batches = []
    for position, mine in enumerate(stages):
        for epoch in range(2):
            batches += epoch_of(photos, mine, position=position, epoch=epoch)
            batches += validation_batches(photos, mine)
    return batches


def same(found: list[Batch], expected: list[Batch]) -> bool:
    """Whether batches are equal to the last bit, squares and labels."""
    return len(found) == len(expected) and all(
        torch.equal(a, b)
        for one, other in zip(found, expected, strict=True)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.long
def test_cache_memory_and_workers_give_the_same_bits(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever photos come from, batches are equal to the last bit; the workers go with Photos."""
    monkeypatch.setattr(decode_workers, "usable_cpus", lambda: 1)
    before = set(multiprocessing.active_children())
    streamed = Photos(manifest, memory=0)
    found = everything(streamed)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 1
    del streamed
    gc.collect()
    assert not workers & set(multiprocessing.active_children())
    held = everything(Photos(manifest, memory=PLENTY))
    assert same(found, held)
    for _ in range(2):  # built, and found there
        assert same(everything(Photos(manifest, Cache(tmp_path / "cache", manifest))), held)
    assert set(multiprocessing.active_children()) <= before


def test_a_cache_without_room_is_replaced_by_memory(
    tmp_path: Path, manifest: Manifest, decodings: list[View]
) -> None:
    """What the cache refuses is decoded into memory once, and into nothing if that is refused."""
    for memory, times in ((PLENTY, 1), (0, 0)):
        cache = Cache(tmp_path / "cache", manifest, limit=0)
        photos = Photos(manifest, cache, memory=memory)
        epochs = [epoch_of(photos, stage(), epoch=epoch) for epoch in (0, 0, 0)]
        assert same(epochs[0], epochs[2])
        assert decodings == [(TRAIN, training_scale(stage()))] * times
        decodings.clear()


def test_what_lies_in_the_cache_takes_no_memory(
    tmp_path: Path, manifest: Manifest, decodings: list[View]
) -> None:
    """A map is used as it is, even if nothing may be held in memory."""
    PlayedDecoders.served = 0
    photos = Photos(manifest, Cache(tmp_path / "cache", manifest), memory=0)
    assert len(labels(everything(photos))) == 4 * (N_TRAIN + N_VALID)
    assert decodings == []
    assert PlayedDecoders.served == 0


def take(photos: Photos, split: Split, scale: Scale) -> None:
    """Ask for all photos of a split, and check them."""
    members = photos.manifest.of_split(split)
    (batch,) = photos.batches(split, scale, [np.arange(len(members))[::-1]])
    for photo, found in zip(members[::-1], batch, strict=True):
        expected = read_at(photos.manifest.root / photo.path, [scale])[0]
        assert np.array_equal(found.numpy(), expected)


def n_bytes(split: Split, scale: Scale) -> int:
    """Count the bytes of a split's photos."""
    return {TRAIN: N_TRAIN, VALID: N_VALID}[split] * 3 * scale.edge**2


def test_maps_drop_nothing_from_memory(
    tmp_path: Path, manifest: Manifest, decodings: list[View]
) -> None:
    """What had no room in the cache stays in memory, however much comes out of the cache."""
    cache = Cache(tmp_path / "cache", manifest, limit=n_bytes(VALID, SMALL))
    photos = Photos(manifest, cache, memory=n_bytes(TRAIN, LARGE))
    for _ in range(2):
        take(photos, TRAIN, LARGE)
        take(photos, VALID, SMALL)
    assert decodings == [(TRAIN, LARGE)]


def test_memory_makes_room_by_dropping_what_was_decoded_first(
    manifest: Manifest, decodings: list[View]
) -> None:
    """What fits together is decoded once; beyond that the oldest goes, and comes again."""
    views = [(VALID, SMALL), (TRAIN, SMALL), (VALID, LARGE)]
    photos = Photos(manifest, memory=sum(n_bytes(*view) for view in views))
    for view in views * 3:
        take(photos, *view)
    assert decodings == views
    one_less = Photos(manifest, memory=sum(n_bytes(*view) for view in views) - 1)
    decodings.clear()
    for view in [*views, views[1], views[2], views[0]]:
        take(one_less, *view)
    assert decodings == [*views, views[0]]


@pytest.mark.parametrize("fields", [{}, {"crop": "googlenet"}, {"crop": "no"}], ids=str)
@pytest.mark.parametrize("first", [TRAIN, VALID])
def test_splits_that_fit_singly_alone_are_not_decoded_each_epoch(
    manifest: Manifest, decodings: list[View], fields: dict[str, Any], first: Split
) -> None:
    """Of two, the larger stays for the stage, whichever is asked for first, to the very byte."""
    mine = stage(**fields)
    views = wanted_by([mine])
    held = {view: estimated_bytes(manifest, *view) for view in views}
    for memory in (sum(held.values()) - 1, max(held.values()), max(held.values()) - 1):
        decodings.clear()
        photos = Photos(manifest, memory=memory)
        if first is VALID:
            list(validation_batches(photos, mine))
        for epoch in range(5):
            assert len(labels(epoch_of(photos, mine, epoch=epoch))) == N_TRAIN
            assert len(labels(list(validation_batches(photos, mine)))) == N_VALID
        # The smaller one may have been there before the larger one came.
        assert len(decodings) == len(set(decodings)) <= 2
        assert (max(views, key=held.__getitem__) in decodings) == (memory >= max(held.values()))


def test_the_next_stage_gets_the_memory(manifest: Manifest, decodings: list[View]) -> None:
    """What only the stage before has used makes room, once for each stage."""
    stages = [stage(image_size=size, crop="googlenet") for size in (8, 16, 12)]
    memory = max(estimated_bytes(manifest, *view) for view in wanted_by(stages))
    photos = Photos(manifest, memory=memory)
    for mine in stages:
        for epoch in range(3):
            epoch_of(photos, mine, epoch=epoch)
            list(validation_batches(photos, mine))
    trained = [view for view in decodings if view[0] is TRAIN]
    assert trained == [(TRAIN, training_scale(mine)) for mine in stages]
    assert len(decodings) == len(set(decodings))


@pytest.mark.parametrize("memory", [0, PLENTY])
def test_slots_share_the_cpus_wherever_photos_are_decoded(
    manifest: Manifest,
    decodings: list[View],
    monkeypatch: pytest.MonkeyPatch,
    memory: int,
) -> None:
    """Threads that decode into memory and processes that decode for each batch are a third."""
    pools: list[int] = []
    monkeypatch.setattr(decoding, "usable_cpus", lambda: 12)

    def noting(threads: int) -> ThreadPoolExecutor:
        pools.append(threads)
        return ThreadPoolExecutor(threads)

    monkeypatch.setattr(decoding, "ThreadPoolExecutor", noting)
    PlayedDecoders.sharers = 0
    take(Photos(manifest, memory=memory, sharers=3), VALID, SMALL)
    assert (decodings, pools) == (([(VALID, SMALL)], [4]) if memory else ([], []))
    assert PlayedDecoders.sharers == (0 if memory else 3)


@pytest.mark.parametrize(("device_sharers", "fits"), [(1, True), (2, False), (None, False)])
def test_a_gpu_s_memory_is_shared_by_its_own_slots(
    manifest: Manifest,
    decodings: list[View],
    monkeypatch: pytest.MonkeyPatch,
    device_sharers: int | None,
    fits: bool,
) -> None:
    """The other seven GPUs of a machine take nothing of it. The GPU is played by the CPU."""
    free = int(n_bytes(TRAIN, LARGE) / loader.MEMORY_SHARE)
    monkeypatch.setattr(loader, "has_own_memory", lambda _: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 8 * free))
    photos = Photos(manifest, sharers=8, device_sharers=device_sharers)
    take(photos, TRAIN, LARGE)
    assert decodings == [(TRAIN, LARGE)] * fits


def test_photos_leave_a_gpu_and_come_back(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to be kept there, they come out of the cache. The GPU is played by "meta"."""
    meta = torch.device("meta")
    monkeypatch.setattr(loader, "has_own_memory", lambda device: device == meta)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (PLENTY, PLENTY))
    photos = Photos(manifest, Cache(tmp_path / "cache", manifest), meta)
    for kept, where in ((True, "meta"), (False, "cpu"), (True, "meta")):
        photos.keep_on_device(kept=kept)
        ((photo,),) = photos.batches(TRAIN, SMALL, [np.array([3])])
        assert photo.device.type == where


def test_what_never_fits_drops_nothing(manifest: Manifest, decodings: list[View]) -> None:
    """Photos that are too many for the memory leave there what others made of it."""
    photos = Photos(manifest, memory=n_bytes(VALID, SMALL))
    PlayedDecoders.served = 0
    for _ in range(3):
        take(photos, VALID, SMALL)
        take(photos, TRAIN, LARGE)
    assert decodings == [(VALID, SMALL)]
    assert PlayedDecoders.served == 3


def test_the_next_batch_is_prepared_while_one_is_held(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly one batch ahead is prepared, without being asked for, in one other thread."""
    begun = [threading.Event() for _ in range(5)]
    calls: list[threading.Thread] = []

    def noting(
        photos: Sequence[Tensor], changes: Changes, mine: Stage, device: torch.device
    ) -> Tensor:
        calls.append(threading.current_thread())
        begun[len(calls) - 1].set()
        return apply_changes(photos, changes, mine, device)

    monkeypatch.setattr(loader, "apply_changes", noting)
    photos = Photos(manifest, memory=PLENTY)
    batches = training_batches(photos, stage(batch_size=2), seed=0, position=0, epoch=0)
    assert calls == []
    for index in range(5):
        next(batches)
        if index < 4:
            assert begun[index + 1].wait(timeout=60)
        assert len(calls) == min(index + 2, 5)
    assert list(batches) == []
    assert len({*calls}) == 1
    assert calls[0] is not threading.current_thread()


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_an_epoch_left_early_leaves_no_threads(manifest: Manifest, taken: int) -> None:
    """Closing a generator of batches before its end finishes what it had begun, and no more."""
    before = threading.enumerate()
    photos = Photos(manifest, memory=PLENTY)
    place = {"seed": 0, "position": 0, "epoch": 0}
    for make in (
        lambda: training_batches(photos, stage(batch_size=2), **place),
        lambda: validation_batches(photos, stage()),
    ):
        batches = make()
        for _ in zip(range(taken), batches, strict=False):
            pass
        batches.close()  # type: ignore[attr-defined]
        assert threading.enumerate() == before
    assert len(labels(epoch_of(photos, stage()))) == N_TRAIN


def damage(path: Path) -> None:
    """Make no photo of a photo."""
    path.write_bytes(b"no longer a photo")


def cut_short(path: Path) -> None:
    """Leave the header of a photo and little else."""
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize("change", [damage, cut_short, Path.unlink])
def test_a_photo_that_breaks_later_is_told(
    manifest: Manifest, change: Callable[[Path], None]
) -> None:
    """A photo that changed since the manifest was made is an error that names it, and no hang."""
    path = manifest.root / manifest.of_split(TRAIN)[4].path
    change(path)
    with pytest.raises(DatasetError, match=re.escape(str(path))):
        epoch_of(Photos(manifest, memory=PLENTY), stage())


def test_an_error_of_a_worker_reaches_who_takes_the_batches(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong with a photo that is decoded anew is raised, and no thread is left."""
    monkeypatch.setattr(loader, "Decoders", PlayedDecoders)
    before = threading.enumerate()
    damage(manifest.root / manifest.of_split(VALID)[4].path)
    photos = Photos(manifest, memory=0)
    monkeypatch.setattr(loader, "estimated_bytes", lambda *_: 1)
    assert len(labels(epoch_of(photos, stage()))) == N_TRAIN
    with pytest.raises((UnreadablePhoto, DatasetError)):
        list(validation_batches(photos, stage()))
    assert threading.enumerate() == before
