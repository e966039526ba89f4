"""Sanitizing of untrusted text for terminals, logs and spreadsheets.

Names of files, classes and studies, metadata of weights files and messages of servers are
untrusted: an escape sequence could colour, hide or rewrite the output, and a bidirectional mark
reverse it. JSON needs none of this, as it escapes such characters itself.
"""

import re

from storage.redaction import redact_text

_FORMULA = re.compile(r"[\t\r\n]|\s*[=+@-]")


def visible(text: str, spared: str = "") -> str:
    """Return text with its control characters, except those `spared`, escaped."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in spared else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


def masked(text: str, mark: str = "?") -> str:
    """Return text of the same length with each control character replaced by `mark`."""
    return text if text.isprintable() else "".join(c if c.isprintable() else mark for c in text)


def harmless(cell: str) -> str:
    """Return a cell of a CSV that is safe for terminals and spreadsheet programs.

    Text that begins like a formula gets a leading ' and so stays text.
    """
    return visible(defused(cell))


def defused(cell: str) -> str:
    """Return a cell of a file that is read back: unchanged, unless it is a formula."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def printable(text: str) -> str:
    """Return printable text: line breaks are kept, passwords in URLs are hidden."""
    return redact_text(visible(text, spared="\n"))
