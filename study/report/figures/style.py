"""The common style of all figures: colours, layout, and the escaping of text."""

import html
import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from study.report.contents import Contents
from trainers.metrics import Metric

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A800")
"""Distinguishable with any colour vision, on white and on black.

Okabe and Ito (2008), without their black, and with their yellow darkened.
"""

WEAK, MIDDLE, GOOD = (86, 180, 233), (169, 169, 169), (230, 159, 0)
"""For scores: blue over grey to orange, distinguishable with any colour blindness."""

SCALE = [[at, f"rgb{rgb}"] for at, rgb in ((0, WEAK), (0.5, MIDDLE), (1, GOOD))]
FAINT = "rgba(128, 128, 128, 0.25)"
GREY = "#888888"

LONGEST = 60
"""Maximum length of a name that is shown."""

# What plotly reads as markup, as a template's field, as the end of an attribute or as TeX. Of the
# named entities it knows few, of the numbered ones all.
_RISKY = str.maketrans({sign: f"&#{ord(sign)};" for sign in "\"'{}$`\\"})

Figure = dict[str, Any]
"""The arguments of `Plotly.newPlot`: data and layout, plain values only."""


@dataclass(frozen=True)
class Panel:
    """A figure, a sentence on it, and data for the page's script.

    `figure` is None if there is nothing to draw; then `said` tells why. `said` and `data` hold
    unescaped names: the template escapes them, and the script sets them as text. Names in `figure`
    are escaped by `shown`. Numbers are finite, or None.
    """

    figure: Figure | None
    said: str = ""
    data: Any = None


@dataclass(frozen=True)
class Drawing:
    """A figure of the report. Each module of this package lists its own in `FIGURES`.

    `section` is the id of the section that shows it, "" for data that only the page's script uses;
    within a section the figures are in the order of `place`.
    """

    name: str
    section: str
    title: str
    draw: Callable[[Contents], Panel]
    place: int = 0


def shown(text: object, longest: int = LONGEST) -> str:
    """Make a name safe for plotly, which interprets labels, ticks and hover texts as HTML.

    Invisible characters are dropped: control, formatting (including bidirectional marks) and lone
    surrogates. Long names are shortened in the middle, as file names differ at their end.
    """
    seen = "".join(c if unicodedata.category(c)[0] != "C" else "" for c in str(text))
    if len(seen) > longest:
        tail = longest // 3
        seen = f"{seen[: longest - tail - 1]}…{seen[-tail:]}"
    return html.escape(seen, quote=False).translate(_RISKY)


def number(value: float | None, digits: int = 4) -> float | None:
    """Round to significant digits, to be short in JSON; None for a number that is not finite."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def numbers(values: Iterable[float | None], digits: int = 4) -> list[float | None]:
    """Round them all."""
    return [number(value, digits) for value in values]


def figure(traces: list[dict[str, Any]], height: int, **layout: Any) -> Figure:
    """Put traces into the layout of all figures.

    Its backgrounds are transparent and no text or grid has a colour: the page sets these, light or
    dark.
    """
    common: dict[str, Any] = {
        "height": height,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 56, "r": 16, "t": 24, "b": 48},
        "colorway": list(PALETTE),
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        # Above: below, on a phone, it would lie on the title of the axis.
        "legend": {"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"},
    }
    return {"data": traces, "layout": common | layout}


def axis(title: str = "", **others: Any) -> dict[str, Any]:
    """Return an axis that makes room for its labels."""
    return {
        "title": {"text": title, "standoff": 10},
        "automargin": True,
        "ticks": "outside",  # invisible ticks, which keep labels away from the marks
        "ticklen": 4,
        "tickcolor": "rgba(0,0,0,0)",
        "zeroline": False,
    } | others


def count_axis(title: str, last: int, **others: Any) -> dict[str, Any]:
    """Return an axis of whole numbers from 1 to `last`, without fractional ticks."""
    return axis(title, **({"dtick": 1} if last <= 10 else {}), **others)


def time_unit(seconds: float) -> tuple[str, float]:
    """Return the unit in which a span of time is read, and its seconds."""
    if seconds < 120:
        return "seconds", 1
    return ("minutes", 60) if seconds < 2 * 3600 else ("hours", 3600)


def share_axis(title: str, **others: Any) -> dict[str, Any]:
    """Return an axis from 0 to 1, in per cent."""
    return axis(title, range=[-0.02, 1.02], tickformat=".0%", **others)


def score_axis(metric: Metric, **others: Any) -> dict[str, Any]:
    """Return the axis of a study's metric: shares in per cent, all others unchanged."""
    form = {"tickformat": ".1%"} if metric.is_share else {}
    return axis(metric.label, **form, **others)


def score_format(contents: Contents) -> str:
    """Return how hover texts show a score: as `Contents.text` does."""
    decimals = len(contents.text(0.5).partition(".")[2])
    return f".{decimals}{'%' if contents.study.metric.is_share else 'f'}"


def colour_at(share: float) -> str:
    """Return the colour on the scale at a share from 0 (weak) to 1 (good)."""
    first, second = (WEAK, MIDDLE) if share < 0.5 else (MIDDLE, GOOD)
    way = min(max(2 * share - (share >= 0.5), 0.0), 1.0)
    mixed = (round(a + way * (b - a)) for a, b in zip(first, second, strict=True))
    return "rgb({}, {}, {})".format(*mixed)


def ranks_of(scores: Mapping[Any, float], *, higher_is_better: bool) -> dict[Any, float]:
    """Return each score's rank as a share: 0 the worst, 1 the best."""
    order = sorted(scores, key=lambda one: scores[one], reverse=not higher_is_better)
    last = max(len(order) - 1, 1)
    return {one: place / last if len(order) > 1 else 1.0 for place, one in enumerate(order)}
