"""The report, the check page and the dashboard in a real browser: all there, all works, all safe.

One file, so that one worker starts one browser.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from study.datasets.check import check_data
from study.report.check_page import write_check_page
from study.report.write import report
from tests.board import optuna_rows
from tests.browser import PHONE, WIDE, chromium, needs_chromium, visit
from tests.scenes import save, scene
from tests.studies import NAME, write_study
from tests.unit.test_dashboard import ROOT, port, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["port"]

pytestmark = needs_chromium

SECTIONS = (
    *("winner", "schedules", "parameters", "curves", "tree", "seeds", "classes", "confidence"),
    *("errors", "duplicates", "compute", "trials", "again"),
)
HOSTILE = "<img src=x onerror=globalThis.harmed=1>"


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Start one browser for all."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def page_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Return what writes the report of a study of so many trials with hostile names, once."""

    @cache
    def write(trials: int) -> Path:
        folder = tmp_path_factory.mktemp(f"of{trials}")
        written = write_study(folder, trials, classes=2 if trials == 50 else 3)
        report(NAME, storage=written.url, to=folder / "report.html", top=0)
        return folder / "report.html"

    return write


@pytest.fixture(scope="module")
def opened(browser: "Browser", page_of: Callable[[int], Path]) -> Iterator["Page"]:
    """Open the report of 50 trials, all of it drawn, for tests that each use another part of it.

    None of them may leave an error behind.
    """
    with visit(browser, page_of(50)) as seen:
        draw_all(seen.page)
        yield seen.page
        assert seen.errors == []


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the check page of photos with a leak, in a class with a hostile name."""
    folder = tmp_path_factory.mktemp("checked")
    root = folder / "photos"
    for split in ("train", "val"):
        for number, label in enumerate((HOSTILE, "night")):
            for index in range(6):
                seed = 100 * number + 10 * (split == "val") + index
                save(scene(seed), root / split / label / f"{index}.jpg", quality=90)
    shutil.copy(root / "train" / HOSTILE / "1.jpg", root / "val" / HOSTILE / '"leak">.jpg')
    found = check_data(str(root), storage=f"sqlite:///{folder / 'runs' / 'encore.db'}")
    assert found.leaks
    write_check_page(found, folder / "page.html")
    return folder / "page.html"


def draw_all(page: "Page") -> list[str]:
    """Go through the page, so that every figure is drawn; return the panels that have none."""
    page.wait_for_selector("nav")
    for section in SECTIONS:
        page.locator(f"#{section}").scroll_into_view_if_needed()
        page.wait_for_timeout(50)
    plots = page.locator(".panel .plot")
    for index in range(plots.count()):
        plots.nth(index).scroll_into_view_if_needed()
        page.wait_for_timeout(30)
    page.wait_for_timeout(300)
    empty: list[str] = page.evaluate(
        """[...document.querySelectorAll('.panel .plot')]
           .filter(plot => !plot.querySelector('.main-svg'))
           .map(plot => plot.closest('.panel').dataset.panel ?? plot.closest('.panel').id)"""
    )
    return empty


def beyond(page: "Page") -> int:
    """Count the figures that are wider than their place: their right end cannot be seen."""
    found: int = page.evaluate(
        """[...document.querySelectorAll('.plot .main-svg')].filter(
             drawn => drawn.getBoundingClientRect().width > drawn.closest('.plot').clientWidth + 1
           ).length"""
    )
    return found


@pytest.mark.parametrize(
    ("trials", "size", "dark"),
    [
        (1, PHONE, False),
        pytest.param(50, PHONE, True, marks=pytest.mark.slow),
        pytest.param(2000, WIDE, False, marks=pytest.mark.slow),
        pytest.param(2000, PHONE, True, marks=pytest.mark.slow),
    ],
)
def test_the_report_is_whole_at_any_size(
    browser: "Browser",
    page_of: Callable[[int], Path],
    trials: int,
    size: tuple[int, int],
    dark: bool,
) -> None:
    """Every section is there and every figure drawn, nothing fails, nothing is asked of others.

    On a phone nothing sticks out.
    """
    assert page_of(trials).stat().st_size < 20e6
    with visit(browser, page_of(trials), size, dark=dark) as seen:
        assert draw_all(seen.page) == []
        assert beyond(seen.page) == 0
        for section in SECTIONS:
            head = seen.page.locator(f"section#{section} h2")
            assert head.count() == 1
            assert head.inner_text().strip()
        if trials > 1:
            assert seen.page.locator(".panel .plot .main-svg").count() > 10
        assert seen.overflow <= 0
        assert seen.errors == []
        assert seen.requests == []


@pytest.mark.long
def test_hostile_names_stay_text(opened: "Page") -> None:
    """What classes and files are called makes no element and runs no script, wherever it is."""
    for cell in opened.locator("#cells button.open").all()[:4]:
        cell.click()
    assert opened.locator("img[src='x'], a[href^='javascript:']").count() == 0
    scripts = opened.locator("script:not([type])").all_inner_texts()
    assert not any(text.startswith("alert") for text in scripts)
    assert opened.get_by_text("<script>alert(1)</script>").count() > 0


@pytest.mark.long
def test_the_slider_moves_the_numbers(opened: "Page") -> None:
    """The threshold, what it costs and the counts follow the slider, by keyboard as well."""
    slider, said = opened.locator("#at"), opened.locator("#at-said")
    texts, counts = {said.inner_text()}, {opened.locator("#at-numbers").inner_text()}
    for key in ("Home", "ArrowRight", "End"):
        slider.press(key)
        texts.add(said.inner_text())
        counts.add(opened.locator("#at-numbers").inner_text())
    assert len(texts) == 4
    assert len(counts) > 1


@pytest.mark.long
def test_a_box_of_the_tree_leads_to_its_trial(opened: "Page") -> None:
    """All boxes can be read; a click names a box's trials and picks the best, which is drawn."""
    boxes = opened.locator("#stages button.stage")
    assert boxes.count() > 20
    opened.locator("#trial").select_option(index=opened.locator("#trial option").count() - 1)
    before = opened.locator("#detail-said").inner_text()
    assert all("px" in text for text in boxes.all_inner_texts() if "more" not in text)
    boxes.nth(0).click()
    picked = opened.locator("#tree-trials button").first
    picked.wait_for()
    assert picked.inner_text() == opened.locator("#trial").input_value()
    assert opened.locator("#detail-said").inner_text() != before


