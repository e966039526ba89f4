"""Files that appear whole or not at all, and their digests."""

import hashlib
from pathlib import Path

import pytest

from trainers.files import replacing, sha256_of


@pytest.mark.parametrize("synced", [False, True])
def test_what_is_written_takes_the_old_files_place(tmp_path: Path, synced: bool) -> None:
    """Until it is whole the old content can be read; afterwards nothing else is in the folder."""
    path = tmp_path / "page.html"
    path.write_text("old")
    with replacing(path, ".csv", synced=synced) as temporary:
        assert temporary.name.startswith(".page.html.")
        assert temporary.suffix == ".csv"
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]
    assert path.read_text() == "new"


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    """The half-written file is removed and the exception goes on."""
    path = tmp_path / "page.html"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]
    assert path.read_text() == "old"


def test_a_digest_is_of_the_content(tmp_path: Path) -> None:
    """As any tool computes it."""
    path = tmp_path / "weights"
    path.write_bytes(b"1" * 100_000)
    assert sha256_of(path) == hashlib.sha256(b"1" * 100_000).hexdigest()
