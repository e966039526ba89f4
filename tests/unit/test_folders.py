"""Photos in folders: every layout, odd names, links, and what is passed over."""

import os
from pathlib import Path

import pytest

from tests.tiny_photos import fill, photo, refused
from trainers.data.manifest import Manifest, Split, build_manifest

SPLIT = ("train/roses", "train/tulips", "val/roses", "val/tulips")
PLAIN = ("roses", "tulips")


@pytest.mark.parametrize("valid", ["valid", "val", "VALIDATION"])
def test_folders_per_split(tmp_path: Path, valid: str) -> None:
    """Split folders go by their usual names in any case; what is beside them is told."""
    fill(tmp_path, ["Train/roses", "Train/tulips", f"{valid}/roses", f"{valid}/tulips"])
    fill(tmp_path, ["Test/roses/deep", "Test/tulips"], start=1000)
    fill(tmp_path, ["models"])
    manifest = build_manifest(tmp_path)
    assert {p.path.split("/")[0]: p.split for p in manifest.photos} == {
        "Train": Split.TRAIN,
        valid: Split.VALID,
        "Test": Split.TEST,
    }
    assert len(manifest.of_split(Split.TEST)) == 10
    assert [(e.path, e.reason) for e in manifest.left_out] == [
        ("models", "a folder beside train and valid")
    ]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    """A folder `train` that holds photos and no folders is a class like any other."""
    assert build_manifest(fill(tmp_path, ["train", "bus"])).classes == ("bus", "train")


