"""Files that are small or endless, and would take all memory or time: named, and left alone."""

import os
import resource
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from study.config.loading import read_toml
from study.deployment.photos import find_photos
from study.errors import ConfigError
from trainers.card import read_card
from trainers.data import room as room_module
from trainers.data.photo import MAX_BYTES, MAX_PIXELS, MAX_SIDE, read_photo
from trainers.data.room import Room
from trainers.data.verify import read_all
from trainers.errors import NotOurWeights, UnreadablePhoto

GIGA = 1 << 30


def chunk(kind: bytes, content: bytes) -> bytes:
    """Make a chunk of a PNG."""
    check = zlib.crc32(kind + content).to_bytes(4, "big")
    return len(content).to_bytes(4, "big") + kind + content + check


def strip(path: Path) -> None:
    """Write a PNG of one line of 178 million pixels."""
    header = (178_000_000).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"\x08\x00\0\0\0"
    line = zlib.compress(bytes(178_000_001), 9)
    signature = b"\x89PNG\r\n\x1a\n"
    path.write_bytes(
        signature + chunk(b"IHDR", header) + chunk(b"IDAT", line) + chunk(b"IEND", b"")
    )


def tail(path: Path) -> None:
    """Write a JPEG with 3 GB behind it, which take no room on the disk."""
    Image.new("RGB", (8, 8)).save(path, "JPEG")
    os.truncate(path, 3 * GIGA)


def comment(path: Path) -> None:
    """Write a PPM whose header is a comment of 50 MB."""
    path.write_bytes(b"P6\n#" + b"x" * 50_000_000 + b"\n1 1 255\n\0\0\0")


def text(path: Path) -> None:
    """Write a PNG whose compressed text is 200 MB long."""
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "x" * 200_000_000, zip=True)
    Image.new("RGB", (8, 8)).save(path, "PNG", pnginfo=info)


def sparse(path: Path) -> None:
    """Write a lossless WebP of 13,377 x 13,377 pixels of one colour, in 34 bytes."""
    small = BytesIO()
    Image.new("RGB", (8, 8)).save(small, "WEBP", lossless=True)
    content = bytearray(small.getvalue())
    sides = content.index(b"VP8L") + 9  # 14 bits each, after the length and a signature
    bits = int.from_bytes(content[sides : sides + 4], "little") & ~0xFFFFFFF
    content[sides : sides + 4] = (bits | 13_376 | 13_376 << 14).to_bytes(4, "little")
    path.write_bytes(content)


BOMBS: dict[str, Callable[[Path], None]] = {
    "strip.png": strip,
    "tail.jpg": tail,
    "comment.ppm": comment,
    "text.png": text,
    "sparse.webp": sparse,
    "pipe.png": lambda path: os.mkfifo(path),
    "zero.png": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("text.png", "pipe.png") else pytest.mark.long)
        for name in BOMBS
    ],
)
def test_a_bomb_is_named_and_takes_no_memory(tmp_path: Path, name: str) -> None:
    """A process reads it as a search does, in half a GB; the photo beside it counts."""
    BOMBS[name](tmp_path / name)
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    program = (
        "import re, sys; from pathlib import Path;"
        "from trainers.data.verify import read_all;"
        "found = list(read_all([Path(p) for p in sys.argv[1:]], ()));"
        "print([bool(each.trouble) for each in found], "
        # Not ru_maxrss, which a process has from the one that started it.
        r"re.search(r'VmHWM:\s*(\d+)', Path('/proc/self/status').read_text())[1])"
    )
    paths = [str(tmp_path / name), str(tmp_path / "good.png")]
    done = subprocess.run(
        [sys.executable, "-c", program, *paths],
        capture_output=True, text=True, timeout=60, check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 * GIGA, 4 * GIGA)),
    )  # fmt: skip
    troubles, _, kilobytes = done.stdout.rpartition(" ")
    assert troubles == "[True, False]"
    assert int(kilobytes) < GIGA // 2 >> 10


@pytest.mark.parametrize("size", [(MAX_SIDE + 1, 1), (1, MAX_SIDE + 1)])
def test_a_side_is_bounded_by_the_header(tmp_path: Path, size: tuple[int, int]) -> None:
    """One pixel more is refused in a few words."""
    Image.new("L", size).save(tmp_path / "long.png")
    with pytest.raises(UnreadablePhoto, match="a side of more than 65535"):
        read_photo(tmp_path / "long.png")
    Image.new("L", (MAX_SIDE, 1)).save(tmp_path / "fits.png")
    assert read_photo(tmp_path / "fits.png").size == (MAX_SIDE, 1)


