"""Decoded photos are kept once for all, and never trusted when they are broken."""

import errno
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.tiny_photos import fill
from trainers.data import cache as cache_module
from trainers.data import scale as scale_module
from trainers.data.cache import Cache
from trainers.data.manifest import Manifest, Split, build_manifest
from trainers.data.mapped import BrokenMap
from trainers.data.photo import read_photo
from trainers.data.pixels import Pixels, View
from trainers.data.scale import Scale, read_at

TRAIN, VALID = Split.TRAIN, Split.VALID
ONE, TWO, BIG = (Scale(edge, squeeze=False, cut=True) for edge in (1, 2, 40))
N_TRAIN, N_VALID = 12, 6


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no disk: no test cuts the power."""
    monkeypatch.setattr("trainers.data.mapped.os.fsync", lambda _: None)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Return 12 tiny photos to train on and 6 to validate."""
    fill(tmp_path / "photos" / "train", "ab", N_TRAIN // 2)
    fill(tmp_path / "photos" / "valid", "ab", N_VALID // 2, start=1000)
    return build_manifest(tmp_path / "photos")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int]]:
    """Count how often each photo is decoded at each reduction."""
    counts: Counter[tuple[str, int]] = Counter()
    lock = threading.Lock()

    def counting(path: Path, reduction: int) -> Image.Image:
        with lock:
            counts[str(path), reduction] += 1
        return read_photo(path, reduction)

    monkeypatch.setattr(scale_module, "read_photo", counting)
    return counts


def values(pixels: Pixels | None) -> list[NDArray[np.uint8]]:
    """Return the photos of a map."""
    assert pixels is not None
    return [pixels.photo(index) for index in range(len(pixels.sizes))]


def expected(manifest: Manifest, split: Split, scale: Scale) -> list[NDArray[np.uint8]]:
    """Decode the photos of a split without any cache."""
    return [read_at(manifest.root / photo.path, [scale])[0] for photo in manifest.of_split(split)]


def same(found: list[NDArray[np.uint8]], other: list[NDArray[np.uint8]]) -> bool:
    """Whether photos are the same in number, size and value."""
    return len(found) == len(other) and all(map(np.array_equal, found, other))


def folder_of(cache_root: Path, manifest: Manifest) -> Path:
    """Return where the maps of a manifest lie."""
    return cache_root / manifest.digest[:16]


def test_photos_are_decoded_once_for_all_splits_and_scales(
    tmp_path: Path, manifest: Manifest, decoded: Counter[tuple[str, int]]
) -> None:
    """What is asked for together is decoded once a photo; later asking decodes nothing."""
    cache = Cache(tmp_path / "cache", manifest)
    wanted = [(split, scale) for split in (TRAIN, VALID) for scale in (ONE, TWO, BIG)]
    cache.prepare([*wanted, *wanted])
    assert len(decoded) == N_TRAIN + N_VALID
    assert set(decoded.values()) == {1}
    for split, scale in wanted:
        assert cache.get(split, scale) is cache.get(split, scale)
    other = Cache(tmp_path / "cache", manifest)
    other.prepare(wanted[:2])
    found = {view: values(other.get(*view)) for view in wanted}
    assert decoded.total() == N_TRAIN + N_VALID
    assert all(same(found[view], expected(manifest, *view)) for view in wanted)


