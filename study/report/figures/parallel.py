"""Parallel coordinates: a line a trial, through its parameters to its score.

Drawn with plain lines: plotly's own trace for it uses WebGL and compiles code at run time, which
the page's security policy forbids, and it prints as a coarse raster image.
"""

import math
from collections.abc import Sequence
from typing import Any

from storage.records import Trial
from study.formatting import count_text
from study.report.contents import Contents
from study.report.figures.importance import importance
from study.report.figures.parameters import (
    Table,
    Value,
    is_logarithmic,
    is_numeric,
    levels_of,
    parameter_text,
    table_of,
)
from study.report.figures.style import (
    GREY,
    Drawing,
    Panel,
    axis,
    colour_at,
    figure,
    number,
    shown,
)

MOST_TRIALS, MOST_AXES, MOST_LEVELS, SHADES = 1000, 16, 12, 10
JITTER = 0.03
"""Equal values are spread over this share of the axis, better trials on top."""


def parallel(contents: Contents) -> Panel:
    """Draw the trials that have a score; a point's `customdata` is its trial's number.

    Of many parameters the most important ones are shown.
    """
    scored = [t for t in contents.ranked if number(t.score) is not None]
    if len(scored) < 2:
        return Panel(None, "From the second trial with a score on, parameters are compared here.")
    some = _thinned(scored)
    table = table_of([trial.schedule for trial in some])
    if not table:
        return Panel(None, "All trials with a score have the same parameters.")
    order = [*(name for name, _ in importance(contents).data or ()), *table]
    axes = sorted(table, key=order.index)[:MOST_AXES]
    left_out = len(table) - len(axes)
    table = {name: values for name, values in table.items() if name in axes}
    metric = contents.study.metric
    places, labels = _places(table, some, contents)
    names = [*(shown(name, 24) for name in table), metric.label]
    said = (
        f"{len(some):,} of {count_text(len(contents.trials), 'trial')}, the better the more orange"
    )
    if left_out:
        said += f"; {left_out} of the parameters that vary are not shown"
    traces = [*_lines(places, table, some, contents), _rails(len(names)), _labels(labels)]
    drawn = figure(
        traces,
        460,
        xaxis=axis(
            tickvals=list(range(len(names))),
            ticktext=names,
            side="top",
            tickangle=-35,
            showgrid=False,
            range=[-0.6, len(names) - 0.5],
        ),
        yaxis={"visible": False, "range": [-0.08, 1.08]},
        showlegend=False,
        margin={"l": 16, "r": 48, "t": 80, "b": 16},
        # The minimum readable width: the page scrolls within.
        meta={"min_width": 60 * len(names)},
    )
    return Panel(drawn, said + ".")


def _thinned(scored: Sequence[Trial]) -> Sequence[Trial]:
    """Return the best half, and of the rest as many evenly over all scores."""
    if len(scored) <= MOST_TRIALS:
        return scored
    best, rest = scored[: MOST_TRIALS // 2], scored[MOST_TRIALS // 2 :]
    step = len(rest) / (MOST_TRIALS // 2)
    return [*best, *(rest[int(place * step)] for place in range(MOST_TRIALS // 2))]


def _places(
    table: Table, trials: Sequence[Trial], contents: Contents
) -> tuple[list[list[float]], list[list[tuple[float, str]]]]:
    """Return for each axis the trials' positions, from 0 to 1, and the axis's labels."""
    columns = list(table.values())
    found = [_column(values) for values in columns]
    metric = contents.study.metric
    scores = [float(trial.score or 0.0) for trial in trials]
    spots, _ = _span(scores, logarithmic=False)
    if not metric.higher_is_better:
        spots = [1 - spot for spot in spots]
    ends = sorted({min(scores), max(scores)})
    labels = [(spots[scores.index(end)], contents.text(end)) for end in ends]
    places = [_spread(spots) if few else spots for spots, _, few in found]
    return [*places, spots], [*(labels for _, labels, _ in found), labels]


def _column(values: Sequence[Value]) -> tuple[list[float], list[tuple[float, str]], bool]:
    """Return the positions on an axis, its labels, and whether it has only a few levels."""
    levels = levels_of(values)
    given = [float(value) for value in values if isinstance(value, int | float)]
    if len(levels) <= MOST_LEVELS or not is_numeric(values) or None in values:
        spot = {level: place / max(len(levels) - 1, 1) for place, level in enumerate(levels)}
        step = math.ceil(len(levels) / MOST_LEVELS)
        labels = [(spot[level], shown(parameter_text(level), 18)) for level in levels[::step]]
        return [spot[value] for value in values], labels, True
    logarithmic = is_logarithmic(given)
    places, ends = _span(given, logarithmic=logarithmic)
    return places, [(place, parameter_text(value)) for place, value in ends], False


def _span(
    values: Sequence[float], *, logarithmic: bool
) -> tuple[list[float], list[tuple[float, float]]]:
    on = [math.log(value) for value in values] if logarithmic else list(values)
    low, width = min(on), (max(on) - min(on)) or 1.0
    ends = [(0.0, min(values)), (1.0, max(values))]
    return [(value - low) / width for value in on], ends


def _spread(spots: Sequence[float]) -> list[float]:
    # The trials come best first.
    last = max(len(spots) - 1, 1)
    return [spot + JITTER * (1 - 2 * place / last) for place, spot in enumerate(spots)]


def _lines(
    places: Sequence[Sequence[float]], table: Table, trials: Sequence[Trial], contents: Contents
) -> list[dict[str, Any]]:
    """Draw the trials in shades by score, the best last and so on top."""
    columns = list(table.values())
    count = len(trials)
    shades = min(SHADES, count)
    traces = []
    for shade in reversed(range(shades)):
        mine = range(shade * count // shades, (shade + 1) * count // shades)
        x: list[float | None] = []
        y: list[float | None] = []
        text: list[str] = []
        picked: list[int | None] = []
        for place in mine:
            trial = trials[place]
            x += [*range(len(places)), None]
            y += [*(number(spots[place]) for spots in places), None]
            text += [*(shown(parameter_text(column[place]), 30) for column in columns)]
            text += [contents.text(trial.score), ""]
            picked += [trial.number] * (len(places) + 1)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": x,
                "y": y,
                "text": text,
                "customdata": picked,
                "hovertemplate": "trial %{customdata}: %{text}<extra></extra>",
                "line": {
                    "color": colour_at(1 - shade / max(shades - 1, 1)),
                    "width": 1.6 if shade == 0 else 1,
                },
                "opacity": 0.9 if shade == 0 or count < 100 else 0.5,
            }
        )
    return traces


def _rails(axes: int) -> dict[str, Any]:
    x = [place for axis in range(axes) for place in (axis, axis, None)]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": [-0.05, 1.05, None] * axes,
        "line": {"color": GREY, "width": 1},
        "hoverinfo": "skip",
    }


def _labels(labels: Sequence[Sequence[tuple[float, str]]]) -> dict[str, Any]:
    flat = [(axis, spot, text) for axis, some in enumerate(labels) for spot, text in some]
    return {
        "type": "scatter",
        "mode": "text",
        "cliponaxis": False,
        "x": [axis - 0.04 if axis < len(labels) - 1 else axis + 0.04 for axis, _, _ in flat],
        "y": [number(spot) for _, spot, _ in flat],
        "text": [text for _, _, text in flat],
        "textposition": [
            "middle left" if axis < len(labels) - 1 else "middle right" for axis, _, _ in flat
        ],
        "textfont": {"size": 11},
        "hoverinfo": "skip",
    }


FIGURES = (Drawing("parameters", "parameters", "Parallel coordinates", parallel),)
