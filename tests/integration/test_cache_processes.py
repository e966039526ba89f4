"""Processes that share a cache: they decode photos once in sum, and trust nothing half-built."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainers.data.cache import Cache, map_files
from trainers.data.manifest import Manifest, Split, build_manifest
from trainers.data.pixels import check_pixels
from trainers.data.scale import Scale, read_at

SCALES = [Scale(edge, squeeze=False, cut=True) for edge in (8, 30)]
N_PHOTOS = 160

BUILDER = """
import hashlib, os, sys, threading, time
from pathlib import Path
from trainers.data import scale
from trainers.data.cache import Cache
from trainers.data.manifest import Manifest, Split
from trainers.data.scale import Scale

root, folder, marks, stop = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
manifest = Manifest.from_json(Path(sys.argv[5]).read_text(), root)
read_photo, lock = scale.read_photo, threading.Lock()
marks = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def marking(path, reduction):
    os.write(marks, f"{os.getpid()} {path}\\n".encode())
    time.sleep(0.001)  # so that others have the time to do the same, if they may
    return read_photo(path, reduction)

def stopping(done, of):
    if done == stop:
        print("stopped", flush=True)
        time.sleep(1000)

scale.read_photo = marking
print("ready", flush=True)
sys.stdin.readline()
cache = Cache(folder, manifest, say=lambda sentence: print(sentence, file=sys.stderr))
scales = [Scale(edge, squeeze=False, cut=True) for edge in (8, 30)]
cache.prepare([(Split.TRAIN, scale) for scale in scales], stopping)
maps = [cache.get(Split.TRAIN, scale).values for scale in scales]
print(hashlib.sha256(b"".join(values.tobytes() for values in maps)).hexdigest(), flush=True)
"""
"""Notes each photo that it decodes in a file; waits for a line before it begins."""


class Builder:
    """A process that asks a cache for maps."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert self.line() == "ready"

    def line(self) -> str:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def begin(self) -> None:
        """Let it ask for the maps."""
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)


@contextmanager
def builder(folder: Path, manifest: Manifest, stop: int = 0) -> Iterator[Builder]:
    """Start a process that stands still after so many photos; it ends whatever happens."""
    about = folder.with_suffix(".json")
    about.write_text(manifest.to_json())
    command = [sys.executable, "-c", BUILDER, *map(str, [manifest.root, folder])]
    command += [str(folder.with_suffix(".marks")), str(stop), str(about)]
    with subprocess.Popen(
        command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield Builder(process)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Return 160 photos of noise to train on."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for index in range(N_PHOTOS + 2):
        split = "train" if index < N_PHOTOS else "valid"
        path = root / split / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = random.integers(0, 256, (30, 30 + index % 5, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path, compress_level=0)
    return build_manifest(root)


def decoded(folder: Path) -> list[list[str]]:
    """Return the processes that decoded photos, and which."""
    lines = folder.with_suffix(".marks").read_text().splitlines()
    return [line.split(maxsplit=1) for line in lines]


def decoded_all(folder: Path, builder: Builder) -> bool:
    """Whether a process decoded each photo, and none of them twice."""
    return [int(pid) for pid, _ in decoded(folder)].count(builder.process.pid) == N_PHOTOS


def check(folder: Path, manifest: Manifest) -> None:
    """Check that each photo is there as it is without a cache, and nothing is left over."""
    said: list[str] = []
    cache = Cache(folder, manifest, say=said.append)
    for scale in SCALES:
        pixels = cache.get(Split.TRAIN, scale)
        assert pixels is not None
        for index, photo in enumerate(manifest.of_split(Split.TRAIN)):
            (expected,) = read_at(manifest.root / photo.path, [scale])
            assert (pixels.photo(index) == expected).all()
    for path in map_files(folder):
        check_pixels(path)
    assert said == []
    names = {path.name for path in (folder / manifest.digest[:16]).iterdir()}
    assert names - {"lock"} == {"train-8-cut.pixels", "train-30-cut.pixels"}


def test_two_processes_decode_each_photo_once_in_sum(tmp_path: Path, manifest: Manifest) -> None:
    """Of two that ask for the same at the same moment one decodes, and both have the same."""
    folder = tmp_path / "cache"
    with builder(folder, manifest) as one, builder(folder, manifest) as other:
        one.begin()
        other.begin()
        digests = {one.line(), other.line()}
    assert len(digests) == 1
    assert len(digests.pop()) == 64
    assert sorted(photo for _, photo in decoded(folder)) == sorted(
        str(manifest.root / photo.path) for photo in manifest.of_split(Split.TRAIN)
    )
    check(folder, manifest)


@pytest.mark.parametrize(
    "stop", [100, *(pytest.param(stop, marks=pytest.mark.long) for stop in (1, N_PHOTOS))]
)
def test_what_a_killed_builder_left_is_not_trusted(
    tmp_path: Path, manifest: Manifest, stop: int
) -> None:
    """Killed after the first, in the middle or after the last photo: the next builds it all."""
    folder = tmp_path / "cache"
    with builder(folder, manifest, stop) as killed:
        killed.begin()
        assert killed.line() == "stopped"
        killed.process.kill()
        killed.process.wait()
    left = list((folder / manifest.digest[:16]).glob(".*.tmp"))
    assert len(left) == len(SCALES)
    assert map_files(folder) == []
    with builder(folder, manifest) as following:
        following.begin()
        assert len(following.line()) == 64
    assert decoded_all(folder, following)
    check(folder, manifest)


def test_a_process_that_waits_for_a_killed_builder_goes_on(
    tmp_path: Path, manifest: Manifest
) -> None:
    """When a builder dies, a process that waited takes its place and decodes the rest."""
    folder = tmp_path / "cache"
    with builder(folder, manifest, stop=70) as killed, builder(folder, manifest) as waiting:
        killed.begin()
        assert killed.line() == "stopped"
        waiting.begin()
        killed.process.kill()
        assert len(waiting.line()) == 64
    assert decoded_all(folder, waiting)
    check(folder, manifest)