@pytest.mark.parametrize(
    ("tops", "words"),
    [
        (["train/roses", "train/tulips"], ["'train'", "no folder 'valid'"]),
        (["val/roses", "val/tulips"], ["'val'", "no folder 'train'"]),
        ([*SPLIT, "valid/roses"], ["'val', 'valid'", "one folder per split"]),
        ([*SPLIT, "test/roses"], ["class 'tulips' has no photos in test"]),
        (["train/roses", "train/tulips", "val/roses"], ["class 'tulips'", "in valid"]),
        ([*SPLIT, "test"], ["'test'", "folder per class"]),
        (["roses"], ["at least 2 classes", "'roses'"]),
        (["train/roses", "val/roses"], ["at least 2 classes"]),
        (["."], ["folder of photos per class", "no folders"]),
        ([], ["folder of photos per class", "no folders"]),
        (["a\x1b[31mb", "roses"], ["'a\\x1b[31mb'", "control characters"]),
        (["a\u202eb", "roses"], ["'a\\u202eb'", "control characters"]),
        (["x" * 201, "roses"], ["201 characters", "at most 200"]),
        ([" ", "roses"], ["' '", "empty class name"]),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, tops: list[str], words: list[str]) -> None:
    """Each layout that cannot be meant is one sentence that names the culprit."""
    text = refused(fill(tmp_path, tops))
    assert all(word in text for word in words), text


def test_what_real_folders_hold(tmp_path: Path) -> None:
    """Odd names of photos are fine; hidden, foreign and loose files are passed over in silence."""
    fill(tmp_path, PLAIN)
    names = ["A B.PNG", "ünï çødé 花.png", "new\nline.png", "-rf.png", "a,b'\".png"]
    for number, name in enumerate(names):
        photo(tmp_path / "roses" / name, 500 + number)
    hidden = (".DS_Store.png", "loose.png", ".git/a.png", "__MACOSX/roses/a.png", "roses/.b.png")
    for name in (*hidden, "roses/__MACOSX/a.png"):
        photo(tmp_path / name, 600)
    for name in ("Thumbs.db", "notes.txt", "roses/Thumbs.db", "roses/labels.xml"):
        (tmp_path / name).write_text("x")
    manifest = build_manifest(tmp_path)
    assert {p.path for p in manifest.photos} == {
        *(f"{top}/{index}.png" for top in PLAIN for index in range(5)),
        *(f"roses/{name}" for name in names),
    }
    assert manifest.left_out == ()


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """Names that no text can hold are listed in a spelling that can be printed and stored."""
    fill(tmp_path, PLAIN)
    photo(Path(os.fsdecode(os.fsencode(tmp_path / "roses") + b"/caf\xe9.png")), 500)
    Path(os.fsdecode(os.fsencode(tmp_path / "roses") + b"/\xff.txt")).touch()
    photo(Path(os.fsdecode(os.fsencode(tmp_path) + b"/lil\xffies/a.png")), 501)
    manifest = build_manifest(tmp_path)
    assert [e.path for e in manifest.left_out] == ["lil\\xffies", "roses/caf\\xe9.png"]
    assert Manifest.from_json(manifest.to_json(), tmp_path) == manifest


def test_pipes_are_never_opened(tmp_path: Path) -> None:
    """A named pipe, which would block on opening, is left out."""
    fill(tmp_path, PLAIN)
    os.mkfifo(tmp_path / "roses/pipe.png")
    os.mkfifo(tmp_path / "pipe")
    manifest = build_manifest(tmp_path)
    assert [(e.path, e.reason) for e in manifest.left_out] == [
        ("roses/pipe.png", "not a regular file")
    ]


def test_links_inside_the_root(tmp_path: Path) -> None:
    """A photo that a link shows again is kept, in the same split, and a class may be a link."""
    fill(tmp_path, ["roses/a", ".store/tulips"])
    (tmp_path / "tulips").symlink_to(".store/tulips")
    (tmp_path / "roses/again").symlink_to("a")
    (tmp_path / "roses/copy.png").symlink_to("a/0.png")
    manifest = build_manifest(tmp_path)
    assert manifest.left_out == ()
    split = {p.path: p.split for p in manifest.photos}
    assert len(split) == 16
    assert split["roses/a/0.png"] is split["roses/again/0.png"] is split["roses/copy.png"]
    assert all(split[f"roses/a/{i}.png"] is split[f"roses/again/{i}.png"] for i in range(5))


def test_links_that_leave_or_lead_nowhere(tmp_path: Path) -> None:
    """Links to the outside, to nothing and to themselves are left out and listed."""
    root = fill(tmp_path / "root", PLAIN)
    secret = photo(tmp_path / "root-not" / "secret.png", 900)
    for name, target in {
        "lilies": secret.parent,
        "roses/away.png": secret,
        "roses/far": secret.parent,
        "roses/none.png": "nothing.png",
        "roses/self.png": "self.png",
    }.items():
        (root / name).symlink_to(target)
    manifest = build_manifest(root)
    assert len(manifest.photos) == 10
    assert {e.path: e.reason for e in manifest.left_out} == {
        "lilies": "a link that leaves the data folder",
        "roses/away.png": "a link that leaves the data folder",
        "roses/far": "a link that leaves the data folder",
        "roses/none.png": "a link to nothing",
        "roses/self.png": "a link to nothing",
    }


def test_circles_of_links_end(tmp_path: Path) -> None:
    """Folders that all link to each other are walked in no time, and each photo is found."""
    fill(tmp_path, PLAIN)
    folders = [tmp_path / "roses" / f"d{i}" for i in range(12)]
    for number, folder in enumerate(folders):
        photo(folder / "a.png", 500 + number)
        for other, target in enumerate(folders):
            (folder / f"to{other}").symlink_to(target)
        (folder / "up").symlink_to(tmp_path)
    manifest = build_manifest(tmp_path)
    assert {f"roses/d{i}/a.png" for i in range(12)} < {p.path for p in manifest.photos}
    assert {e.reason for e in manifest.left_out} == {"a link to a folder that is there already"}
    assert len(manifest.photos) < 50
    assert not any("tulips" in p.path for p in manifest.photos if p.label == 0)


def test_the_root_may_be_a_link(tmp_path: Path) -> None:
    """A link to the data gives the same manifest as the data."""
    root = fill(tmp_path / "root", PLAIN)
    (tmp_path / "link").symlink_to(root)
    assert build_manifest(tmp_path / "link") == build_manifest(root)
