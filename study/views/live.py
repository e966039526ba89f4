"""Rows that fit a terminal's width: the least important cells are dropped first."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from study.sanitizing import printable, visible

BAR = 16
"""The width of a bar in columns."""

GAP = "  "


@dataclass(frozen=True)
class Cell:
    """A part of a row. The one of least `weight` is dropped first."""

    text: str
    weight: int
    style: str = ""


def fitted(cells: Sequence[Cell], width: int) -> Text:
    """Join cells to a row of at most `width` columns."""
    kept = [
        Cell(visible(printable(cell.text)), cell.weight, cell.style) for cell in cells if cell.text
    ]
    while len(kept) > 1 and sum(cell_len(c.text) + len(GAP) for c in kept) - len(GAP) > width:
        kept.remove(min(kept, key=lambda cell: cell.weight))
    row = Text(GAP).join(Text(cell.text, cell.style) for cell in kept)
    row.truncate(width, overflow="ellipsis")
    return row


def bar(share: float, weight: int, *, ascii_only: bool = False) -> Sequence[Cell]:
    """Draw a share as a bar, with its percentage."""
    share = min(max(share, 0.0), 1.0)
    full, empty = ("#", ".") if ascii_only else ("━", "─")
    done = int(BAR * share)
    return [
        Cell(full * done + empty * (BAR - done), weight, "cyan"),
        Cell(f"{100 * share:3.0f} %", weight + 1),
    ]
