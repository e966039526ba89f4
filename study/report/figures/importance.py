"""Importance of parameters by a random forest, only if it predicts at all."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.records import State, Trial
from study.report.contents import Contents
from study.report.figures.parameters import Table, is_numeric, levels_of, table_of
from study.report.figures.style import (
    GREY,
    PALETTE,
    Drawing,
    Panel,
    axis,
    figure,
    number,
    numbers,
    shown,
)

FEWEST = 20
"""From fewer schedules a forest learns nothing reproducible."""

MOST_BARS, TREES, SAMPLES = 15, 100, 512


@lru_cache(maxsize=1)  # a forest takes seconds, and two figures need it
def importance(contents: Contents) -> Panel:
    """Draw each parameter's importance by a random forest over the scores.

    It is the mean decrease of impurity (Breiman 2001), as in Optuna's evaluator of that name,
    summed over the columns of a category. A row is a schedule, with its mean over seeds: repeats in
    and out of a tree's sample would not be independent. `data` are (parameter, share), the most
    important first.
    """
    schedules, scores = _outcomes(contents.trials)
    if len(scores) < FEWEST:
        return Panel(
            None,
            f"Importance is estimated once {FEWEST} schedules are trained to their end; "
            f"there are {len(scores)}.",
        )
    table = table_of([trial.schedule for trial in schedules])
    if not table or np.ptp(scores) == 0:
        return Panel(None, "No importance can be estimated: scores or parameters do not vary.")
    explained, shares, spreads = _forest(table, np.array(scores))
    if explained <= 0:
        return Panel(
            None,
            "No importance can be estimated: a random forest predicts the scores of schedules that "
            f"it has not seen no better than their mean (out-of-bag R² {explained:.2f}).",
        )
    order = sorted(table, key=lambda name: -shares[name])
    names = order[:MOST_BARS][::-1]
    drawn = figure(
        [_bars(names, shares, spreads)],
        80 + 24 * len(names),
        xaxis=axis("share of the explained variance", tickformat=".0%", rangemode="tozero"),
        yaxis=axis(
            tickvals=list(range(len(names))),
            ticktext=[shown(name, 30) for name in names],
            showgrid=False,
        ),
    )
    said = (
        f"A random forest over {len(scores)} schedules explains {explained:.0%} of the variance "
        "of their scores (out-of-bag R²); error bars are standard deviations over its trees."
    )
    return Panel(drawn, said, [[name, number(shares[name])] for name in order])


def _bars(
    names: Sequence[str], shares: Mapping[str, float], spreads: Mapping[str, float]
) -> dict[str, Any]:
    """Return a bar for each parameter, with its standard deviation."""
    return {
        "type": "bar",
        "orientation": "h",
        "x": numbers(shares[name] for name in names),
        "y": list(range(len(names))),
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": numbers(spreads[name] for name in names),
            "arrayminus": numbers(min(spreads[name], shares[name]) for name in names),
            "thickness": 1,
            "color": GREY,
        },
        "marker": {"color": PALETTE[0]},
        "hovertemplate": "%{x:.1%}<extra></extra>",
    }


def _outcomes(trials: Sequence[Trial]) -> tuple[list[Trial], list[float]]:
    """Return a trial of each schedule that was trained to its end, and the mean over its seeds."""
    found: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        # Pruned trials score lower because they were pruned.
        if trial.state is State.COMPLETE and number(trial.score) is not None:
            found[trial.schedule_digest].append(trial)
    means = [fmean(float(trial.score or 0.0) for trial in same) for same in found.values()]
    return [same[0] for same in found.values()], means


def _forest(
    table: Table, scores: NDArray[np.float64]
) -> tuple[float, dict[str, float], dict[str, float]]:
    """Return the out-of-bag R², and each parameter's share with its spread over the trees."""
    from sklearn.ensemble import RandomForestRegressor

    columns, owners = _encoded(table)
    forest = RandomForestRegressor(
        n_estimators=TREES,
        min_samples_leaf=2,
        max_samples=min(SAMPLES, len(scores)),
        oob_score=True,
        random_state=0,
        n_jobs=1,
    ).fit(columns, scores)
    by_tree = np.array([tree.feature_importances_ for tree in forest.estimators_])
    names = list(table)
    mine = np.array([[owner == name for name in names] for owner in owners], float)
    shares = by_tree @ mine
    means, spreads = shares.mean(axis=0), shares.std(axis=0)
    return (
        float(forest.oob_score_),
        dict(zip(names, means.tolist(), strict=True)),
        dict(zip(names, spreads.tolist(), strict=True)),
    )


def _encoded(table: Table) -> tuple[NDArray[np.float64], list[str]]:
    """Return numbers unchanged and a column for each category, and each column's parameter."""
    columns: list[list[float]] = []
    owners = []
    for name, values in table.items():
        if is_numeric(values):
            # A missing stage is below all others.
            columns.append([-1.0 if value is None else float(value) for value in values])
            owners.append(name)
            continue
        for level in levels_of(values):
            columns.append([float(value == level) for value in values])
            owners.append(name)
    return np.array(columns).T, owners


FIGURES = (Drawing("importance", "parameters", "Importance", importance, place=1),)
