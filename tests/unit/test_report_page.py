"""The report's page: whole, inert and self-contained, whatever a study holds and is called."""

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from study.datasets.check import Checked
from study.report import figures
from study.report.cautions import cautions
from study.report.check_page import check_page
from study.report.contents import Contents, read_contents
from study.report.markup import policy, to_json
from study.report.page import Report, render
from study.report.panels import drawings, panels
from study.report.pictures import MOST_IN_CELLS, pictures
from study.report.thumbnails import SIDE, thumbnails
from study.report.worst_errors import ExplainedErrors, Explainer, explain_all, worst_of
from study.report.write import _commands, _next
from study.selection.leaks import Leaks
from study.views.data_check import print_checked
from study.views.terminal import Terminal
from tests.contents import HOSTILE, make_contents
from tests.lab import Lab
from trainers.data.inspect.findings import (
    Doubt,
    Flaw,
    FlawedPhoto,
    Inspection,
    Likeness,
    Pair,
)
from trainers.data.manifest import Split

SECTIONS = (
    *("winner", "schedules", "parameters", "curves", "tree", "seeds", "classes", "confidence"),
    *("errors", "duplicates", "compute", "trials", "again"),
)
PAIR = {
    "likeness": "near",
    "agreement": 0.99,
    "cosine": 0.98,
    "mirrored": True,
    "leaks": True,
    "conflicts": True,
}


class Page(HTMLParser):
    """What a browser would find in a page: elements with attributes, scripts, styles, text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.styles: list[str] = []
        self.words: list[str] = []
        self._open = ""
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag in ("script", "style"):
            self._open, self._inside = tag, []

    def handle_data(self, data: str) -> None:
        """Note text, apart from scripts and styles."""
        (self._inside if self._open else self.words).append(data)

    def handle_endtag(self, tag: str) -> None:
        """Note a script or style as a whole."""
        if tag != self._open:
            return
        inside, self._open = "".join(self._inside), ""
        if tag == "style":
            self.styles.append(inside)
        else:
            attributes = [a for t, a in self.elements if t == "script"][-1]
            self.scripts.append((attributes, inside))

    def all(self, tag: str) -> list[dict[str, str]]:
        """Return the attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def made(contents: Contents, **others: Any) -> str:
    """Render a page without heat maps."""
    drawn = panels(contents)
    given: dict[str, Any] = {
        "contents": contents,
        "panels": drawn,
        "pictures": pictures(contents, drawn["confusion"].data or (), 12),
        "explanation": ExplainedErrors(reason=HOSTILE[0], made_by={HOSTILE[1]: HOSTILE[2]}),
        "next_commands": {"Next": HOSTILE[1]},
        "commands": {"Again": HOSTILE[2]},
        "made": "today",
        "top": 12,
    }
    return render(Report(**given | others))


@cache
def page_of(trials: int) -> str:
    """Return a page of so many trials of classes with hostile names, and duplicates of these."""
    photo = {"path": f"{HOSTILE[2]}/1.png", "label": HOSTILE[2], "split": "valid"}
    check = {
        "pairs": [{**PAIR, "first": photo, "second": photo}],
        **dict.fromkeys(("n_pairs", "n_leaks", "n_conflicts"), 1),
    }
    return made(replace(make_contents(trials), check=check))


@pytest.mark.parametrize("trials", [1, 50, pytest.param(2000, marks=pytest.mark.long)])
def test_all_sections_are_there_in_order(trials: int) -> None:
    """From one running trial to thousands: all sections, each with its heading, in 20 MB."""
    text = page_of(trials)
    page = Page(text)
    assert tuple(a["id"] for a in page.all("section")) == SECTIONS
    assert [a["aria-labelledby"] for a in page.all("section")] == [f"{s}-title" for s in SECTIONS]
    assert [a["id"] for a in page.all("h2")] == [f"{section}-title" for section in SECTIONS]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert len(text.encode()) < 20_000_000