def test_a_jpeg_is_decoded_once_for_each_reduction(
    tmp_path: Path, decoded: Counter[tuple[str, int]]
) -> None:
    """Scales of about one size share a decoding, and what is kept does not show it."""
    for name in ("train/a", "train/b", "valid/a", "valid/b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        noise = np.random.default_rng(len(name)).integers(0, 256, (64, 80, 3), dtype=np.uint8)
        noise[0, 0] = [ord(letter) for letter in name[-3:]]
        Image.fromarray(noise).save(tmp_path / "photos" / name / "1.jpg")
    manifest = build_manifest(tmp_path / "photos")
    scales = [Scale(edge, squeeze=False, cut=False) for edge in (4, 8, 9, 16, 17, 60)]
    cache = Cache(tmp_path / "cache", manifest)
    cache.prepare([(TRAIN, scale) for scale in scales])
    assert sorted(reduction for _, reduction in decoded) == [1, 1, 2, 2, 4, 4, 8, 8]
    assert set(decoded.values()) == {1}
    for scale in scales:
        assert same(values(cache.get(TRAIN, scale)), expected(manifest, TRAIN, scale))


def test_progress_counts_every_photo(tmp_path: Path, manifest: Manifest) -> None:
    """It goes up one by one to the photos of all splits; nothing is told when nothing is done."""
    told: list[tuple[int, int]] = []
    cache = Cache(tmp_path / "cache", manifest)
    wanted = [(TRAIN, ONE), (TRAIN, TWO), (VALID, TWO)]
    cache.prepare(wanted, lambda *counts: told.append(counts))
    total = N_TRAIN + N_VALID
    assert told == [(done, total) for done in range(1, total + 1)]
    told.clear()
    cache.prepare(wanted, lambda *counts: told.append(counts))
    Cache(tmp_path / "cache", manifest).prepare(wanted, lambda *counts: told.append(counts))
    assert told == []
    cache.prepare([(VALID, ONE)], lambda *counts: told.append(counts))
    assert told[-1] == (N_VALID, N_VALID)


def read_only(*_: object, **__: object) -> NoReturn:
    """Fail as on a disk that may only be read."""
    raise OSError(errno.EROFS, "Read-only file system")


def damage_pixels(path: Path, _: Path) -> None:
    """Flip one bit of the first photo."""
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def cut_short(path: Path, _: Path) -> None:
    """Leave half of the file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path, _: Path) -> None:
    """Leave nothing in the file."""
    path.write_bytes(b"")


def swap_splits(path: Path, folder: Path) -> None:
    """Put the map of another split in its place."""
    shutil.copy(folder / View("", VALID, TWO).name, path)


@pytest.mark.parametrize("damage", [damage_pixels, cut_short, empty, swap_splits])
def test_a_broken_map_is_told_and_made_again(
    tmp_path: Path, manifest: Manifest, damage: Callable[[Path, Path], None]
) -> None:
    """A map that is not what it should be is named once, thrown away, and built from the photos."""
    root, said = tmp_path / "cache", []
    Cache(root, manifest).prepare([(TRAIN, TWO), (VALID, TWO)])
    path = folder_of(root, manifest) / View("", TRAIN, TWO).name
    damage(path, path.parent)
    found = Cache(root, manifest, say=said.append).get(TRAIN, TWO)
    assert same(values(found), expected(manifest, TRAIN, TWO))
    assert len(said) == 1
    assert str(path) in said[0]
    assert "decoded again" in said[0]
    assert Cache(root, manifest, say=said.append).get(TRAIN, TWO) is not None
    assert len(said) == 1


def test_a_map_of_another_manifest_is_never_used(tmp_path: Path, manifest: Manifest) -> None:
    """Even moved into the folder of a manifest, the photos of another do not pass."""
    root = tmp_path / "cache"
    fill(tmp_path / "others" / "train", "ab", N_TRAIN // 2, start=5000)
    fill(tmp_path / "others" / "valid", "ab", N_VALID // 2, start=6000)
    others = build_manifest(tmp_path / "others")
    Cache(root, others).prepare([(TRAIN, TWO)])
    folder_of(root, others).rename(folder_of(root, manifest))
    said: list[str] = []
    found = Cache(root, manifest, say=said.append).get(TRAIN, TWO)
    assert same(values(found), expected(manifest, TRAIN, TWO))
    assert "other photos" in said[0]


def test_what_a_killed_builder_left_is_removed(tmp_path: Path, manifest: Manifest) -> None:
    """Half-written files are cleared away by the next who builds; others' files stay."""
    folder = folder_of(tmp_path / "cache", manifest)
    folder.mkdir(parents=True)
    (folder / ".train-2-cut.pixels.12345.tmp").write_bytes(bytes(1000))
    (folder / "notes.txt").write_text("mine")
    Cache(tmp_path / "cache", manifest).prepare([(VALID, TWO)])
    names = {path.name for path in folder.iterdir()}
    assert (
        {"notes.txt", "valid-2-cut.pixels"} <= names <= {"notes.txt", "valid-2-cut.pixels", "lock"}
    )


def test_a_build_that_is_broken_off_leaves_nothing(tmp_path: Path, manifest: Manifest) -> None:
    """After Ctrl-C no half-written file is left, nothing stays locked, and all can be built."""

    def stop(done: int, _: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    cache = Cache(tmp_path / "cache", manifest)
    with pytest.raises(KeyboardInterrupt):
        cache.prepare([(TRAIN, ONE), (TRAIN, TWO)], stop)
    assert {p.name for p in folder_of(tmp_path / "cache", manifest).iterdir()} <= {"lock"}
    assert same(values(cache.get(TRAIN, TWO)), expected(manifest, TRAIN, TWO))


def test_a_map_that_may_only_be_read_is_used(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where not even its time can be changed, a whole map gives its photos without a word."""
    root, said = tmp_path / "cache", []
    Cache(root, manifest).prepare([(TRAIN, TWO)])
    monkeypatch.setattr(cache_module.os, "utime", read_only)
    found = Cache(root, manifest, say=said.append).get(TRAIN, TWO)
    assert same(values(found), expected(manifest, TRAIN, TWO))
    assert said == []


def test_a_broken_map_that_another_process_removes_first(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes that find the same broken map do not trip over each other."""
    root = tmp_path / "cache"
    Cache(root, manifest).prepare([(TRAIN, TWO)])

    def another_was_faster(path: Path, *_: object) -> NoReturn:
        path.unlink()
        monkeypatch.undo()
        raise BrokenMap("it is not whole")

    monkeypatch.setattr(cache_module, "open_pixels", another_was_faster)
    found = Cache(root, manifest).get(TRAIN, TWO)
    assert same(values(found), expected(manifest, TRAIN, TWO))


def test_a_broken_map_that_cannot_be_removed(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that may only be read, a broken map is refused in sentences, not in a crash."""
    root, said = tmp_path / "cache", []
    Cache(root, manifest).prepare([(TRAIN, TWO)])
    empty(folder_of(root, manifest) / View("", TRAIN, TWO).name, root)
    monkeypatch.setattr(Path, "unlink", read_only)
    cache = Cache(root, manifest, say=said.append)
    assert cache.get(TRAIN, TWO) is None
    assert cache.get(TRAIN, TWO) is None
    assert sum("Read-only file system" in sentence for sentence in said) == 1
