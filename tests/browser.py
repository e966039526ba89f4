"""Real Chromium for tests: Debian's, or whichever is there, driven by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((found for name in _NAMES if (found := shutil.which(name))), None)

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"
)

WIDE, PHONE = (1440, 1000), (390, 844)


@contextmanager
def chromium() -> Iterator["Browser"]:
    """Start a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """A page that is open, and what has gone wrong there."""

    page: "Page"
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        found: int = self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return found


@contextmanager
def visit(
    browser: "Browser",
    address: str | Path,
    size: tuple[int, int] = WIDE,
    *,
    dark: bool = False,
    allowed: tuple[str, ...] = ("file:", "data:", "blob:"),
) -> Iterator[Visit]:
    """Open a page; note errors, dialogs, and requests for anything but what is `allowed`."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light"
    )
    page = context.new_page()
    seen = Visit(page)
    page.on("console", lambda said: said.type == "error" and seen.errors.append(said.text))
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("dialog", lambda dialog: (seen.errors.append(dialog.message), dialog.dismiss()))
    page.on(
        "request",
        lambda asked: asked.url.startswith(allowed) or seen.requests.append(asked.url),
    )
    try:
        page.goto(address.as_uri() if isinstance(address, Path) else address)
        yield seen
    finally:
        context.close()
