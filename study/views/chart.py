"""Curves in a terminal, drawn with blocks an eighth of a line high."""

import math
from collections.abc import Sequence

_BLOCKS = " ▁▂▃▄▅▆▇█"


def chart(values: Sequence[float], *, height: int = 5, width: int = 72) -> list[str]:
    """Draw values as columns in `height` lines, the first and last labelled with the range.

    More values than `width` are thinned out evenly; the last one is always kept. A value that is
    not finite leaves a gap; without finite values, there are no lines.
    """
    count, last = min(len(values), width), len(values) - 1
    shown = [values[last - round(i * last / max(count - 1, 1))] for i in reversed(range(count))]
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return []
    low, high = min(finite), max(finite)
    span = (high - low) or 1.0
    eighths = [
        1 + round((value - low) / span * (8 * height - 1)) if math.isfinite(value) else 0
        for value in shown
    ]
    # Each value is two columns wide if there is room: single dots are hard to see.
    wide = 2 if 2 * len(shown) <= width else 1
    lines = []
    for row in reversed(range(height)):
        label = high if row == height - 1 else low if row == 0 else None
        cells = (_BLOCKS[max(0, min(8, eighth - 8 * row))] * wide for eighth in eighths)
        lines.append(("" if label is None else f"{label:.4g}").rjust(9) + " " + "".join(cells))
    return lines
