"""Progress of the search: each trial's score when it ended, and the best so far."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from storage.records import State, Trial
from study.formatting import count_text
from study.report.contents import Contents
from study.report.figures.style import (
    PALETTE,
    Drawing,
    Panel,
    axis,
    figure,
    number,
    numbers,
    score_axis,
    score_format,
    time_unit,
)

_MARKS = {
    State.COMPLETE: ("circle", PALETTE[4]),
    State.PRUNED: ("x-thin-open", PALETTE[3]),
    State.FAILED: ("cross", PALETTE[5]),
    State.RUNNING: ("circle-open", PALETTE[2]),
}


def progress(contents: Contents) -> Panel:
    """Draw scores over time; a point's `customdata` is its trial's number."""
    ended = sorted(
        (t for t in contents.trials if t.finished_at and number(t.score) is not None),
        key=lambda trial: (trial.finished_at, trial.number),
    )
    if len(ended) < 2:
        return Panel(None, "From the second trial with a score on, the best so far is drawn here.")
    metric = contents.study.metric
    unit, times = _times(contents, ended)
    form = score_format(contents)
    scores = [float(trial.score or 0.0) for trial in ended]
    best = list(accumulate(scores, max if metric.higher_is_better else min))
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": "best so far",
        "x": times,
        "y": numbers(best, 6),
        "line": {"shape": "hv", "color": PALETTE[0], "width": 2},
        "hovertemplate": "best so far %{y:" + form + "}<extra></extra>",
    }
    points = [
        _points(
            state, [(at, t) for at, t in zip(times, ended, strict=True) if t.state is state], form
        )
        for state in _MARKS
        if any(trial.state is state for trial in ended)
    ]
    drawn = figure(
        [*points, line],
        360,
        xaxis=axis(f"{unit} since the first trial began"),
        yaxis=score_axis(metric),
    )
    gains = sum(after != before for before, after in pairwise(best))
    often = {0: "not", 1: "once"}.get(gains, f"{gains} times")
    said = f"{count_text(len(ended), 'trial')} with a score; the first was improved {often}."
    return Panel(drawn, said)


def _points(state: State, mine: Sequence[tuple[float | None, Trial]], form: str) -> dict[str, Any]:
    symbol, colour = _MARKS[state]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": state.value,
        "x": [at for at, _ in mine],
        "y": numbers((trial.score for _, trial in mine), 6),
        "customdata": [trial.number for _, trial in mine],
        "marker": {
            "symbol": symbol,
            "color": colour,
            "size": 7,
            "opacity": 0.8,
            "line": {"color": colour, "width": 1.5},
        },
        "hovertemplate": "trial %{customdata}: %{y:" + form + "}<extra></extra>",
    }


def _times(contents: Contents, ended: Sequence[Trial]) -> tuple[str, list[float | None]]:
    """Return the unit of time, and when each trial ended."""
    first = min(trial.started_at for trial in contents.trials)
    ends = [((trial.finished_at or first) - first).total_seconds() for trial in ended]
    unit, each = time_unit(max(ends))
    return unit, numbers((end / each for end in ends), 6)


FIGURES = (Drawing("progress", "compute", "Best so far", progress),)
