"""The tables of `recipe.py`: test errors, ratios over sets, paired differences, what each took."""

import math
from collections.abc import Iterable, Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np
from contestants import markdown
from numpy.typing import NDArray

Row = dict[str, Any]
Rates = NDArray[np.float64]
"""Of each test photo, in how many of the seeds it is misclassified, as a share."""

RESAMPLES = 2000
PEER = "fastai"


class Results:
    """Answers by contestant and set, over seeds."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self.contestants = list(dict.fromkeys(row["contestant"] for row in rows))
        self.sets = sorted({row["data"] for row in rows})

    def of(self, contestant: str, data: str) -> list[Row]:
        """Return a contestant's answers on a set, by seed."""
        own = (row["contestant"] == contestant and row["data"] == data for row in self._rows)
        found = [row for row, is_own in zip(self._rows, own, strict=True) if is_own]
        return sorted(found, key=lambda row: int(row["seed"]))

    def rates(self, contestant: str, data: str) -> Rates:
        """Return how often each test photo is misclassified."""
        answers = self.of(contestant, data)
        wrong = np.zeros(answers[0]["test_photos"])
        for row in answers:
            wrong[row["test_wrong"]] += 1 / len(answers)
        return wrong

    def shared(self, contestant: str, other: str) -> list[str]:
        """Return the sets that both have answered."""
        return [d for d in self.sets if self.of(contestant, d) and self.of(other, d)]


def tables(rows: Sequence[Row], against: str) -> str:
    """Write all tables in markdown; those that compare, compare with `against`."""
    competing = Results([row for row in rows if row["entry"] != "ablation"])
    ablation = Results([row for row in rows if row["entry"] == "ablation"])
    parts = []
    if competing.contestants:
        parts += [errors_table(competing, against), differences_table(competing, against)]
        parts += [cost_table(competing), overtaking_table(competing)]
    if ablation.contestants:
        recipe = "the recipe"
        parts += [errors_table(ablation, recipe), differences_table(ablation, recipe)]
        parts += [cost_table(ablation)]
    return "\n\n".join(parts)


def errors_table(results: Results, against: str) -> str:
    """Count test errors: mean over seeds, their standard deviation, and ratios over sets."""
    header = ["test errors", *(_head(results, data) for data in results.sets)]
    rows = [
        [
            name,
            *(_errors(results.of(name, data)) for data in results.sets),
            ratio(results, name, against),
        ]
        for name in results.contestants
    ]
    return markdown([*header, f"times the errors of {against} (95 %)"], rows)


def _head(results: Results, data: str) -> str:
    photos = {row["test_photos"] for name in results.contestants for row in results.of(name, data)}
    return f"{data}, of {max(photos)}"


def _errors(answers: Sequence[Row]) -> str:
    return spread([len(row["test_wrong"]) for row in answers])


def ratio(results: Results, name: str, against: str) -> str:
    """Write the geometric mean over sets, with an interval from resampling the test photos."""
    sets = results.shared(name, against)
    if name == against or not sets:
        return "-"
    draws = np.random.default_rng(0)
    logs, samples = [], np.zeros(RESAMPLES)
    for data in sets:
        pair = np.stack([results.rates(name, data), results.rates(against, data)])
        n = pair.shape[1]
        drawn = pair @ draws.multinomial(n, np.full(n, 1 / n), RESAMPLES).T
        # Half an error more in both, so that none at all has a logarithm.
        logs.append(_log_ratio(*pair.sum(axis=1)))
        samples += np.log((drawn[0] + 0.5) / (drawn[1] + 0.5)) / len(sets)
    low, high = np.exp(np.quantile(samples, (0.025, 0.975)))
    partly = "" if sets == results.sets else f", {len(sets)} sets"
    return f"{math.exp(mean(logs)):.2f} ({low:.2f} - {high:.2f}{partly})"


def _log_ratio(own: float, other: float) -> float:
    return math.log((own + 0.5) / (other + 0.5))


def differences_table(results: Results, against: str) -> str:
    """Compare photo by photo: errors more or fewer, with the standard error over photos."""
    rows = []
    for name in results.contestants:
        sets = results.shared(name, against)
        if name == against or not sets:
            continue
        pairs = {d: results.rates(name, d) - results.rates(against, d) for d in sets}
        cells = [_difference(pairs[d]) if d in pairs else "-" for d in results.sets]
        points = 100 * mean(float(d.mean()) for d in pairs.values())
        error = 100 * math.sqrt(sum(d.var(ddof=1) / len(d) for d in pairs.values())) / len(sets)
        rows.append([name, *cells, f"{points:+.2f} ± {error:.2f}"])
    return markdown(
        [f"errors against {against}", *results.sets, "over the sets, points of 100 photos"], rows
    )


def _difference(differences: Rates) -> str:
    error = math.sqrt(len(differences) * differences.var(ddof=1))
    return f"{differences.sum():+.1f} ± {error:.1f}"


def cost_table(results: Results) -> str:
    """Tell what each took, and CPU seconds for each 250 photos to train on."""
    rows = []
    for name in results.contestants:
        answers = [row for data in results.sets for row in results.of(name, data)]
        rows.append(
            [
                name,
                spread([row["cpu_seconds"] for row in answers]),
                spread([row["seconds"] for row in answers]),
                f"{max(250 * row['cpu_seconds'] / row['train_photos'] for row in answers):.1f}",
                str(len(answers)),
            ]
        )
    return markdown(
        ["what it took", "CPU, s", "wall clock, s", "CPU s per 250 photos, most", "runs"], rows
    )


def overtaking_table(results: Results) -> str:
    """Tell when Encore first makes no more test errors than the tuned peer did in the end.

    Encore's points in time are its answers: the first schedule alone, then each moment.
    """
    rows = []
    for data in results.sets:
        of_peer = results.of(PEER, data)
        if not of_peer:
            continue
        errors, cpu = _mean_errors(of_peer), mean(row["cpu_seconds"] for row in of_peer)
        for name in (n for n in results.contestants if n.startswith("encore")):
            own = results.of(name, data)
            if own and "ensemble" not in name and _mean_errors(own) <= errors:
                took = mean(row["cpu_seconds"] for row in own)
                found = [name, f"{_mean_errors(own):.1f}", f"{took:.0f}", f"{took / cpu:.2f}"]
                rows.append(
                    [data, f"{errors:.1f}", f"{cpu:.0f}", f"{_reached(of_peer):.0f}", *found]
                )
                break
        else:
            rows.append([data, f"{errors:.1f}", f"{cpu:.0f}", f"{_reached(of_peer):.0f}", *"----"])
    return markdown(
        [
            "set",
            f"{PEER}'s errors",
            "CPU, s",
            "of which until its best, s",
            "first of Encore's as good",
            "errors",
            "CPU, s",
            f"of {PEER}'s",
        ],
        rows,
    )


def _mean_errors(answers: Iterable[Row]) -> float:
    return mean(float(len(row["test_wrong"])) for row in answers)


def _reached(answers: Iterable[Row]) -> float:
    """Return the mean CPU seconds after which what was chosen in the end had been trained."""
    found: list[float] = []
    for row in answers:
        chosen = (step for step in row["trail"] if step["settings"] == row["settings"])
        found.append(next(chosen)["cpu_seconds"])
    return mean(found)


def spread(values: Sequence[float]) -> str:
    """Write the mean and the standard deviation."""
    if not values:
        return "-"
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")
