"""Photos listed in a CSV: every flavour of it, and every fault."""

from collections import Counter
from pathlib import Path

import pytest

from tests.tiny_photos import csv_file, fill, photo, refused
from trainers.data.manifest import Split, build_manifest

PLAIN = ("roses", "tulips")


HEADED = """\ufeffLabel,PATH,Split\r
roses,roses/0.png,train\r
\r
tulips,"tulips/0.png",TRAIN\r
,,\r
roses,roses/1.png,val\r
 tulips ,./tulips//1.png,Validation\r
roses,roses/0.png,train\r
"""

AUTOML = """TRAIN,roses/0.png,roses
TRAIN,tulips/0.png,tulips,,

VALIDATION,roses/1.png,roses
validation,roses/../tulips/1.png,tulips
"""


@pytest.mark.parametrize("text", [HEADED, AUTOML])
def test_csv_with_splits(tmp_path: Path, text: str) -> None:
    """Both kinds of CSV, with all that spreadsheets add, give the photos that they list."""
    fill(tmp_path, PLAIN)
    manifest = build_manifest(csv_file(tmp_path, text))
    assert manifest.root == tmp_path
    assert manifest.classes == PLAIN
    assert [(p.path, p.label, p.split) for p in manifest.photos] == [
        ("roses/0.png", 0, Split.TRAIN),
        ("roses/1.png", 0, Split.VALID),
        ("tulips/0.png", 1, Split.TRAIN),
        ("tulips/1.png", 1, Split.VALID),
    ]


@pytest.mark.parametrize("header", ["", "path,label\n"])
def test_csv_without_splits(tmp_path: Path, header: str) -> None:
    """A list without splits gives the same manifest as the folders, in whatever order it is."""
    fill(tmp_path, PLAIN)
    rows = [f"{top}/{index}.png,{top}\n" for top in PLAIN for index in range(5)]
    manifest = build_manifest(csv_file(tmp_path, header + "".join(rows)))
    assert manifest == build_manifest(csv_file(tmp_path, header + "".join(reversed(rows))))
    assert manifest == build_manifest(tmp_path)


def test_csv_with_some_splits(tmp_path: Path) -> None:
    """UNASSIGNED and empty splits fill up to 60/20/20 around the assigned ones."""
    fill(tmp_path, PLAIN)
    rows = ["TEST,roses/0.png,roses", ",roses/1.png,roses", "VALIDATION,tulips/0.png,tulips"]
    rows += [f"UNASSIGNED,roses/{index}.png,roses" for index in range(2, 5)]
    rows += [f"tulips/{index}.png,tulips" for index in range(1, 5)]
    manifest = build_manifest(csv_file(tmp_path, "\n".join(rows)))
    assert Counter((p.label, p.split) for p in manifest.photos) == {
        (label, split): count
        for label in (0, 1)
        for split, count in zip(Split, (3, 1, 1), strict=True)
    }
    splits = {p.path: p.split for p in manifest.photos}
    assert splits["roses/0.png"] is Split.TEST
    assert splits["tulips/0.png"] is Split.VALID