@pytest.mark.parametrize("trials", [1, 50])
def test_every_figure_has_its_place(trials: int) -> None:
    """Each is once in a section that the page has; an empty one is a line on what fills it."""
    page = Page(page_of(trials))
    places = [a["data-panel"] for a in page.all("figure") if "data-panel" in a]
    wanted = {each.name for each in drawings() if each.section}
    assert len(places) == len(set(places))
    # What probabilities are needed for says why it is missing once, and nothing is selected here.
    probable = {each.name for each in drawings() if each.section == "confidence"}
    assert set(places) == wanted - {"estimate"} - (probable if trials == 1 else set())
    assert {each.section for each in drawings()} <= {"", *SECTIONS}


EXAMPLE = """
from study.report.figures.style import Drawing, Panel, figure


def counted(contents):
    return Panel(figure([], 100), f"{len(contents.trials)} trials were counted.")


FIGURES = (Drawing("counted", "compute", "Counted", counted),)
"""


def test_a_new_figure_is_one_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module beside the others is on the page, in the section that it names."""
    (tmp_path / "of_a_test.py").write_text(EXAMPLE)
    monkeypatch.setattr(figures, "__path__", [*figures.__path__, str(tmp_path)])
    drawings.cache_clear()
    try:
        text = made(make_contents(3))
    finally:
        drawings.cache_clear()
    section = text[text.index('id="compute"') : text.index('id="trials"')]
    assert "3 trials were counted." in section
    assert 'data-panel="counted"' in section


@pytest.mark.parametrize("trials", [1, 50])
def test_names_are_text_and_nothing_else(trials: int) -> None:
    """Names that would be markup make no element, no attribute that runs, no link."""
    page = Page(page_of(trials))
    assert {a.get("type", "") for a in page.all("script")} == {"", "module", "application/json"}
    assert len([a for a in page.all("script") if "type" not in a]) == 1
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert attributes.get("href", "#").startswith("#")
        assert attributes.get("src", "data:").startswith("data:")
    words = "".join(page.words)
    assert HOSTILE[0] in words
    assert "\u202e" not in words
    assert "\\u202egnp.exe" in words


def test_scripts_cannot_be_ended_by_data() -> None:
    """Each block of data is one JSON document: no name in it has closed its script."""
    page = Page(page_of(50))
    blocks = {a["id"]: text for a, text in page.scripts if a.get("type") == "application/json"}
    assert "panel-curves" in blocks
    names = {each["name"] for each in json.loads(blocks["panel-classes"])["data"]}
    assert set(HOSTILE) == names
    for text in blocks.values():
        json.loads(text)
        assert not re.search("[<>&]", text)


@pytest.mark.parametrize("text", ["</script>", "<!--<script>", "\u2028\u2029", "\udc80", "\x00'\""])
def test_json_comes_back_as_it_was(text: str) -> None:
    """Whatever ends a script, a line or a string is spelled out, and reads the same."""
    written = to_json({text: [text]})
    assert written.isascii()
    assert not set("<>&\n\x00") & set(written)
    assert json.loads(written) == {text: [text]}


def test_only_what_is_listed_runs_and_nothing_is_fetched() -> None:
    """Every script and style is listed by its hash, and all else is forbidden to the page."""
    page = Page(page_of(1))
    [allowed] = [
        a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"
    ]
    parts = dict(part.split(" ", 1) for part in allowed.split("; "))
    run = [text for a, text in page.scripts if a.get("type") != "application/json"]
    assert parts["default-src"] == "'none'"
    assert parts["script-src"].split() == [hashed(text) for text in run]
    assert set(parts["style-src-elem"].split()) == {hashed(text) for text in page.styles}
    assert not re.search(r"https?:|\*|unsafe-eval", allowed)
    assert "unsafe" not in parts["script-src"]
    assert not [a for _, a in page.elements if "src" in a or a.get("rel")]


def hashed(text: str) -> str:
    """Return what a policy calls a script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_a_policy_names_what_it_is_given() -> None:
    """Another script has another hash, so that it would not run."""
    assert hashed("one") in policy(["one"], ["style"])
    assert hashed("two") not in policy(["one"], ["style"])


