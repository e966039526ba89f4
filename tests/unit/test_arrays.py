"""Arrays in a cache: computed by one, found by all, never trusted when broken, within the limit."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_photos import fill
from trainers.data.arrays import Array, ArrayKind, check_array, open_array
from trainers.data.cache import Cache, map_files
from trainers.data.manifest import Manifest, Split, build_manifest
from trainers.data.mapped import BrokenMap
from trainers.data.scale import Scale

ROWS = np.arange(60, dtype=np.float16).reshape(5, 3, 4)
KIND = ArrayKind.of({"front": "a"}, ROWS.shape, "float16")
OTHER = ArrayKind.of({"front": "b"}, ROWS.shape, "float16")


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no disk: no test cuts the power."""
    monkeypatch.setattr("trainers.data.mapped.os.fsync", lambda _: None)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Return a few tiny photos."""
    fill(tmp_path / "photos" / "train", "ab", 3)
    fill(tmp_path / "photos" / "valid", "ab", 2, start=500)
    return build_manifest(tmp_path / "photos")


class Counted:
    """Yields the rows in two blocks, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Iterator[Array]:
        """Yield all rows."""
        self.times += 1
        yield ROWS[:2]
        yield ROWS[2:]


def test_an_array_is_computed_once(tmp_path: Path, manifest: Manifest) -> None:
    """By the first that asks, even where all ask at the same time; all get its rows."""
    rows = Counted()

    def ask(_: int) -> Array | None:
        return Cache(tmp_path / "cache", manifest).array(KIND, rows)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(8)))
    assert rows.times == 1
    assert all(each is not None and np.array_equal(each, ROWS) for each in found)
    (path,) = map_files(tmp_path / "cache")
    check_array(path)


def cut_short(content: bytes) -> bytes:
    """Leave half of a file."""
    return content[: len(content) // 2]


def damage(content: bytes) -> bytes:
    """Flip one bit of the first row."""
    return bytes([content[0] ^ 1]) + content[1:]


@pytest.mark.parametrize("change", [cut_short, damage, lambda _: b""])
def test_a_broken_array_is_told_and_computed_again(
    tmp_path: Path, manifest: Manifest, change: Callable[[bytes], bytes]
) -> None:
    """What is not whole is named, thrown away and made again."""
    rows, said = Counted(), list[str]()
    Cache(tmp_path / "cache", manifest).array(KIND, rows)
    (path,) = map_files(tmp_path / "cache")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BrokenMap):
        check_array(path)
    found = Cache(tmp_path / "cache", manifest, say=said.append).array(KIND, rows)
    assert found is not None
    assert np.array_equal(found, ROWS)
    assert rows.times == 2
    assert len(said) == 1
    assert str(path) in said[0]


def test_another_array_under_its_name_is_refused(tmp_path: Path, manifest: Manifest) -> None:
    """A file says itself what it holds."""
    Cache(tmp_path / "cache", manifest).array(KIND, Counted())
    (path,) = map_files(tmp_path / "cache")
    with pytest.raises(BrokenMap, match="another array"):
        open_array(path, OTHER)


def test_without_room_there_is_none(tmp_path: Path, manifest: Manifest) -> None:
    """It is said once, nothing is computed, and nothing is left."""
    rows, said = Counted(), list[str]()
    cache = Cache(tmp_path / "cache", manifest, limit=KIND.n_bytes - 1, say=said.append)
    assert cache.array(KIND, rows) is None
    assert cache.array(KIND, rows) is None
    assert rows.times == 0
    assert len(said) == 1
    assert "--cache-limit" in said[0]
    assert map_files(tmp_path / "cache") == []


def test_the_array_unused_for_longest_makes_room_and_photos_do_not(
    tmp_path: Path, manifest: Manifest
) -> None:
    """An array gives way to another; the manifest's own decoded photos stay."""
    root = tmp_path / "cache"
    Cache(root, manifest).prepare([(Split.TRAIN, Scale(2, squeeze=False, cut=True))])
    (photos,) = map_files(root)
    Cache(root, manifest).array(KIND, Counted())
    os.utime(root / manifest.digest[:16] / KIND.name, (0, 0))
    os.utime(photos, (0, 0))
    full = sum(path.stat().st_size for path in map_files(root))
    assert Cache(root, manifest, limit=full).array(OTHER, Counted()) is not None
    assert {path.name for path in map_files(root)} == {photos.name, OTHER.name}


def test_an_interruption_leaves_nothing(tmp_path: Path, manifest: Manifest) -> None:
    """After Ctrl-C there is no half of an array, and it can be computed."""

    def stopped() -> Iterator[Array]:
        yield ROWS[:2]
        raise KeyboardInterrupt

    cache = Cache(tmp_path / "cache", manifest)
    with pytest.raises(KeyboardInterrupt):
        cache.array(KIND, stopped)
    assert not list((tmp_path / "cache").rglob("*.tmp"))
    assert map_files(tmp_path / "cache") == []
    assert cache.array(KIND, Counted()) is not None
