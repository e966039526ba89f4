"""The console of all commands, and the lines of the log: nothing reaches them that is not fit."""

import logging
import re
import traceback
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import PurePath
from typing import Any, NoReturn

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from study.sanitizing import printable

UNBROKEN = 100_000
"""So wide is what no terminal shows: a record is a line, whatever its length."""

HELD = "\ue000"
"""Stands for a blank at which no line is broken: Rich breaks at no-break spaces, too.

For private use, so no text that is fit to be printed has one.
"""

_VALUE = re.compile(r"(?<=\d) (?=%|(?:s|min|h|px|kB|MB|GB)\b)|(?<=±) | (?=±)")
_COMMAND = re.compile(r"`[^`\n]+`")


class Terminal(Console):
    """Rich's console, for texts that may not be trusted.

    Into a pipe or a file lines are never broken. Where the reader of a pipe has gone, the
    error goes on: Rich would exit with a 1 of its own.
    """

    @property
    def size(self) -> ConsoleDimensions:
        """The size of the terminal; without one, lines may be as long as they are."""
        found = super().size
        return found if self.is_terminal else ConsoleDimensions(UNBROKEN, found.height)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    def print(self, *objects: Any, **how: Any) -> None:
        """Print; without a terminal, no line ends in blanks, as a table's cells do."""
        if self.is_terminal:
            super().print(*objects, **how)
            return
        with self.capture() as captured:
            super().print(*objects, **how)
        self.file.write(re.sub(" +\n", "\n", captured.get()))

    def render_str(self, text: str, **how: Any) -> Text:
        """Make of a text, be it a line or a table's cell, what is printed."""
        return super().render_str(held_together(printable(text), self.width), **how)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render as Rich does, with blanks where lines were not to be broken."""
        for segment in super().render(renderable, options):
            if HELD in segment.text:
                yield Segment(segment.text.replace(HELD, " "), segment.style, segment.control)
            else:
                yield segment

    def waiting(self, what: str) -> AbstractContextManager[object]:
        """Show in a terminal, as a context, that something takes a while."""
        shows = self.is_terminal and not self.is_dumb_terminal
        return self.status(Text(what)) if shows else nullcontext()

    def print_traceback(self, error: BaseException) -> None:
        """Print where an error came from, and all that led to it."""
        lines = traceback.format_exception(error)
        self.print("".join(lines), markup=False, highlight=False, soft_wrap=True, end="")

    def on_broken_pipe(self) -> NoReturn:
        """Raise again what is being handled."""
        raise


def held_together(text: str, width: int) -> str:
    """Return text in which a value stays in a line with its unit, and a short command in one.

    A command of more than `width` columns is broken anyway.
    """
    text = _VALUE.sub(HELD, text)
    return _COMMAND.sub(
        lambda found: found[0].replace(" ", HELD) if len(found[0]) < width else found[0], text
    )


def file_text(console: Console, file: str) -> str:
    """Return a file as a table has it: its name; the whole path where that goes elsewhere."""
    return PurePath(file).name if console.is_terminal else file


class LogLine(logging.Formatter):
    """A line of a log, which others' modules write."""

    def format(self, record: logging.LogRecord) -> str:
        """Return it as it can be printed."""
        return printable(super().format(record))
