"""The console of all commands, and log records, with sanitized text."""

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
"""The width without a terminal: a record is a line, whatever its length."""

HELD = "\ue000"
"""A placeholder for a blank without a line break: Rich breaks at no-break spaces, too.

It is a private use character, which sanitized text does not contain.
"""

_VALUE = re.compile(r"(?<=\d) (?=%|(?:s|min|h|px|kB|MB|GB)\b)|(?<=±) | (?=±)")
_COMMAND = re.compile(r"`[^`\n]+`")


class Terminal(Console):
    """Rich's console for untrusted texts.

    Lines are never broken in a pipe or a file. If the reader of a pipe is gone, the error is
    raised: Rich would exit with code 1.
    """

    @property
    def size(self) -> ConsoleDimensions:
        """The size of the terminal; without one, lines may have any length."""
        found = super().size
        return found if self.is_terminal else ConsoleDimensions(UNBROKEN, found.height)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    def print(self, *objects: Any, **how: Any) -> None:
        """Print; without a terminal, without trailing blanks, which table cells have."""
        if self.is_terminal:
            super().print(*objects, **how)
            return
        with self.capture() as captured:
            super().print(*objects, **how)
        self.file.write(re.sub(" +\n", "\n", captured.get()))

    def render_str(self, text: str, **how: Any) -> Text:
        """Sanitize a text, a line or a table's cell."""
        return super().render_str(held_together(printable(text), self.width), **how)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render as Rich does, with blanks in place of the placeholders."""
        for segment in super().render(renderable, options):
            if HELD in segment.text:
                yield Segment(segment.text.replace(HELD, " "), segment.style, segment.control)
            else:
                yield segment

    def waiting(self, what: str) -> AbstractContextManager[object]:
        """Show in a terminal, as a context, that work takes a while."""
        shows = self.is_terminal and not self.is_dumb_terminal
        return self.status(Text(what)) if shows else nullcontext()

    def print_error(self, message: str) -> None:
        """Print the sentence of an error, literally."""
        text = held_together(printable(message), self.width)
        self.print(Text.assemble(("error:", "red"), " ", text))

    def print_traceback(self, error: BaseException) -> None:
        """Print an error's traceback, with its causes."""
        lines = traceback.format_exception(error)
        self.print("".join(lines), markup=False, highlight=False, soft_wrap=True, end="")

    def on_broken_pipe(self) -> NoReturn:
        """Raise the current exception again."""
        raise


def held_together(text: str, width: int) -> str:
    """Return text in which values keep their units, and short commands are not broken.

    A command of more than `width` columns is broken anyway.
    """
    text = _VALUE.sub(HELD, text)
    return _COMMAND.sub(
        lambda found: found[0].replace(" ", HELD) if len(found[0]) < width else found[0], text
    )


def file_text(console: Console, file: str) -> str:
    """Return a file for a table: its name, or the whole path if that is in another folder."""
    return PurePath(file).name if console.is_terminal else file


class LogLine(logging.Formatter):
    """A log record of any library."""

    def format(self, record: logging.LogRecord) -> str:
        """Return it sanitized."""
        return printable(super().format(record))
