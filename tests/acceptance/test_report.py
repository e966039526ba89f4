"""`report` by the command line, after a real search: heat maps, tables, an answer or a sentence."""

import csv
import json
import re
import webbrowser
from pathlib import Path

import pytest

import cli
from study.selection.best import best
from tests.tiny_search import copy_of, search_in

CLASSES = "<b onclick=alert(1)>bright", "dark \"'&\u2740"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Search over two classes of tiny photos, whose names would be markup."""
    return search_in(tmp_path_factory.mktemp("report"), CLASSES, "; <img src=x>.png", 2)


@pytest.fixture
def place(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a copy of what was searched."""
    return copy_of(searched, tmp_path / "work", monkeypatch)


@pytest.mark.long
@pytest.mark.usefixtures("place")
def test_a_page_and_tables_in_one_go(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One page with heat maps of the worst photos, all tables, and the browser on the page."""
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    capsys.readouterr()
    command = ["report", "--to", "out/page.html", "--csv", "tables", "--top", "5", "--open"]
    assert cli.run([*command, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["file"] == "out/page.html"
    assert opened == [Path("out/page.html").absolute().as_uri()]
    text = Path("out/page.html").read_text()
    errors = text[text.index('<section id="errors"') : text.index('<section id="duplicates"')]
    assert len(re.findall('<img src="data:image/jpeg;base64,', errors)) == 2 * 5
    assert "There are no heat maps" not in errors
    assert "<b onclick" not in text
    assert "&lt;b onclick=alert(1)&gt;bright" in text
    assert {Path(file).stem for file in answer["csv"]} >= {"trials", "stages", "epochs"}
    with Path("tables/trials.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2


@pytest.mark.long
@pytest.mark.usefixtures("place")
def test_photos_and_weights_that_are_gone(
    searched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without its photos the page says so; without any weights it says why nothing is chosen."""
    capsys.readouterr()
    (searched / "photos").rename(searched / "elsewhere")
    try:
        assert cli.run(["report"]) == 0
    finally:
        (searched / "elsewhere").rename(searched / "photos")
    assert "none of the worst photos can be read" in Path("report.html").read_text()
    for file in Path(best().file).parent.glob("*.safetensors"):
        file.unlink()
    assert cli.run(["report"]) == 0
    assert "Nothing can be selected yet" in Path("report.html").read_text()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("code", "arguments", "said"),
    [
        (2, ["--study", "nobody's"], "nobody's"),
        (5, ["--storage", "sqlite:///gone/encore.db"], "search"),
        (1, ["--to", "photos"], "name a file"),
        (2, ["--watch", "--json"], "--watch or --json"),
        (2, ["--top", "101"], "--top"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    place: Path,
    code: int,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A study, a database, a file or flags that cannot be: a sentence, a code, and no page."""
    before = sorted(place.iterdir())
    capsys.readouterr()
    assert cli.run(["report", *arguments]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert len(shown.err.strip().splitlines()) == 1
    assert sorted(place.iterdir()) == before
