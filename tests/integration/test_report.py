"""`report` on a study in a real database: written whole or not at all, and kept up to date."""

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from study.errors import ConfigError
from study.report import write
from study.report.worst_errors import ExplainedErrors
from study.report.write import Written, report, watch
from study.selection.best import best
from tests.lab import Lab


@pytest.fixture
def unexplained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Explain nothing, which takes a network and seconds; note each time it is asked for."""
    asked: list[int] = []

    class Silent(write.Explainer):
        def start(self) -> None:
            """Start no process."""

        def ask(self, contents: object, top: int) -> None:  # noqa: ARG002
            """Note that heat maps are wanted."""
            asked.append(top)

        def answer(self) -> ExplainedErrors:
            """Return a reason."""
            return ExplainedErrors(reason="nobody looked")

    monkeypatch.setattr(write, "Explainer", Silent)
    return asked


def train_a_little_more(lab: Lab) -> None:
    """Change the database as another epoch would."""
    with closing(sqlite3.connect(lab.folder / "encore.db")) as connection, connection:
        connection.execute("UPDATE encore_epochs SET seconds = seconds + 1 WHERE epoch = 1")


@pytest.mark.long
def test_the_page_shows_the_winner_and_says_what_is_missing(finished: Lab, tmp_path: Path) -> None:
    """The choice of `best` stands on the page; weights that are no network's are said to be so."""
    written = report(storage=finished.url, to=tmp_path / "new" / "report.html")
    chosen, text = best(storage=finished.url), Path(written.file).read_text()
    assert chosen.sha256 in text
    assert f"encore reproduce --run {chosen.trial} " in text
    assert f"{len(chosen.schedules)} of {len(chosen.schedules)} schedules" in text
    assert re.search(
        r"There are no Grad-CAM heat maps: [^<]*holds no Encore metadata[^<]*[^.]\.<", text
    )
    assert written.csv == ()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]


@pytest.mark.usefixtures("unexplained")
def test_a_disk_that_is_full_leaves_the_old_page(
    finished: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that cannot be written as a whole leaves the one before it, and nothing else."""
    page = tmp_path / "pages" / "report.html"
    page.parent.mkdir()
    page.write_text("old")

    def fill(path: Path, *_: object, **__: object) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill)
    with pytest.raises(OSError, match="No space"):
        report(storage=finished.url, to=page)
    assert page.read_bytes() == b"old"
    assert list(page.parent.iterdir()) == [page]


def test_a_folder_and_a_wild_number_are_refused(finished: Lab, tmp_path: Path) -> None:
    """A folder cannot become a page, nor can a page show any number of errors."""
    with pytest.raises(IsADirectoryError, match="name a file"):
        report(storage=finished.url, to=tmp_path)
    with pytest.raises(ConfigError, match="0 to 100"):
        report(storage=finished.url, to=tmp_path / "report.html", top=101)


def watched(lab: Lab, page: Path, changes: list[Callable[[], None]]) -> list[Written]:
    """Watch a study: after each writing one thing happens to it, and three quiet looks end it."""
    told: list[Written] = []
    quiet = [0]

    def written(what: Written) -> None:
        assert "data-reload" in page.read_text()
        told.append(what)
        quiet[0] = 0
        if changes:
            changes.pop(0)()

    def stop() -> bool:
        quiet[0] += 1
        return quiet[0] > 3

    watch(storage=lab.url, to=page, written=written, stop=stop)
    return told


def test_a_watched_page_is_written_when_the_study_changes(
    finished: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unexplained: list[int]
) -> None:
    """A change makes a new page, quiet none; heat maps are made once; the last page stays still."""
    monkeypatch.setattr(write, "POLL", 0.0)
    page = tmp_path / "report.html"
    told = watched(finished, page, [lambda: train_a_little_more(finished)])
    assert told == [Written(str(page))] * 2
    assert unexplained == [12]
    assert "data-reload" not in page.read_text()
    assert "nobody looked" in page.read_text()


def test_another_winner_is_explained_anew(
    finished: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unexplained: list[int]
) -> None:
    """Once the winner's weights are gone, the next one's heat maps are made."""
    monkeypatch.setattr(write, "POLL", 0.0)
    first = best(storage=finished.url)

    def lose() -> None:
        Path(first.file).unlink()
        train_a_little_more(finished)

    page = tmp_path / "report.html"
    watched(finished, page, [lose])
    assert unexplained == [12, 12]
    assert best(storage=finished.url).sha256 in page.read_text()


@pytest.mark.usefixtures("unexplained")
def test_ctrl_c_ends_watching_with_a_page_that_stays(
    finished: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C is how watching ends: no error, and a page that no longer loads itself again."""

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(write.time, "sleep", interrupted)
    page = tmp_path / "report.html"
    watch(storage=finished.url, to=page)
    assert "data-reload" not in page.read_text()
    assert list(tmp_path.glob(".report*")) == []