@pytest.fixture
def with_photos(tmp_path: Path) -> Contents:
    """Return contents whose photos are there, but for one that is missing and one that is none."""
    contents = make_contents(10, 12, each=30)
    assert contents.manifest is not None
    for index, photo in enumerate(contents.photos):
        path = tmp_path / photo.path
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (300, 200), (index % 256, 90, 0)).save(path)
    (worst, next_worst) = worst_of(contents, 2)
    (tmp_path / contents.photos[worst].path).unlink()
    (tmp_path / contents.photos[next_worst].path).write_text("no photo")
    return replace(contents, manifest=replace(contents.manifest, root=tmp_path))


def test_photos_are_shown_up_to_a_number_and_missing_ones_are_said(with_photos: Contents) -> None:
    """A page has some hundred pictures at most; what cannot be read is counted, not fatal."""
    cells = panels(with_photos)["confusion"].data
    assert sum(len(cell["photos"]) for cell in cells) > MOST_IN_CELLS / 2
    seen = pictures(with_photos, cells, 12)
    assert seen.missing == 2
    assert MOST_IN_CELLS / 2 < len(seen.by_path) <= MOST_IN_CELLS + 12
    text = made(with_photos, pictures=seen)
    assert "2 cannot be read any more" in text
    assert "the file is missing" in text
    page = Page(text)
    assert len(page.all("img")) == 10
    block = next(text for a, text in page.scripts if a.get("id") == "panel-photos")
    for place, photo in json.loads(block).items():
        assert with_photos.photos[int(place)].path == photo["path"]
        assert photo["src"].startswith("data:image/jpeg;base64,")


def test_thumbnails_are_small_and_upright(tmp_path: Path) -> None:
    """A thumbnail is a JPEG that fits its square; a missing file and a text give none."""
    Image.new("RGB", (1000, 400), (200, 10, 10)).save(tmp_path / "wide.png")
    (tmp_path / "text.jpg").write_text("no photo")
    found = thumbnails(tmp_path, ["wide.png", "gone.png", "text.jpg", "wide.png"])
    assert list(found) == ["wide.png"]
    (tmp_path / "out.jpg").write_bytes(base64.b64decode(found["wide.png"].split(",")[1]))
    with Image.open(tmp_path / "out.jpg") as small:
        assert (small.format, small.size) == ("JPEG", (SIDE, round(0.4 * SIDE)))


def test_the_worst_come_first() -> None:
    """The surest mistakes, then what was rightly named with the least certainty."""
    contents = make_contents(10, 4, each=50)
    found = contents.predictions
    assert found is not None
    places = worst_of(contents, 200)
    wrong = [bool(found.predicted[place] != contents.labels[place]) for place in places]
    assert 0 < sum(wrong) < 200
    assert wrong == sorted(wrong, reverse=True)
    truth = [float(found.true_probability[place]) for place in places]
    assert truth[: sum(wrong)] == sorted(truth[: sum(wrong)])
    assert truth[sum(wrong) :] == sorted(truth[sum(wrong) :])


def test_what_cannot_be_explained_says_why(tmp_path: Path) -> None:
    """Nothing chosen, weights that are gone, or are none: a reason, and never an error."""
    with Explainer() as explainer:
        explainer.ask(make_contents(1), 12)
        assert explainer.answer() == ExplainedErrors(reason="no trial has finished yet")
    (tmp_path / "text.safetensors").write_text("weights")
    assert "text.safetensors" in explain_all(tmp_path / "text.safetensors", []).reason
    assert explain_all(tmp_path / "gone.safetensors", []).reason


def test_commands_hold_no_password() -> None:
    """The page says how to read the study again, but not by which password."""
    found = _commands(make_contents(1), ExplainedErrors(), "postgresql://me:secret@host/db")
    assert "postgresql://me:***@host/db" in found["Write this page again"]
    assert "secret" not in str(found)
    after = _next(make_contents(1), "postgresql://me:secret@host/db")
    assert any(command.startswith("encore predict PHOTOS --study") for command in after.values())
    assert "secret" not in str(after)


