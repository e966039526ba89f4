"""The console of all commands, and the lines of the log: nothing reaches them that is not fit."""

import logging
import traceback
from typing import Any, NoReturn

from rich.console import Console, ConsoleOptions
from rich.text import Text

from study.printable import fit

UNBROKEN = 100_000
"""So wide is what no terminal shows: a record is a line, whatever its length."""


class Terminal(Console):
    """Rich's console, for texts that may be anybody's.

    Into a pipe or a file lines are never broken. Where nobody reads, the error goes on: Rich would
    exit with a 1 of its own.
    """

    @property
    def options(self) -> ConsoleOptions:
        """How to render; without a terminal, lines may be as long as they are."""
        found = super().options
        return found if self.is_terminal else found.update(width=UNBROKEN)

    def render_str(self, text: str, **how: Any) -> Text:
        """Make of a text, be it a line or a table's cell, what is printed."""
        return super().render_str(fit(text), **how)

    def print_traceback(self, error: BaseException) -> None:
        """Print where an error came from, and all that led to it."""
        lines = traceback.format_exception(error)
        self.print("".join(lines), markup=False, highlight=False, soft_wrap=True, end="")

    def on_broken_pipe(self) -> NoReturn:
        """Raise again what is being handled."""
        raise


class LogLine(logging.Formatter):
    """A line of a log, which others' modules write."""

    def format(self, record: logging.LogRecord) -> str:
        """Return it as it can be printed."""
        return fit(super().format(record))
