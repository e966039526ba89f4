"""Texts of others made fit for a terminal, a log and a spreadsheet: the one place for it.

Names of files, classes and studies, formats of weights files and what servers say are others' to
choose: an escape sequence in one would colour, hide or rewrite what is shown, and a bidirectional
mark would have it read backwards. JSON escapes what must be by itself, and stays as it is.
"""

import re

from storage.redaction import redact_text

_FORMULA = re.compile(r"[\t\r\n]|\s*[=+@-]")


def visible(text: str, spared: str = "") -> str:
    """Return text whose control characters, but those `spared`, are spelled out."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in spared else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


def masked(text: str, mark: str = "?") -> str:
    """Return text of the same length with `mark` in the place of each control character."""
    return text if text.isprintable() else "".join(c if c.isprintable() else mark for c in text)


def harmless(cell: str) -> str:
    """Return a cell of a CSV that steers no terminal and is no formula to a spreadsheet program.

    What begins like a formula gets a leading ', which makes it text.
    """
    return visible(defused(cell))


def defused(cell: str) -> str:
    """Return a cell of a file that is read back: as it is, unless it is a formula."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def printable(text: str) -> str:
    """Return text that can be printed: lines stay lines, URLs show no passwords."""
    return redact_text(visible(text, spared="\n"))
