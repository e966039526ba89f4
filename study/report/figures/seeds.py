"""Seeds: the variance of a schedule's score."""

from collections.abc import Sequence
from typing import Any

from study.report.contents import Contents
from study.report.figures.style import (
    FAINT,
    GREY,
    PALETTE,
    Drawing,
    Panel,
    axis,
    figure,
    number,
    numbers,
    score_axis,
    score_format,
    shown,
)
from study.selection.schedule_ranking import ScheduleLine

MOST = 30


def seeds(contents: Contents) -> Panel:
    """Draw each schedule's seeds, their mean and its interval, the best schedule on top.

    A seed's `customdata` is [its trial's number, its seed].
    """
    lines = contents.schedules[:MOST]
    if not lines:
        return Panel(
            None,
            contents.unselected or "Once a schedule has been trained, its seeds are drawn here.",
        )
    if all(len(line.scores) < 2 for line in lines):
        return Panel(
            None,
            "No schedule has a second seed yet: the same search with --repeats 3 trains the best "
            "again under other seeds, and their means and intervals are drawn here.",
        )
    metric = contents.study.metric
    form = score_format(contents)
    drawn = figure(
        [_seeds(lines, contents, form), _means(lines, form)],
        140 + 22 * len(lines),
        xaxis=score_axis(metric),
        yaxis=axis(
            tickvals=list(range(len(lines))),
            ticktext=[f"{place}. trial {line.trial}" for place, line in enumerate(lines, start=1)],
            autorange="reversed",
            showgrid=False,
        ),
    )
    tied = sum(line.tied for line in contents.schedules[1:])
    said = f"The first {len(lines)} of {len(contents.schedules)} schedules"
    if tied:
        said += f"; {tied} of the others are tied with the first"
    if not all(line.tied for line in lines):
        said += "; those in vermilion are significantly worse"
    return Panel(drawn, said + ".")


def _seeds(lines: Sequence[ScheduleLine], contents: Contents, form: str) -> dict[str, Any]:
    numbered = {(t.schedule_digest, t.seed): t.number for t in contents.trials}
    points = [
        (place, line, seed, score)
        for place, line in enumerate(lines)
        for seed, score in line.scores.items()
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "a seed",
        "x": numbers((score for *_, score in points), 6),
        "y": [place for place, *_ in points],
        "customdata": [[numbered.get((line.digest, seed)), seed] for _, line, seed, _ in points],
        "marker": {"color": PALETTE[4], "size": 8, "line": {"color": FAINT, "width": 1}},
        "hovertemplate": "trial %{customdata[0]}, seed %{customdata[1]}: %{x:"
        + form
        + "}<extra></extra>",
    }


def _means(lines: Sequence[ScheduleLine], form: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "mean and 95 % interval",
        "x": numbers((line.mean for line in lines), 6),
        "y": list(range(len(lines))),
        "text": [shown(line.schedule, 120) for line in lines],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [
                number(0.0 if line.high is None else line.high - line.mean) for line in lines
            ],
            "arrayminus": [
                number(0.0 if line.low is None else line.mean - line.low) for line in lines
            ],
            "thickness": 1.2,
            "color": GREY,
        },
        "marker": {
            "symbol": "diamond",
            "size": 10,
            "color": [PALETTE[0] if line.tied else PALETTE[5] for line in lines],
        },
        "hovertemplate": "mean %{x:" + form + "}<br>%{text}<extra></extra>",
    }


FIGURES = (Drawing("seeds", "seeds", "", seeds),)
