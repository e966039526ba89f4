"""The winner's score: observed, estimated on new photos, and the mean over seeds."""

from typing import Any

from study.formatting import count_text
from study.report.contents import Contents
from study.report.figures.style import (
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
)
from study.selection.result import Selection
from study.statistics.selection_bias import BiasCorrected


def estimate(contents: Contents) -> Panel:
    """Draw the winner's scores on one axis, with their intervals.

    Rows, the estimate first: on new photos, without photos that are also in train; observed; the
    mean over seeds with each seed's score; the probe that the search began with.
    """
    chosen = contents.selection
    if chosen is None:
        return Panel(None, "Once a trial has finished, its score and its interval are drawn here.")
    traces = _traces(chosen)
    names = list(dict.fromkeys(trace["name"] for trace in traces))
    form = score_format(contents)
    for trace in traces:
        trace |= {"hovertemplate": f"{trace['name']}: %{{x:{form}}}<extra></extra>"}
        trace |= {"y": [names.index(trace["name"])] * len(trace["x"])}
    drawn = figure(
        traces,
        64 + 26 * len(names),
        xaxis=score_axis(contents.study.metric)
        | {"title": {"text": ""}, "nticks": 4, "tickangle": 0},
        yaxis=axis(
            tickvals=list(range(len(names))),
            ticktext=names,
            range=[len(names) - 0.5, -0.5],
            showgrid=False,
            fixedrange=True,
        ),
        showlegend=False,
        margin={"l": 8, "r": 16, "t": 4, "b": 28},
    )
    return Panel(drawn, _said(chosen))


def _traces(chosen: Selection) -> list[dict[str, Any]]:
    rows = []
    if chosen.bias_corrected is not None:
        rows.append(_estimated("estimated on new photos", chosen.bias_corrected, PALETTE[0]))
    if chosen.leaks is not None and chosen.leaks.bias_corrected is not None:
        rows.append(_estimated("estimated without leaks", chosen.leaks.bias_corrected, PALETTE[5]))
    rows.append(_points("observed", [chosen.score], PALETTE[1], symbol="circle-open"))
    seeds = list(chosen.seed_scores.values())
    if len(seeds) > 1:
        many = f"mean of {len(seeds)} seeds"
        spread = {"type": "constant", "value": number(chosen.schedule_spread), "color": GREY}
        mean = _points(many, [chosen.schedule_mean], PALETTE[2], symbol="diamond")
        rows += [mean | {"error_x": spread}, _points(many, seeds, GREY, symbol="line-ns-open")]
    if chosen.probe is not None and chosen.probe.trial != chosen.trial:
        rows.append(_points("probe, before training", [chosen.probe.score], GREY, symbol="square"))
    return rows


def _estimated(name: str, found: BiasCorrected, colour: str) -> dict[str, Any]:
    row = _points(name, [found.estimate], colour, symbol="circle")
    if found.low is None or found.high is None:
        return row
    return row | {
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [number(found.high - found.estimate)],
            "arrayminus": [number(found.estimate - found.low)],
            "color": colour,
            "thickness": 3,
            "width": 6,
        }
    }


def _points(name: str, scores: list[float], colour: str, symbol: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": numbers(scores, 6),
        "marker": {"symbol": symbol, "color": colour, "size": 11, "line": {"width": 2}},
    }


def _said(chosen: Selection) -> str:
    parts = []
    if chosen.bias_corrected is not None and chosen.bias_corrected.low is not None:
        parts.append("The bar is the 95 % confidence interval of the estimate")
    if chosen.schedule_spread is not None:
        spread = chosen.text(chosen.schedule_spread)
        seeds = count_text(len(chosen.seed_scores), "seed")
        parts.append(f"over {seeds} of its schedule the standard deviation is {spread}")
    return "; ".join(parts)[:1].upper() + "; ".join(parts)[1:] + "." if parts else ""


FIGURES = (Drawing("estimate", "winner", "", estimate),)
