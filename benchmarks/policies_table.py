"""The tables of `policies.py`: points of true accuracy over another policy, and compute saved."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import mean
from typing import Any

import numpy as np
from contestants import markdown
from numpy.typing import NDArray

Row = dict[str, Any]
Array = NDArray[np.float64]

MOMENTS = 20
"""So often it is asked, while the budget is spent, what would be chosen."""

CEILING = "the best of 500 schedules, luck apart"

RESAMPLES = 2000
CHOICES = ("metric", "loss", "forecast")
"""By the best validation accuracy, by the least calibrated loss, by the forecast's best mean."""


class Answers:
    """What was chosen, by policy, scenario and world: accuracies, shape (choices, moments)."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._found: dict[tuple[str, str], dict[int, Array]] = defaultdict(dict)
        self.rows: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            name = row["policy"] + (f", {row['slots']} slots" if row["slots"] > 1 else "")
            found = np.array([row["accuracy"][by] for by in CHOICES])
            self._found[name, row["scenario"]][row["world"]] = found
            self.rows[name].append(row)
        self.ceilings = {
            (row["scenario"], row["world"]): row["ceiling"] for row in rows if row["ceiling"]
        }
        self.scenarios = list(dict.fromkeys(row["scenario"] for row in rows))

    def headroom(self, name: str, scenario: str) -> Array:
        """Return how far a policy ends below the best of many schedules, luck apart, by world."""
        found = self._found[name, scenario].items()
        choice = own_choice(name)
        return np.array(
            [
                self.ceilings[scenario, world] - mine[choice, -1]
                for world, mine in sorted(found)
                if (scenario, world) in self.ceilings
            ]
        )

    def pair(self, name: str, other: str, scenario: str) -> tuple[Array, Array]:
        """Return those of two policies in the worlds that both have searched, worlds first."""
        mine, theirs = self._found[name, scenario], self._found[other, scenario]
        both = sorted(mine.keys() & theirs.keys())
        shape = (0, len(CHOICES), MOMENTS)
        found = [np.array([each[world] for world in both]) for each in (mine, theirs)]
        return tuple(each.reshape(-1, *shape[1:]) for each in found)  # type: ignore[return-value]


def tables(rows: Sequence[Row], against: str) -> str:
    """Write all tables in markdown."""
    answers = Answers(rows)
    parts = points_table(answers, against), whole_table(answers, against), effort_table(answers)
    return "\n\n".join(parts)


def own_choice(name: str) -> int:
    """Return how a policy chooses: by its forecast, if it makes one."""
    return CHOICES.index("forecast" if name.startswith(("forecast", "-")) else "metric")


def points_table(answers: Answers, against: str) -> str:
    """Set each policy beside another by scenario, both by their own choice."""
    found = []
    for name in answers.rows:
        if name != against:
            differences = _differences(answers, name, against, own_choice(name))
            found.append([name, *map(_interval, differences), _interval(_average(differences))])
    left = [100 * answers.headroom(against, scenario) for scenario in answers.scenarios]
    there = [_resampled(len(each)) @ each if len(each) else each for each in left]
    found.append([CEILING, *map(_interval, there), _interval(_average(there))])
    return markdown([f"points over {against}", *answers.scenarios, "average"], found)


def whole_table(answers: Answers, against: str) -> str:
    """Set each policy beside another over all scenarios, by each kind of choice."""
    found = []
    for name in answers.rows:
        by_choice = [
            _interval(_average(_differences(answers, name, against, choice)))
            for choice in range(len(CHOICES))
        ]
        found.append([name, *by_choice, _share(answers, name, against)])
    header = [f"points over {against}, choice by", *CHOICES, f"compute for {against}'s result"]
    return markdown(header, found)


def effort_table(answers: Answers) -> str:
    """Tell what the searches did."""
    found = []
    for name, rows in answers.rows.items():
        means = [mean(row[what] for row in rows) for what in ("trials", "stage_runs")]
        longest = mean(row["ms_a_decision"] for row in rows)
        found.append([name, str(len(rows)), *(f"{m:.0f}" for m in means), f"{longest:.0f}"])
    return markdown(["policy", "searches", "trials", "stage runs", "ms a decision"], found)


def _resampled(worlds: int) -> Array:
    """Return weights of worlds, shape (1 + RESAMPLES, worlds): as they are, then drawn anew.

    Worlds of one number are alike in all scenarios, so they are drawn together.
    """
    drawn = np.random.default_rng(0).multinomial(worlds, np.full(worlds, 1 / worlds), RESAMPLES)
    return np.concatenate([np.ones((1, worlds)), drawn]) / worlds


def _differences(answers: Answers, name: str, against: str, choice: int) -> list[Array]:
    """Return by scenario the mean difference in points, and that of each resample of the worlds."""
    found = []
    for scenario in answers.scenarios:
        mine, theirs = answers.pair(name, against, scenario)
        points = 100 * (mine[:, choice, -1] - theirs[:, own_choice(against), -1])
        found.append(_resampled(len(points)) @ points if len(points) else points)
    return found


def _average(found: Sequence[Array]) -> Array:
    known = [each for each in found if len(each)]
    return np.asarray(np.mean(known, axis=0)) if known else np.zeros(0)


def _interval(found: Array, digits: int = 1) -> str:
    if not len(found):
        return "-"
    low, high = np.quantile(found[1:], (0.025, 0.975))
    return f"{found[0]:+.{digits}f} ({low:+.{digits}f} - {high:+.{digits}f})"


def _share(answers: Answers, name: str, against: str) -> str:
    """Write the part of the compute after which a policy is where the other ends, on average."""
    shares = []
    for scenario in answers.scenarios:
        mine, theirs = answers.pair(name, against, scenario)
        if len(mine):
            weights = _resampled(len(mine))
            curves = weights @ mine[:, own_choice(name)]
            shares.append(_reached(curves, weights @ theirs[:, own_choice(against), -1]))
    found = _average(shares)
    if not len(found):
        return "-"
    low, high = np.quantile(found[1:], (0.025, 0.975))
    return f"{found[0]:.2f} ({low:.2f} - {high:.2f})"


def _reached(curves: Array, final: Array) -> Array:
    """Return the share of the budget at which each curve first is at `final`; 1 if it is never."""
    there = curves >= final[:, None]
    first = np.where(there.any(axis=1), there.argmax(axis=1), MOMENTS - 1)
    return np.asarray((first + 1) / MOMENTS)
