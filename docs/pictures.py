"""Make the README's pictures of a real search, seen in Chromium.

Run from the repository's root:

    python -m docs.pictures --data ../shared/data/roses-tulips

It checks the photos, searches on the cleaned CSV, and writes the report in `--work`; a second run
goes on with what is there. It takes the test extra and a Chromium.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser

from tests.browser import chromium, visit

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 1100


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


def keep(picture: bytes, file: Path) -> None:
    """Write a picture, small."""
    with Image.open(BytesIO(picture)) as opened:
        opened.convert("RGB").save(file, quality=85, method=6)
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
