"""A FIFO or a device in place of what a command reads: told in seconds, and never waited for."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

import cli
from tests.lab import Lab

Ends = Callable[..., tuple[int, str, str]]


def too_late(_number: int, _frame: FrameType | None) -> None:
    """Fail."""
    raise AssertionError("it waits for what never ends")


@pytest.fixture
def ends(capfd: pytest.CaptureFixture[str]) -> Iterator[Ends]:
    """Return what runs a command: its exit code, what it prints, and what it complains of."""

    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = cli.run(list(words))
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        assert "unexpected" not in said.err
        return code, said.out, said.err

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(60)
    yield run
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


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
    finished: Lab, ends: Ends, replace: Callable[[Path], None]
) -> None:
    """`best` takes the next ones and names these, as `doctor` does; `predict` refuses them."""
    with finished.reading() as (store, study, vault):
        checkpoint = store.ranking(study)[0].checkpoint
        assert checkpoint is not None
        path = vault.path(checkpoint.path)
    path.unlink()
    replace(path)
    where = ("--storage", finished.url)
    code, out, _ = ends("best", "--json", *where)
    assert (code, path.name in out) == (0, True), out
    _, out, _ = ends("doctor", *where)
    assert "missing or changed" in " ".join(out.split())
    photo = finished.folder / "photo.png"
    photo.touch()
    code, _, said = ends("predict", str(photo), "--weights", str(path), *where)
    assert (code, path.name in said) == (2, True), said


def test_predict_reads_regular_files_alone(finished: Lab, ends: Ends, tmp_path: Path) -> None:
    """A FIFO is refused, and a link to the root of the machine not followed."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "machine").symlink_to("/")
    assert ends("predict", str(tmp_path / "pipe.png"), "--storage", finished.url)[0] == 1
    code, _, said = ends("predict", str(tmp_path / "all"), "--storage", finished.url)
    assert (code, "holds no photos" in said) == (2, True), said
