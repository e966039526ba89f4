"""A file of decoded photos: it gives what was put in, or is found to be broken."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trainers.data.mapped import BrokenMap, read_about
from trainers.data.pixels import (
    _MAGIC,
    FORMAT,
    Pixels,
    PixelsWriter,
    View,
    check_pixels,
    in_memory,
    open_pixels,
)
from trainers.data.scale import Scale
from trainers.data.sources import Split

VIEW = View("0123456789abcdef" * 4, Split.TRAIN, Scale(4, squeeze=False, cut=False))
SHAPES = [(1, 1), (3, 2), (2, 7), (4, 4)]
N_PIXELS = 3 * sum(height * width for height, width in SHAPES)


def photos() -> list[NDArray[np.uint8]]:
    """Make photos of noise, each of another size."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in SHAPES]


def written(path: Path) -> Path:
    """Write the photos into a file."""
    writer = PixelsWriter(path, VIEW)
    for photo in photos():
        writer.add(photo)
    writer.finish()
    return path


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the contents of a file that is whole."""
    return written(tmp_path_factory.mktemp("whole") / VIEW.name).read_bytes()


@pytest.fixture
def path(tmp_path: Path, content: bytes) -> Path:
    """Return a file that is whole."""
    (tmp_path / VIEW.name).write_bytes(content)
    return tmp_path / VIEW.name


def holds_the_photos(pixels: Pixels) -> bool:
    """Whether each photo has the values and the size that it had."""
    found = [pixels.photo(index) for index in range(len(pixels.sizes))]
    return len(found) == len(SHAPES) and all(
        np.array_equal(a, b) for a, b in zip(found, photos(), strict=True)
    )


def refused(path: Path, view: View = VIEW, n_photos: int = len(SHAPES)) -> str:
    """Return the reason for which a file is refused, which is one printable phrase."""
    with pytest.raises(BrokenMap) as error:
        open_pixels(path, view, n_photos, sampled=len(SHAPES))
    assert str(error.value).isprintable()
    return str(error.value)


def footer(about: object, pixels: bytes | None = None) -> bytes:
    """Return the contents of a file that says something about itself."""
    text = about if isinstance(about, bytes) else json.dumps(about).encode()
    body = b"".join(photo.tobytes() for photo in photos()) if pixels is None else pixels
    return body + text + len(text).to_bytes(8, "little") + b"encore pixels\n"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Every photo comes back bit for bit, from the file as from memory, in the same layout."""
    path = written(tmp_path / VIEW.name)
    for sampled in (0, 1, 2, 100):
        assert holds_the_photos(open_pixels(path, VIEW, len(SHAPES), sampled=sampled))
    mapped, held = open_pixels(path, VIEW, len(SHAPES)), in_memory(iter(photos()))
    assert holds_the_photos(held)
    for name in ("values", "sizes", "starts"):
        assert (getattr(mapped, name) == getattr(held, name)).all()
    check_pixels(path)


def test_what_a_file_says_of_itself(path: Path) -> None:
    """Anybody can read what a file holds, without this program's classes."""
    about = read_about(path, _MAGIC)
    assert {name: about[name] for name in ("format", "manifest_digest", "split", "scale")} == {
        "format": FORMAT,
        "manifest_digest": VIEW.manifest_digest,
        "split": "train",
        "scale": {"edge": 4, "squeeze": False, "cut": False},
    }
    assert about["bytes"] == N_PIXELS
    assert about["sizes"] == [list(shape) for shape in SHAPES]


def test_changing_what_is_mapped_leaves_the_file_alone(path: Path) -> None:
    """A reader that writes into its photos changes no other reader's."""
    open_pixels(path, VIEW, len(SHAPES)).photo(1)[:] = 7
    assert holds_the_photos(open_pixels(path, VIEW, len(SHAPES), sampled=len(SHAPES)))


def test_every_truncation_is_found(path: Path) -> None:
    """A file cut off anywhere, even to nothing, is never read as a whole one."""
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert refused(path)
        with pytest.raises(BrokenMap):
            check_pixels(path)


def test_every_damaged_pixel_is_found(path: Path) -> None:
    """A single bit that flipped, in any byte of the pixels, is found when all are looked at."""
    content = bytearray(path.read_bytes())
    for index in range(N_PIXELS):
        content[index] ^= 1 << index % 8
        path.write_bytes(content)
        content[index] ^= 1 << index % 8
        assert "is damaged" in refused(path)
        with pytest.raises(BrokenMap, match="is damaged"):
            check_pixels(path)


def test_damage_of_what_is_said_never_gives_wrong_photos(path: Path) -> None:
    """A flipped bit after the pixels is found, or the photos are right all the same."""
    content = bytearray(path.read_bytes())
    found = 0
    for index in range(N_PIXELS, len(content)):
        content[index] ^= 1 << index % 8
        path.write_bytes(content)
        content[index] ^= 1 << index % 8
        try:
            assert holds_the_photos(open_pixels(path, VIEW, len(SHAPES), sampled=len(SHAPES)))
        except BrokenMap:
            found += 1
    assert found > 0.95 * (len(content) - N_PIXELS)