def test_the_first_screen_has_estimate_warnings_file_and_next_commands(finished: Lab) -> None:
    """Before any other section: number and interval, what to doubt, the file, and where to go."""
    contents = read_contents(storage=finished.url)
    chosen = contents.selection
    assert chosen is not None
    assert chosen.bias_corrected is not None
    text = made(contents)
    first = text[text.index('id="winner"') : text.index('id="schedules"')]
    words = "".join(Page(first).words)
    assert chosen.phrase(chosen.bias_corrected.estimate) in words
    assert chosen.interval in words
    assert "Few photos: " in words
    assert Path(chosen.file).name in words
    assert HOSTILE[1] in words
    assert 'data-panel="estimate"' in first


def test_what_to_doubt_is_said(finished: Lab) -> None:
    """A single seed, few photos and leaks each have their sentence, and nothing else has."""
    chosen = read_contents(storage=finished.url).selection
    assert chosen is not None
    many = tuple(replace(each, photos=500) for each in chosen.per_class)
    sure = replace(chosen, n_valid=1000, per_class=many, seed_scores={0: 0.9, 1: 0.91}, leaks=None)
    assert list(cautions(sure)) == []
    leaks = Leaks(3, at_least=False, n_valid=997, errors=1, score=0.9, bias_corrected=None)
    [leaking] = cautions(replace(sure, leaks=leaks))
    assert leaking.startswith("3 of 1,000 validation photos are also in train")
    assert "without them" in leaking
    [alone] = cautions(replace(sure, seed_scores={0: 0.9}))
    assert alone.startswith("One seed only")
    [few] = cautions(replace(sure, n_valid=50))
    assert "2.0 points" in few
    [rare] = cautions(replace(sure, per_class=(*many[:-1], replace(many[-1], photos=3))))
    assert f"The class {chosen.classes[-1]} has 3 validation photos" in rare


def checked() -> Checked:
    """Make a check of photos in a class with a hostile name: a leak, and a wrong label."""
    manifest = make_contents(1).manifest
    assert manifest is not None
    first, second = (
        next(photo for photo in manifest.photos if photo.split is split)
        for split in (Split.TRAIN, Split.VALID)
    )
    found = Inspection(
        manifest.digest,
        manifest.classes,
        len(manifest.photos),
        dict.fromkeys((Split.TRAIN, Split.VALID), (20,) * 3),
        pairs=(Pair(first, second, Likeness.EXACT, 1.0, 1.0),),
        groups=((first, second),),
        flaws=(FlawedPhoto(first, Flaw.TINY, "8 x 8 pixels"),),
        uncompared=0,
        doubts=(Doubt(second, 1, 0.9, 0.05),),
        cues=(),
    )
    return Checked("photos", manifest, found, (), None, search="encore search --data photos")


def test_both_pages_have_one_look_and_the_theme_switch() -> None:
    """The check page has the report's style and button; names stay text, one script runs."""
    page, other = Page(check_page(checked())), Page(page_of(1))
    assert page.styles[0] == other.styles[0]
    for each in (page, other):
        assert [a["id"] for a in each.all("button") if a.get("id")][:1] == ["theme"]
        assert not any(name.startswith("on") for _, a in each.elements for name in a)
    [allowed] = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    [(_, script)] = page.scripts
    assert f"script-src {hashed(script)};" in allowed
    assert HOSTILE[0] in "".join(page.words)


@pytest.mark.parametrize("leaks", [True, False])
def test_who_has_checked_photos_learns_how_to_search_them(leaks: bool) -> None:
    """Where nothing leaks, page and terminal have the command; else the ways out."""
    found = checked()
    if not leaks:
        found = replace(found, found=replace(found.found, pairs=(), groups=()))
    text = io.StringIO()
    print_checked(Terminal(file=text), found, None)
    words = "".join(Page(check_page(found)).words)
    for said in (text.getvalue(), words):
        assert ("encore search --data photos" in said) is not leaks
        assert ("--allow-leaks" in said) is leaks
