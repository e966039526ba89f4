"""The handwritten digits as a folder of photos."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from trainers.data import digits
from trainers.data.digits import digits_folder
from trainers.data.manifest import DatasetError, build_manifest
from trainers.data.photo import read_photo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the digits once for all tests, in a parent folder that is not there yet."""
    return digits_folder(tmp_path_factory.mktemp("digits") / "new" / "parent")


def test_every_digit_is_a_photo(folder: Path) -> None:
    """All 1,797 digits are there in their class, with 0..16 scaled to 0..255."""
    assert [path.name for path in folder.parent.iterdir()] == ["digits"]
    source = load_digits()
    assert len(list(folder.glob("*/*"))) == len(source.images) == 1797
    for index in (0, 1, 1000, 1796):
        values = np.asarray(read_photo(folder / str(source.target[index]) / f"{index:04}.png"))
        expected = [[round(value * 255 / 16) for value in row] for row in source.images[index]]
        assert values[..., 0].tolist() == expected


def test_made_once(folder: Path) -> None:
    """A second call touches nothing."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert digits_folder(folder.parent) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.long
def test_several_at_the_same_time(folder: Path, tmp_path: Path) -> None:
    """All who ask at the same time get the whole folder, leave no other, and equal bytes."""
    (tmp_path / "digits").mkdir()  # an empty one is not in the way
    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(digits_folder, [tmp_path] * 2)) == {tmp_path / "digits"}
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]
    assert build_manifest(tmp_path / "digits").digest == build_manifest(folder).digest


@pytest.mark.parametrize("mine", ["digits", "digits/0/0000.png"])
def test_something_else_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: str
) -> None:
    """Files of someone else are refused, and neither overwritten nor added to."""
    monkeypatch.setattr(digits, "_write", Path.mkdir)
    (tmp_path / mine).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / mine).write_text("mine")
    with pytest.raises(DatasetError, match="must hold the 1797 digits"):
        digits_folder(tmp_path)
    assert (tmp_path / mine).read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]