def test_first_and_last_photo_are_always_looked_at(path: Path) -> None:
    """Damage at either end is found even if one photo is sampled, and all of it in time."""
    content = path.read_bytes()
    for index in (0, N_PIXELS - 1):
        damaged = bytearray(content)
        damaged[index] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(BrokenMap):
            open_pixels(path, VIEW, len(SHAPES), sampled=1)
    damaged = bytearray(content)
    damaged[4] ^= 1  # of the second photo
    path.write_bytes(damaged)
    found = 0
    for _ in range(200):
        with suppress(BrokenMap):
            open_pixels(path, VIEW, len(SHAPES), sampled=1)
            found -= 1
        found += 1
    assert 0 < found < 200


@pytest.mark.parametrize(
    "view",
    [
        View("f" * 64, VIEW.split, VIEW.scale),
        View(VIEW.manifest_digest[:16] + "f" * 48, VIEW.split, VIEW.scale),
        View(VIEW.manifest_digest, Split.VALID, VIEW.scale),
        View(VIEW.manifest_digest, VIEW.split, Scale(5, squeeze=False, cut=False)),
        View(VIEW.manifest_digest, VIEW.split, Scale(4, squeeze=True, cut=False)),
        View(VIEW.manifest_digest, VIEW.split, Scale(4, squeeze=False, cut=True)),
    ],
)
def test_photos_of_another_view_are_refused(path: Path, view: View) -> None:
    """Another manifest, split or scale is never returned for the requested one."""
    assert refused(path, view) == "it holds other photos"
    if view.manifest_digest == VIEW.manifest_digest:
        assert view.name != VIEW.name


@pytest.mark.parametrize("n_photos", [0, 3, 5])
def test_another_number_of_photos_is_refused(path: Path, n_photos: int) -> None:
    """A file with more or fewer photos than the manifest has is not used."""
    assert refused(path, n_photos=n_photos) == f"it holds 4 photos instead of {n_photos}"


def about(**changed: Any) -> dict[str, Any]:
    """Say what a whole file would say, but for what is changed; None leaves it out."""
    whole = {**VIEW.to_dict(), "sizes": SHAPES, "hashes": ["0" * 16] * 4, **changed}
    return {name: value for name, value in whole.items() if value is not None}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n" + bytes(500),
        b"encore pixels\n",
        bytes(8) + b"encore pixels\n",
        b"\xff" * 8 + b"encore pixels\n",
        footer(b""),
        footer(b"no JSON"),
        footer(b"\xff\xfe"),
        footer(b"[" * 100_000),
        footer([]),
        footer(None),
        footer({}),
        footer(about(format=FORMAT + 1)),
        footer(about(format=None)),
        footer(about(sizes=None)),
        footer(about(hashes=None)),
        footer(about(hashes=3)),
        footer(about(hashes=["0" * 16] * 3)),
        footer(about(sizes=[], hashes=[]), b""),
        footer(about(sizes=[[0, 5]] * 4), b""),
        footer(about(sizes=[[-1, -1]] * 4), bytes(12)),
        footer(about(sizes=[[2**19, 2**19]] * 4)),
        footer(about(sizes=[[2**40, 2**40]] * 4)),
        footer(about(sizes=[[2**62, 4]] * 4), b""),
        footer(about(sizes=[[10**30, 1]] * 4)),
        footer(about(sizes=[[1, 2, 3]] * 4)),
        footer(about(sizes=[1, 2, 3])),
        footer(about(sizes=[[1, 2], [3]])),
        footer(about(sizes=[["a", "b"]] * 4)),
        footer(about(sizes=[[float("nan"), 1]] * 4)),
        footer(about(sizes={"a": 1})),
        footer(about(sizes="7")),
        footer(about(bytes=0)),
        footer(about()),
        footer(about(), bytes(7)),
        b"x" + footer(about()),
    ],
)
def test_foreign_and_absurd_files_are_refused(path: Path, content: bytes) -> None:
    """Whatever lies under the name, the answer is that it is broken, and no other exception."""
    path.write_bytes(content)
    assert refused(path)
    with pytest.raises(BrokenMap):
        check_pixels(path)


def test_folders_and_missing_files_are_refused(tmp_path: Path) -> None:
    """What is no file is broken too."""
    assert refused(tmp_path)
    assert refused(tmp_path / "none")


def test_nothing_is_visible_before_it_is_whole(tmp_path: Path) -> None:
    """Until finish, only a hidden file is there, which is never found by its ending."""
    path = tmp_path / VIEW.name
    writer = PixelsWriter(path, VIEW)
    for photo in photos():
        writer.add(photo)
        assert [entry.name[0] for entry in tmp_path.iterdir()] == ["."]
        assert not list(tmp_path.glob("*.pixels"))
    writer.finish()
    assert list(tmp_path.iterdir()) == [path]


def test_abandoning_leaves_nothing(path: Path) -> None:
    """A writer that gives up removes what it wrote, and leaves an older file as it was."""
    writer = PixelsWriter(path, VIEW)
    writer.add(photos()[0])
    writer.abandon()
    assert list(path.parent.iterdir()) == [path]
    assert holds_the_photos(open_pixels(path, VIEW, len(SHAPES)))


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """Refuse to let this process's files grow any larger, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """What cannot be written is an OSError; abandoning is none, and still removes the file."""
    writer = PixelsWriter(tmp_path / VIEW.name, VIEW)
    with files_of_at_most(100):
        for photo in photos():  # still in the buffer
            writer.add(photo)
        with pytest.raises(OSError, match="too large"):
            writer.finish()
        writer.abandon()
    assert list(tmp_path.iterdir()) == []