@pytest.mark.long
def test_trials_are_picked_by_keyboard_alone(opened: "Page") -> None:
    """Tab reaches the picker, arrows change the trial, and its curves are drawn anew."""
    opened.locator("nav a").first.focus()
    for _ in range(80):
        opened.keyboard.press("Tab")
        if opened.evaluate("document.activeElement.id") == "trial":
            break
    else:
        pytest.fail("the picker cannot be reached")
    before = opened.locator("#detail-said").inner_text()
    opened.keyboard.press("ArrowDown")
    opened.wait_for_function(
        "before => document.querySelector('#detail-said').innerText !== before", arg=before
    )


@pytest.mark.long
def test_a_cell_shows_its_photos(opened: "Page") -> None:
    """A button of the list of cells brings up as many photos as it says, at most a dozen."""
    button = opened.locator("#cells button.open").nth(1)
    count = int(button.inner_text())
    button.click()
    assert opened.locator("#cell img").count() == min(count, 12)
    opened.wait_for_function("document.querySelector('#cell img').naturalWidth > 0")


@pytest.mark.long
def test_the_most_frequent_confusions_come_first_with_their_photos(opened: "Page") -> None:
    """Up to five, without a click, each with pictures of its photos."""
    confused = opened.locator("#confusions .confused")
    assert 0 < confused.count() <= 5
    for each in confused.all():
        assert "misclassified as" in each.inner_text()
        assert each.locator("img").count() > 0


@pytest.mark.long
def test_light_and_dark_can_be_chosen(opened: "Page") -> None:
    """The button turns page and figures, the confusion matrix's colours too."""

    def colours() -> list[str]:
        found: list[str] = opened.evaluate(
            """[getComputedStyle(document.body).backgroundColor,
                document.querySelector('.main-svg text').style.fill,
                document.querySelector('.heatmaplayer image').href.baseVal]"""
        )
        return found

    light = colours()
    opened.locator("#theme").click()
    opened.wait_for_function(
        "fill => document.querySelector('.main-svg text').style.fill !== fill", arg=light[1]
    )
    after = colours()
    assert after[0] != light[0]
    assert after[2] != light[2]


@pytest.mark.long
def test_the_report_prints(browser: "Browser", page_of: Callable[[int], Path]) -> None:
    """As PDF it has several pages, figures that were never scrolled to included."""
    with visit(browser, page_of(50)) as seen:
        content = seen.page.pdf(format="A4")
        assert content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") >= 4
        assert len(content) > 100_000


@pytest.mark.long
@pytest.mark.parametrize(("size", "dark"), [(WIDE, True), (PHONE, False)])
def test_the_check_page_is_whole(
    browser: "Browser", checked: Path, size: tuple[int, int], dark: bool
) -> None:
    """Pairs lie side by side with their pictures, hostile names are text, the theme switches."""
    with visit(browser, checked, size, dark=dark) as seen:
        assert seen.page.locator(".card .two").count() == 1
        widths = seen.page.locator(".card .two img").evaluate_all(
            "all => all.map(i => i.naturalWidth)"
        )
        assert len(widths) == 2
        assert min(widths) > 50
        assert seen.page.get_by_text(HOSTILE).count() > 0
        assert seen.page.evaluate("globalThis.harmed") is None
        background = "getComputedStyle(document.body).backgroundColor"
        before = seen.page.evaluate(background)
        seen.page.locator("#theme").click()
        assert seen.page.evaluate(background) != before
        assert seen.overflow <= 0
        assert seen.errors == []
        assert seen.requests == []


@pytest.mark.slow
def test_the_dashboard_shows_note_and_pictures(
    browser: "Browser", tmp_path: Path, port: int
) -> None:
    """A trial's page has our note and pictures; classes' names are text; no other server is met."""
    written = write_study(tmp_path, 12)
    optuna_rows(written.url, NAME, 12)
    command = [sys.executable, str(ROOT / "cli.py"), "dashboard", "--port", str(port)]
    with subprocess.Popen(
        [*command, "--storage", written.url],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as server:
        try:
            wait_for(server, port)
            place = f"http://127.0.0.1:{port}"
            with visit(
                browser,
                f"{place}/dashboard/studies/1/trials?numbers=2",
                allowed=(place, "data:", "blob:"),
            ) as seen:
                seen.page.get_by_text("validation photos").wait_for()
                seen.page.get_by_text("confusion.png").wait_for()
                picture = seen.page.locator("img[src*=artifacts]").first
                picture.wait_for()
                seen.page.wait_for_function(
                    "[...document.querySelectorAll('img[src*=artifacts]')]"
                    ".every(picture => picture.naturalWidth > 300)"
                )
                assert seen.page.get_by_text("<script>alert(1)</script>").count() > 0
                assert seen.page.locator("img[src='x']").count() == 0
                seen.page.reload()
                seen.page.get_by_text("validation photos").wait_for()
                assert seen.errors == []
                assert seen.requests == []
        finally:
            server.kill()
