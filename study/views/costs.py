"""Print the costs of a decision rule."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from study.selection.goals import Goal
from study.selection.thresholds import CONFIDENCE, Operation, photos_needed
from study.selection.tradeoff import TradeOff

CURVE_SHOWN = 8


def print_operation(
    console: Console, operation: Operation, classes: Sequence[str], goal: Goal | None = None
) -> None:
    """Print the rule's cost, its decisions, and other settings.

    With the goal, each class's recall is shown beside the minimum.
    """
    for line in (*_costs(operation), *_recalls(operation, classes, goal)):
        console.print(line, highlight=False, soft_wrap=True)
    for line in _rule(operation, classes):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(_confusion(operation, classes))
    if operation.trade_off:
        console.print(_curve(operation, classes))


def _costs(operation: Operation) -> list[str]:
    low, high = operation.cost_interval
    plain, cost = operation.plain_cost, operation.cost
    change = f", {100 * (cost / plain - 1):+.0f} %" if plain else ""
    return [
        f"[bold]cost {cost:.4f} per photo[/] (95 % CI {low:.4f}-{high:.4f})",
        f"  {plain:.4f} if the most probable class is predicted{change}",
        f"  {operation.apparent_cost:.4f} on the photos the rule was fitted on (optimistic)",
    ]


def _recalls(operation: Operation, classes: Sequence[str], goal: Goal | None) -> list[str]:
    lines = []
    for label, least in goal.recalls if goal else ():
        photos, needed = operation.photos[label], photos_needed(least)
        lines.append(
            f"recall of {escape(classes[label])}: {100 * operation.recalls[label]:.1f} %, "
            f"at least {100 * least:g} % was required"
        )
        if photos < needed:
            lines.append(
                f"   -> its {photos} photos are too few to rely on that: it takes {needed} "
                f"to be {100 * CONFIDENCE:.0f} % sure"
            )
    if not operation.feasible:
        lines.append(
            "[red]the required recall did not hold on photos the rule was not fitted on[/]"
        )
    return lines


def _rule(operation: Operation, classes: Sequence[str]) -> list[str]:
    rule = operation.decision
    manner = {1: "over-confident", 0: "calibrated", -1: "under-confident"}
    of = manner[(rule.temperature > 1) - (rule.temperature < 1)]
    lines = [f"temperature {rule.temperature:.2f}: before calibration, the probabilities are {of}"]
    if rule.threshold is not None:
        first, second = (escape(name) for name in classes)
        raw = rule.threshold**rule.temperature
        raw /= raw + (1 - rule.threshold) ** rule.temperature
        lines.append(
            f"[bold]name {first} from {rule.threshold:.2g} on[/], else {second} "
            f"({raw:.2g} before calibration)"
        )
    if rule.reject_cost is not None:
        share = 100 * operation.rejected / sum(operation.photos)
        lines.append(
            f"{operation.rejected} photos ({share:.1f} %) are rejected, for a person to decide"
        )
    return lines


def _confusion(operation: Operation, classes: Sequence[str]) -> Table:
    table = Table(title="true class by decision", title_justify="left", box=SIMPLE_HEAD)
    rejects = operation.decision.reject_cost is not None
    table.add_column("")
    for name in classes:
        table.add_column(escape(name), justify="right")
    if rejects:
        table.add_column("rejected", justify="right", style="yellow")
    table.add_column("recall", justify="right", style="dim")
    for i, (name, row) in enumerate(zip(classes, operation.confusion, strict=True)):
        counts = [
            f"[green]{n}[/]" if i == j else f"[red]{n}[/]" if n else "." for j, n in enumerate(row)
        ]
        rejected = [str(operation.photos[i] - sum(row))] if rejects else []
        table.add_row(escape(name), *counts, *rejected, f"{100 * operation.recalls[i]:.1f}")
    return table


def _curve(operation: Operation, classes: Sequence[str]) -> Table:
    """Return a few settings: thresholds of two classes, else shares of rejected photos."""
    own = operation.decision.threshold
    title = "other thresholds" if own is not None else "answering fewer photos"
    table = Table(title=title, title_justify="left", box=None)
    if own is not None:
        table.add_column(f"{escape(classes[0])} from", justify="right")
        for name in classes:
            table.add_column(f"recall {escape(name)}", justify="right")
    else:
        table.add_column("reject above", justify="right")
        table.add_column("answered", justify="right")
    table.add_column("cost", justify="right")
    table.add_column("")
    for point in _shown(operation.trade_off, own):
        cells = [f"{100 * (1 - point.rejected):.1f}"]
        if own is not None:
            cells = [f"{100 * recall:.1f}" for recall in point.recalls]
        mark = "<- the rule" if point.at == own else ""
        table.add_row(f"{point.at:.3g}", *cells, f"{point.cost:.4f}", mark)
    return table


def _shown(curve: Sequence[TradeOff], own: float | None) -> list[TradeOff]:
    """Return some `CURVE_SHOWN` points, evenly, the ends and the rule's own among them."""
    last = len(curve) - 1
    places = {round(i * last / (CURVE_SHOWN - 1)) for i in range(CURVE_SHOWN)}
    places |= {place for place, point in enumerate(curve) if point.at == own}
    return [curve[place] for place in sorted(places)]
