"""The console of all commands, and the lines of the log: nothing reaches them that is not fit."""

import logging
import re
import traceback
from contextlib import AbstractContextManager, nullcontext
from pathlib import PurePath
from typing import Any, NoReturn

from rich.console import Console, ConsoleDimensions
from rich.text import Text

from study.sanitizing import printable

UNBROKEN = 100_000
"""So wide is what no terminal shows: a record is a line, whatever its length."""


class Terminal(Console):
    """Rich's console, for texts that may be anybody's.

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
        return super().render_str(printable(text), **how)

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


def file_text(console: Console, file: str) -> str:
    """Return a file as a table has it: its name; the whole path where that goes elsewhere."""
    return PurePath(file).name if console.is_terminal else file


class LogLine(logging.Formatter):
    """A line of a log, which others' modules write."""

    def format(self, record: logging.LogRecord) -> str:
        """Return it as it can be printed."""
        return printable(super().format(record))
