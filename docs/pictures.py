"""Make the README's pictures of a real search, seen in Chromium.

Run from the repository's root:

    python -m docs.pictures --data ../shared/data/roses-tulips

It checks the photos, searches on the amended list, and writes the report in `--work`; a second run
goes on with what is there. It takes the test extra and a Chromium.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from io import BytesIO, StringIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from tests.browser import chromium, visit

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 1100
COLUMNS = 112
"""Of the terminal whose output is shown."""

_DARK = [(40, 42, 48), (255, 110, 103), (120, 200, 130), (224, 190, 110)]
_DARK += [(110, 170, 240), (200, 140, 220), (100, 200, 205), (225, 226, 230)]
THEME = TerminalTheme((23, 24, 28), (225, 226, 230), _DARK)


def main() -> None:
    """Search, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "pictures")
    parser.add_argument("--to", type=Path, default=ROOT / "docs")
    given = parser.parse_args()
    data, to = given.data.resolve(), given.to.resolve()
    given.work.mkdir(parents=True, exist_ok=True)
    os.chdir(given.work)
    encore("check-data", str(data), "--html", "check.html", "--write-csv", "roses.csv")
    config = ["--config", str(ROOT / "docs" / "pictures.toml")]
    encore("search", "--data", "roses.csv", "--data-root", str(data), "--study", "roses", *config)
    encore("report", "--to", "report.html")
    with chromium() as browser:
        keep(beginning_of(browser, "report.html", "header", 860), to / "report.webp")
        keep(beginning_of(browser, "report.html", "#errors", 560), to / "errors.webp")
        keep(beginning_of(browser, "check.html", "#kind1", 560), to / "check.webp")
        keep(terminal(browser, "best", "--top", "4"), to / "best.webp")


def encore(*arguments: str, **environment: str) -> str:
    """Run a command of ours and return what it prints."""
    command = [sys.executable, str(ROOT / "cli.py"), *arguments]
    print("+", shlex.join(["python", "cli.py", *arguments]), flush=True)
    began = time.time()
    done = subprocess.run(  # noqa: S603 - our own program
        command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | environment
    )
    print(f"  {time.time() - began:.0f} s", flush=True)
    return done.stdout


def beginning_of(browser: Browser, file: str, section: str, height: int) -> bytes:
    """Show how a section of a page begins."""
    with visit(browser, Path(file).resolve(), (WIDTH, 900)) as seen:
        # It stays in the window, and so would lie on whatever is shown.
        seen.page.evaluate("document.querySelector('nav').style.position = 'static'")
        place = seen.page.locator(section)
        for _ in range(2):  # what lies above is drawn as it comes near, and moves it
            place.scroll_into_view_if_needed()
            seen.page.wait_for_timeout(1500)
        top = place.evaluate("each => each.getBoundingClientRect().top + scrollY")
        clip = {"x": 0, "y": max(0, top - 12), "width": WIDTH, "height": height}
        return seen.page.screenshot(full_page=True, clip=clip)


def terminal(browser: Browser, *arguments: str) -> bytes:
    """Show what a command prints, in the colours of a terminal."""
    printed = encore(*arguments, FORCE_COLOR="1", COLUMNS=str(COLUMNS))
    console = Console(record=True, width=COLUMNS, file=StringIO())
    console.print(f"[bold]$ python cli.py {shlex.join(arguments)}[/]", highlight=False)
    console.print(Text.from_ansi(printed))
    Path("terminal.html").write_text(console.export_html(theme=THEME, inline_styles=True))
    with visit(browser, Path("terminal.html").resolve(), (WIDTH, 900), dark=True) as seen:
        seen.page.add_style_tag(
            content="body { background: #17181c; color: #e1e2e6; margin: 0; padding: 16px }"
        )
        return seen.page.locator("body").screenshot()


def keep(picture: bytes, file: Path) -> None:
    """Write a picture, small."""
    with Image.open(BytesIO(picture)) as opened:
        opened.convert("RGB").save(file, quality=85, method=6)
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