def test_bounds_leave_room_for_the_largest_photo() -> None:
    """What may be read at all can also be held: as it lies, and with four numbers a pixel."""
    assert 4 * MAX_PIXELS < MAX_BYTES


def test_a_comment_that_is_short_is_no_matter(tmp_path: Path) -> None:
    """Netpbm files of other programs have some; one may also lack what follows a bitmap's size."""
    (tmp_path / "a.ppm").write_bytes(b"P6\n# by a program\n1 1 # wide\n255\n\1\2\3" + bytes(9000))
    (tmp_path / "b.pbm").write_bytes(b"P4\n# by a program\n256 400\n" + bytes(12_800))
    assert np.asarray(read_photo(tmp_path / "a.ppm")).tolist() == [[[1, 2, 3]]]
    assert read_photo(tmp_path / "b.pbm").size == (256, 400)


def test_no_more_is_decoded_at_a_time_than_there_is_room() -> None:
    """Of ten threads that need 40 of 100, two are in at a time; one that needs 300 gets all."""
    room, lock, inside, most = Room(100), threading.Lock(), 0, 0

    def work(needed: int) -> None:
        nonlocal inside, most
        with room.taken(needed):
            with lock:
                inside += min(needed, 100)
                most = max(most, inside)
            threading.Event().wait(0.01)
            with lock:
                inside -= min(needed, 100)

    threads = [threading.Thread(target=work, args=(n,)) for n in [40] * 10 + [300]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert 0 < most <= 100


def test_processes_that_share_the_room_let_the_largest_in_one_by_one() -> None:
    """What fits into a share does not wait; what does not fit holds the lock of all."""
    lock, room = threading.Lock(), Room(100)
    room.share(4, lock)
    with room.taken(25):
        assert not lock.locked()
    with room.taken(26):
        assert lock.locked()


@pytest.mark.parametrize(
    ("free", "size"), [(100 * GIGA, 4 * GIGA), (3 * GIGA, 3 * GIGA // 2), (0, GIGA // 4)]
)
def test_the_room_is_half_of_what_the_process_may_take(
    monkeypatch: pytest.MonkeyPatch, free: int, size: int
) -> None:
    """At most 4 GiB, and enough for an ordinary photo where nothing seems to be left."""
    monkeypatch.setattr(room_module, "usable_memory", lambda: free)
    assert room_module.size_of_room() == size


def test_each_share_is_one_of_the_whole() -> None:
    """A process that is told twice how many share the room does not halve its share twice."""
    room = Room(100)
    for _ in range(2):
        room.share(4, lock := threading.Lock())
    with room.taken(25):
        assert not lock.locked()


def test_a_fifo_among_the_data_is_told(tmp_path: Path) -> None:
    """It is not waited for."""
    os.mkfifo(tmp_path / "a.png")
    assert [each.trouble for each in read_all([tmp_path / "a.png"], ())] == ["not a regular file"]


def test_a_file_of_no_photo_s_size_is_not_even_hashed(tmp_path: Path) -> None:
    """Its 3 GB would be read first; so neither hash nor size is known of it."""
    tail(tmp_path / "a.jpg")
    (found,) = read_all([tmp_path / "a.jpg"], ())
    assert (found.sha256, found.trouble) == ("", "3.2 GB, more than a photo has")


def test_predict_follows_no_link_out_of_a_folder(tmp_path: Path) -> None:
    """One to / would have it walk the machine; the folder itself may be one."""
    for folder in ("photos/a", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x.png").touch()
    (tmp_path / "photos" / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "root").symlink_to("/")
    (tmp_path / "linked").symlink_to(tmp_path / "photos")
    for given in ("photos", "linked"):
        found = find_photos([str(tmp_path / given)])
        assert [path.relative_to(tmp_path / given) for path in found] == [Path("a/x.png")]


@pytest.mark.parametrize("place", ["/dev/zero", "fifo"])
def test_settings_are_read_from_files_alone(tmp_path: Path, place: str) -> None:
    """What never ends, or never begins, is a mistake told in a sentence."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="is not a regular file; give a TOML file"):
        read_toml(tmp_path / place, "config")
    with pytest.raises(NotOurWeights, match="is not a regular file"):
        read_card(tmp_path / place)
