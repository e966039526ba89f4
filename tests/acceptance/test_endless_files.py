"""A FIFO or a device in place of what a command reads: told in seconds, and never waited for."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import Lab

ROOT = Path(__file__).parents[2]


def start(*words: str) -> "subprocess.Popen[str]":
    """Begin a command."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ends(*words: str) -> tuple[int, str]:
    """Run a command; its exit code, and the last line that it says."""
    with start(*words) as command:
        out, complaints = command.communicate(timeout=60)
    assert "Traceback" not in complaints
    assert "unexpected" not in complaints
    return command.returncode, (complaints.strip() or out.strip()).splitlines()[-1]


@pytest.mark.parametrize(
    "replace",
    [
        pytest.param(os.mkfifo, id="FIFO"),
        pytest.param(
            lambda path: path.symlink_to("/dev/zero"), id="device", marks=pytest.mark.slow
        ),
    ],
)
def test_weights_that_never_end_are_passed_over(
    finished: Lab, replace: Callable[[Path], None]
) -> None:
    """`best` takes the next ones and names these, as `doctor` does; `predict` refuses them."""
    with finished.reading() as (store, study, vault):
        checkpoint = store.ranking(study)[0].checkpoint
        assert checkpoint is not None
        path = vault.path(checkpoint.path)
    path.unlink()
    replace(path)
    where = ("--storage", finished.url)
    with start("best", "--json", *where) as command:
        out, _ = command.communicate(timeout=60)
    assert command.returncode == 0
    assert path.name in out
    with start("doctor", *where) as command:
        out, _ = command.communicate(timeout=60)
    assert "missing or changed" in " ".join(out.split())
    photo = finished.folder / "photo.png"
    photo.touch()
    code, said = ends("predict", str(photo), "--weights", str(path), *where)
    assert (code, path.name in said) == (2, True), said


def test_predict_reads_regular_files_alone(finished: Lab, tmp_path: Path) -> None:
    """A FIFO is refused, and a link to the root of the machine not followed."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "machine").symlink_to("/")
    assert ends("predict", str(tmp_path / "pipe.png"), "--storage", finished.url)[0] == 1
    code, said = ends("predict", str(tmp_path / "all"), "--storage", finished.url)
    assert (code, "holds no photos" in said) == (2, True), said