def test_csv_with_a_data_root(tmp_path: Path) -> None:
    """With a data root, the paths start there and the CSV may lie anywhere."""
    fill(tmp_path / "data", PLAIN)
    (tmp_path / "lists").mkdir()
    absolute = tmp_path / "data/roses/0.png"
    text = HEADED.replace("roses,roses/0.png", f"roses,{absolute}")
    source = csv_file(tmp_path / "lists", text)
    manifest = build_manifest(source, data_root=tmp_path / "data")
    assert manifest.root == tmp_path / "data"
    assert manifest.photos[0].path == "roses/0.png"
    assert "'roses/0.png', which is no file" in refused(csv_file(tmp_path / "lists", HEADED))
    assert "no folder" in refused(source, data_root=tmp_path / "none")
    assert "data root" in refused(tmp_path / "data", data_root=tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no rows"]),
        ("\n,,\n", ["no rows"]),
        ("path,label\n", ["at least 2 classes"]),
        ("path,label\nroses/0.png,roses\nroses/9.png,roses\n", ["row 3", "'roses/9.png'"]),
        ("path,label\n\nroses,roses\n", ["row 3", "'roses'", "no file"]),
        ("path,label\n,roses\n", ["row 2", "no file"]),
        (f"path,label\n{'x' * 5000}.png,roses\n", ["row 2", "no file"]),
        ("path,label\nroses/0.png\n", ["row 2", "empty class name"]),
        ("path,label\nroses/0.png, \n", ["row 2", "empty class name"]),
        ('path,label\nroses/0.png,"a\x1bb"\n', ["row 2", "'a\\x1bb'", "control"]),
        (f"path,label\nroses/0.png,{'x' * 201}\n", ["row 2", "201 characters"]),
        ("path,label\nroses/0.png,roses,red\n", ["row 2", "3 cells under 2 columns"]),
        ("path,label,splt\nroses/0.png,roses,train\n", ["header", "'path,label,splt'"]),
        ("file,label\nroses/0.png,roses\n", ["header", "'file,label'"]),
        ("path;label\nroses/0.png;roses\n", ["row 1", "got 1 cells"]),
        ("path,label,split\nroses/0.png,roses,dev\n", ["row 2", "'dev'", "unassigned"]),
        ("TRAIN,roses/0.png,roses,red\n", ["row 1", "exactly one label", "4 cells"]),
        ("roses/0.png,roses,red\n", ["row 1", "exactly one label", "3 cells"]),
        ("TRAIN,roses/0.png\n", ["row 1", "exactly one label"]),
        ("TRAIN,gs://bucket/0.png,roses\n", ["row 1", "'gs://bucket/0.png'", "no copy '0.png'"]),
        ("ftp://x.org/0.png,roses\n", ["row 1", "'ftp://x.org/0.png'", "download"]),
        ("../secret.png,roses\n", ["row 1", "'../secret.png'", "outside"]),
        ("roses/../../root-not/secret.png,roses\n", ["row 1", "outside"]),
        ("/etc/passwd,roses\n", ["row 1", "'/etc/passwd'", "outside"]),
        ("roses/away.png,roses\n", ["row 1", "'roses/away.png'", "outside"]),
        ("roses/0.png,roses\n./roses/0.png,tulips\n", ["row 2", "again"]),
        ("TRAIN,roses/0.png,roses\nTEST,roses/0.png,roses\n", ["row 2", "again"]),
        ("TRAIN,roses/0.png,roses\nTRAIN,tulips/0.png,tulips\n", ["class 'roses'", "in valid"]),
        ('roses/0.png,"roses\n', ["no valid CSV", "quotes"]),
        ("roses/0.png,ro\0ses\n", ["NUL byte"]),
        ("roses/0.png," + "x" * 140_000, ["no valid CSV"]),
    ],
)
def test_csvs_that_are_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    """Each fault of a CSV is one sentence that names the row and the culprit."""
    root = fill(tmp_path / "root", PLAIN)
    photo(tmp_path / "root-not/secret.png", 900)
    photo(tmp_path / "secret.png", 901)
    (root / "roses/away.png").symlink_to(tmp_path / "secret.png")
    message = refused(csv_file(root, text))
    assert all(word in message for word in words), message


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_csv_in_another_encoding(tmp_path: Path, encoding: str) -> None:
    """A CSV that is not UTF-8 is refused rather than guessed at."""
    (tmp_path / "a.csv").write_bytes("path,label\nä.png,rosé\n".encode(encoding))
    assert "must be UTF-8" in refused(tmp_path / "a.csv")


def test_reading_a_long_list_is_told_of(tmp_path: Path) -> None:
    """Now and then, not for every row, and to its end."""
    fill(tmp_path, PLAIN)
    rows = [f"{top}/{index}.png,{top}\n" for top in PLAIN for index in range(5)]
    told: list[tuple[int, int]] = []
    source = csv_file(tmp_path, "".join(rows) * 250)
    build_manifest(source, listing=lambda *counts: told.append(counts))
    assert told == [(1000, 2500), (2000, 2500), (2500, 2500)]
