"""A running search in a notebook: one display that is updated."""

import io
import time
from collections.abc import Callable
from html import escape
from typing import Any, Self

from rich.console import Console

from study.events import Progress
from study.views.progress import SearchView
from study.views.terminal import Terminal

WIDTH = 110
LINES = 30
"""How many of the last lines are shown, above the current work."""

EVERY = 0.3
"""Seconds between two updates: each goes through the kernel to the browser."""

_STYLE = "font-family: monospace; line-height: 1.35; white-space: pre; overflow-x: auto"


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    return Console().is_jupyter


class NotebookView:
    """Listens to a search and shows it in the cell that runs it. Use as a context."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lines = io.StringIO()
        console = Terminal(file=self._lines, force_jupyter=False, force_terminal=False, emoji=False)
        self._view, self._clock = SearchView(console), clock
        self._last, self._display = clock(), _display(self._html(at_work=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write(at_work=False)

    def __call__(self, told: Progress) -> None:
        """Show an event."""
        self._view(told)
        if self._clock() - self._last >= EVERY:
            self._write(at_work=True)

    def _write(self, *, at_work: bool) -> None:
        self._last = self._clock()
        self._display.update({"text/html": self._html(at_work=at_work)}, raw=True)

    def _html(self, *, at_work: bool) -> str:
        lines = self._lines.getvalue().splitlines()
        left_out = [f"({len(lines) - LINES} lines before)"] if len(lines) > LINES else []
        shown = [*left_out, *lines[-LINES:], *map(str, self._view.rows(WIDTH) if at_work else ())]
        return f'<pre style="{_STYLE}">{escape(chr(10).join(shown))}</pre>'


def _display(html: str) -> Any:
    from IPython import display  # always installed in a kernel

    show: Any = display.display  # untyped
    return show({"text/html": html}, raw=True, display_id=True)
