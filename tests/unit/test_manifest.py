"""The manifest: what is refused, one digest over the rest, and what changed since."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_photos import csv_file, fill, photo, refused
from trainers.data import verify
from trainers.data.manifest import Manifest, Split, build_manifest, differences

SPLIT = ("train/roses", "train/tulips", "val/roses", "val/tulips")
PLAIN = ("roses", "tulips")


def test_a_folder_per_class(tmp_path: Path) -> None:
    """Without splits, photos at any depth are split 60/20/20 and everything is in order."""
    fill(tmp_path, ["tulips", "roses/red/dark"])
    manifest = build_manifest(tmp_path)
    assert manifest.root == tmp_path
    assert manifest.classes == ("roses", "tulips")
    assert [p.path for p in manifest.photos] == sorted(p.path for p in manifest.photos)
    assert manifest.photos[0].path == "roses/red/dark/0.png"
    assert manifest.photos[0].size == (tmp_path / "roses/red/dark/0.png").stat().st_size
    assert manifest.left_out == ()
    for split, share in zip(Split, (3, 1, 1), strict=True):
        assert manifest.labels(split).tolist() == [0] * share + [1] * share
        assert manifest.labels(split).dtype == np.int64


def test_empty_classes(tmp_path: Path) -> None:
    """A class folder without photos is refused, also if they all are unreadable or left out."""
    fill(tmp_path, PLAIN, 30)
    (tmp_path / "lilies").mkdir()
    assert "class 'lilies' has no photos;" in refused(tmp_path)
    (tmp_path / "lilies/note.txt").write_text("no photo")
    assert "class 'lilies' has no photos;" in refused(tmp_path)
    (tmp_path / "lilies/a.jpg").write_text("no photo")
    assert "no photos (1 left out, such as 'lilies/a.jpg' (not an image))" in refused(tmp_path)


def test_few_distinct_photos(tmp_path: Path) -> None:
    """A class of less than 3 distinct photos cannot be split."""
    fill(tmp_path, PLAIN)
    for name in "abcd":
        photo(tmp_path / "lilies" / f"{name}.png", ord(name) % 2)
    assert "class 'lilies' must have at least 3 distinct photos" in refused(tmp_path)


@pytest.mark.parametrize(("name", "word"), [("none", "does not exist"), ("a.txt", "neither")])
def test_sources_that_are_no_data(tmp_path: Path, name: str, word: str) -> None:
    """A path that leads nowhere, and a file that is no CSV."""
    (tmp_path / "a.txt").write_text("path,label\n")
    text = refused(tmp_path / name)
    assert word in text
    assert name in text


def test_unreadable_photos(tmp_path: Path) -> None:
    """Up to 5 % unreadable photos are listed with the reason; with more, none is used."""
    fill(tmp_path, PLAIN, 20)
    (tmp_path / "roses/0.png").write_bytes(b"")
    (tmp_path / "tulips/[red]\x1b.png").write_bytes(b"no photo")
    manifest = build_manifest(tmp_path)
    assert [(e.path, e.reason) for e in manifest.left_out] == [
        ("roses/0.png", "empty file"),
        ("tulips/[red]\x1b.png", "not an image"),
    ]
    assert len(manifest.photos) == 39
    (tmp_path / "roses/1.png").write_bytes(b"")
    text = refused(tmp_path)
    assert "3 of 41 photos cannot be read, more than 5%" in text
    assert "'tulips/[red]\\x1b.png' (not an image)" in text


def test_the_digest_is_of_the_contents(tmp_path: Path) -> None:
    """Neither the place, the order of listing nor what is left out changes the digest."""
    first = build_manifest(fill(tmp_path / "first", PLAIN, 20))
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    (tmp_path / "second/roses/broken.png").touch()
    second = build_manifest(tmp_path / "second")
    assert first != second
    assert first.digest == second.digest
    assert len(first.digest) == 64
    photo(tmp_path / "second/roses/0.png", 999)
    assert build_manifest(tmp_path / "second").digest != first.digest


def test_listing_order_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest is the same on a file system that lists names the other way round."""
    fill(tmp_path, [*PLAIN, "roses/deep"])
    manifest = build_manifest(tmp_path)
    scandir = os.scandir

    class Backwards:
        def __init__(self, path: str) -> None:
            with scandir(path) as listing:
                self.entries = sorted(listing, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    assert build_manifest(tmp_path) == manifest


def test_json_gives_the_manifest_back(tmp_path: Path) -> None:
    """JSON holds all but the root, and another version of it is refused."""
    fill(tmp_path, PLAIN, 20)
    (tmp_path / "roses/0.png").write_bytes(b"")
    manifest = build_manifest(tmp_path)
    text = manifest.to_json()
    assert str(tmp_path) not in text
    again = Manifest.from_json(text, Path("/elsewhere"))
    assert again.root == Path("/elsewhere")
    assert (again.photos, again.left_out) == (manifest.photos, manifest.left_out)
    assert again.digest == manifest.digest
    with pytest.raises(ValueError, match="version of the manifest must be 1 to 4, got 5"):
        Manifest.from_json(json.dumps({**json.loads(text), "version": 5}), tmp_path)


def test_known_photos_are_not_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only contents that an earlier manifest does not know are decoded, also after a rename."""
    fill(tmp_path, PLAIN)
    known = build_manifest(tmp_path)
    (tmp_path / "roses/0.png").rename(tmp_path / "roses/renamed.png")
    photo(tmp_path / "roses/new.png", 500)
    decoded: list[str] = []
    monkeypatch.setattr(verify, "read_photo", lambda path, _: decoded.append(path.name))
    assert len(build_manifest(tmp_path, known=known).photos) == 11
    assert decoded == ["new.png"]


def test_progress_counts_every_file(tmp_path: Path) -> None:
    """Progress is told once a file, up to all of them."""
    told: list[tuple[int, int]] = []
    build_manifest(fill(tmp_path, PLAIN), progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 10) for done in range(1, 11)]


def test_an_interrupt_stops_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle gets out, and the photos in the queue are not read first."""

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    decoded: list[Path] = []

    def decode(path: Path, _: int) -> None:
        decoded.append(path)
        time.sleep(0.01)

    monkeypatch.setattr(verify, "read_photo", decode)
    monkeypatch.setattr(verify, "usable_cpus", lambda: 2)
    with pytest.raises(KeyboardInterrupt):
        build_manifest(fill(tmp_path, PLAIN, 50), progress=interrupt)
    assert len(decoded) < 50


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system refuses to open is one sentence too."""
    fill(tmp_path, PLAIN)

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert f"cannot read '{tmp_path}/' (Permission denied)" in refused(tmp_path)


def test_files_that_vanish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo that is deleted after it was found counts as unreadable."""
    fill(tmp_path, PLAIN, 20)

    def vanish(path: Path, _: int) -> None:
        if path.name == "7.png" and path.parent.name == "roses":
            path.open("rb").close()
            path.unlink()
            path.open("rb")

    monkeypatch.setattr(verify, "read_photo", vanish)
    manifest = build_manifest(tmp_path)
    assert [(e.path, e.reason) for e in manifest.left_out] == [
        ("roses/7.png", "No such file or directory")
    ]


def test_differences(tmp_path: Path) -> None:
    """What changed is counted, with a few names; what is equal is not worth a word."""
    old = build_manifest(fill(tmp_path, SPLIT))
    assert differences(old, build_manifest(tmp_path)) == ""
    for index in range(10, 14):
        photo(tmp_path / "train/roses" / f"{index}.png", 500 + index)
    (tmp_path / "val/tulips/0.png").unlink()
    photo(tmp_path / "train/tulips/3.png", 600)
    assert differences(old, build_manifest(tmp_path)) == (
        "4 photos added ('train/roses/10.png', 'train/roses/11.png', 'train/roses/12.png', ...), "
        "1 removed ('val/tulips/0.png'), 1 changed ('train/tulips/3.png')"
    )


def test_differences_of_splits_and_classes(tmp_path: Path) -> None:
    """Photos that stayed but moved to another split or class are told, and the new classes."""
    fill(tmp_path, PLAIN)
    rows = ["TRAIN,roses/0.png,roses", "TRAIN,roses/1.png,roses", "VALIDATION,roses/2.png,roses"]
    rows += ["TRAIN,tulips/0.png,tulips", "VALIDATION,tulips/1.png,tulips"]
    old = build_manifest(csv_file(tmp_path, "\n".join(rows)))
    rows[1] = "VALIDATION,roses/1.png,roses"
    rows[2] = "VALIDATION,roses/2.png,lilies"
    rows += ["TRAIN,roses/3.png,lilies"]
    new = build_manifest(csv_file(tmp_path, "\n".join(rows)))
    assert differences(old, new) == (
        "1 photo added ('roses/3.png'), 1 moved to another split ('roses/1.png'), "
        "1 moved to another class ('roses/2.png'), classes now 'lilies', 'roses', 'tulips'"
    )
