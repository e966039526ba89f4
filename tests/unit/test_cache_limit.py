"""What a cache may take, what it drops, and what it says when photos cannot be kept or read."""

import os
from pathlib import Path

import pytest

from tests.tiny_photos import fill
from trainers.data.cache import Cache, map_files
from trainers.data.manifest import DatasetError, Manifest, Split, build_manifest
from trainers.data.scale import Scale

TRAIN, VALID = Split.TRAIN, Split.VALID
ONE, TWO, BIG = (Scale(edge, squeeze=False, cut=True) for edge in (1, 2, 40))
N_TRAIN, N_VALID = 12, 6


def made(root: Path, start: int = 0) -> Manifest:
    """Make 12 tiny photos to train on and 6 to validate."""
    fill(root / "train", "ab", N_TRAIN // 2, start=start)
    fill(root / "valid", "ab", N_VALID // 2, start=start + 500)
    return build_manifest(root)


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no disk: no test cuts the power."""
    monkeypatch.setattr("trainers.data.mapped.os.fsync", lambda _: None)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Return 12 tiny photos to train on and 6 to validate."""
    return made(tmp_path / "photos")


def n_bytes(split: Split, scale: Scale) -> int:
    """Count the bytes of a map's pixels."""
    return {TRAIN: N_TRAIN, VALID: N_VALID}[split] * 3 * scale.edge**2


def kept(root: Path) -> list[str]:
    """Name all maps."""
    return [path.name for path in map_files(root)]


def sizes(root: Path) -> int:
    """Count the bytes of all maps."""
    return sum(path.stat().st_size for path in map_files(root))


def test_what_exceeds_the_limit_is_refused_in_a_sentence(
    tmp_path: Path, manifest: Manifest
) -> None:
    """From the first on, what fits is kept; of the rest it is said once that it is not."""
    said: list[str] = []
    limit = n_bytes(TRAIN, TWO)  # which itself is left out, to the good of three smaller ones
    cache = Cache(tmp_path / "cache", manifest, limit=limit, say=said.append)
    wanted = [(TRAIN, ONE), (VALID, ONE), (VALID, TWO), (TRAIN, TWO), (TRAIN, BIG)]
    cache.prepare(wanted)
    assert kept(tmp_path / "cache") == [
        "train-1-cut.pixels",
        "valid-1-cut.pixels",
        "valid-2-cut.pixels",
    ]
    assert len(said) == 1
    assert "2, 40 px" in said[0]
    for view in wanted:
        assert (cache.get(*view) is None) == (view in wanted[3:])
    assert len(said) == 1


def test_without_any_room_nothing_is_kept(tmp_path: Path, manifest: Manifest) -> None:
    """A limit of nothing gives no map, with a sentence for what was asked and none twice."""
    said: list[str] = []
    cache = Cache(tmp_path / "cache", manifest, limit=0, say=said.append)
    for _ in range(2):
        assert cache.get(VALID, ONE) is None
    assert len(said) == 1
    assert kept(tmp_path / "cache") == []


@pytest.mark.parametrize("scale", [ONE, TWO, Scale(1, squeeze=False, cut=False)])
def test_the_limit_is_kept_to_the_byte(tmp_path: Path, manifest: Manifest, scale: Scale) -> None:
    """A map that needs just the limit is kept, one that needs a byte more is not."""
    size = 3 * N_TRAIN * scale.edge**2
    for limit in (size - 1, size):
        root = tmp_path / str(limit)
        assert (Cache(root, manifest, limit=limit).get(TRAIN, scale) is None) == (limit < size)


def test_by_default_half_of_the_free_disk_is_the_limit(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept already counts as free, so that half means the same each time."""
    size = n_bytes(TRAIN, TWO)

    class Disk:
        free = 2 * size

    monkeypatch.setattr("trainers.data.cache.shutil.disk_usage", lambda _: Disk)
    cache = Cache(tmp_path / "cache", manifest)
    assert cache.get(TRAIN, TWO) is not None
    used = sizes(tmp_path / "cache")
    Disk.free = used + 2 * n_bytes(VALID, TWO) - 1
    assert cache.get(VALID, TWO) is None
    Disk.free += 1
    assert Cache(tmp_path / "cache", manifest).get(VALID, TWO) is not None


def test_maps_of_other_manifests_make_room_the_longest_unused_first(
    tmp_path: Path, manifest: Manifest
) -> None:
    """As few as are needed go; those of the manifest itself stay, and so does what is in use."""
    root = tmp_path / "cache"
    others = [made(tmp_path / f"others{number}", 1000 * number) for number in (1, 2, 3)]
    caches = [Cache(root, other) for other in others]
    for cache in caches:
        cache.prepare([(TRAIN, TWO)])
    Cache(root, manifest).prepare([(VALID, TWO)])
    before = map_files(root)
    paths = [next((root / other.digest[:16]).glob("*.pixels")) for other in others]
    for path, age in zip(paths, (200, 300, 100), strict=True):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age))
    limit = sizes(root) - paths[1].stat().st_size + n_bytes(TRAIN, TWO)
    found = Cache(root, manifest, limit=limit).get(TRAIN, TWO)
    assert found is not None
    assert set(before) - set(map_files(root)) == {paths[1]}
    mapped = caches[1].get(TRAIN, TWO)
    assert mapped is not None
    assert mapped.photo(0).tolist() == [[[*mapped.photo(0)[0, 0]]] * 2] * 2


def test_using_a_map_makes_it_young(tmp_path: Path, manifest: Manifest) -> None:
    """Opening a map counts as its use, so that it is not the first to go."""
    root = tmp_path / "cache"
    Cache(root, manifest).prepare([(TRAIN, TWO)])
    (path,) = map_files(root)
    os.utime(path, (0, 0))
    Cache(root, manifest).prepare([(TRAIN, TWO)])
    assert path.stat().st_mtime > 0


def test_nothing_is_dropped_in_vain(tmp_path: Path, manifest: Manifest) -> None:
    """Where even all other maps are not enough, they stay."""
    root = tmp_path / "cache"
    Cache(root, made(tmp_path / "others", 1000)).prepare([(TRAIN, TWO), (VALID, TWO)])
    limit = n_bytes(TRAIN, BIG) - 1
    assert Cache(root, manifest, limit=limit).get(TRAIN, BIG) is None
    assert len(kept(root)) == 2


@pytest.mark.parametrize("depth", [0, 1])
def test_a_folder_that_cannot_be_written(tmp_path: Path, manifest: Manifest, depth: int) -> None:
    """With a file in its place there is no map, one sentence says why, and no error comes of it."""
    place = (tmp_path / "cache", tmp_path / "cache" / manifest.digest[:16])[depth]
    place.parent.mkdir(exist_ok=True)
    place.write_text("mine")
    said: list[str] = []
    cache = Cache(tmp_path / "cache", manifest, say=said.append)
    for _ in range(2):
        assert cache.get(TRAIN, TWO) is None
    assert len(said) == 1
    assert str(place) in said[0]
    assert said[0].isprintable()
    assert place.read_text() == "mine"


@pytest.mark.parametrize("index", [0, 7, N_TRAIN - 1])
@pytest.mark.parametrize("change", ["deleted", "truncated", "other", "no photo", "unreadable"])
def test_a_photo_that_is_no_longer_what_it_was(
    tmp_path: Path, manifest: Manifest, change: str, index: int
) -> None:
    """A photo that changed since the manifest was made is a DatasetError that names it."""
    path = manifest.root / manifest.of_split(TRAIN)[index].path
    content = path.read_bytes()
    path.unlink()
    if change == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif change == "other":
        path.write_bytes((manifest.root / manifest.of_split(VALID)[0].path).read_bytes())
    elif change == "no photo":
        path.write_bytes(b"no photo")
    elif change == "unreadable":
        path.mkdir()
    said: list[str] = []
    cache = Cache(tmp_path / "cache", manifest, say=said.append)
    with pytest.raises(DatasetError) as error:
        cache.prepare([(TRAIN, ONE), (TRAIN, TWO)])
    assert str(path) in str(error.value)
    assert str(error.value).isprintable()
    assert said == []
    assert kept(tmp_path / "cache") == []
    assert cache.get(VALID, TWO) is not None
