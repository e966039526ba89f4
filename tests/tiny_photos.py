"""Tiny photos and lists of them, and what is said of those that cannot be used."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from PIL import Image

from trainers.data.manifest import DatasetError, build_manifest


def photo(path: Path, number: int) -> Path:
    """Write a tiny photo whose contents are its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2), (number % 256, number // 256, 7)).save(path, "PNG")
    return path


def fill(root: Path, tops: Iterable[str], count: int = 5, start: int = 0) -> Path:
    """Write `count` photos into each folder, all of them different."""
    for position, top in enumerate(tops):
        for index in range(count):
            photo(root / top / f"{index}.png", start + position * 100 + index)
    return root


def reds_and_blues(folder: Path) -> None:
    """Write a folder PHOTOS of two plain classes, 10 each, and one photo.jpg beside it."""
    for name, colour in (("reds", (200, 40, 40)), ("blues", (40, 40, 200))):
        (folder / "PHOTOS" / name).mkdir(parents=True)
        for index in range(10):
            image = Image.new("RGB", (40, 40 + index), colour)
            image.save(folder / "PHOTOS" / name / f"{index}.jpg")
    image.save(folder / "photo.jpg")


def csv_file(root: Path, text: str) -> Path:
    """Write a CSV."""
    (root / "photos.csv").write_bytes(text.encode())
    return root / "photos.csv"


def refused(source: Path, **options: Path) -> str:
    """Return the text of the DatasetError, and check that it is a sentence fit for a terminal."""
    with pytest.raises(DatasetError) as error:
        build_manifest(source, **options)
    text = str(error.value)
    assert text.isprintable()
    assert not text.endswith(".")
    return text
