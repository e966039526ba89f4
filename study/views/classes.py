"""What `best --details` says of each class, or of each label."""

from operator import itemgetter

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from study.formatting import percent
from study.selection.result import Selection
from study.views.terminal import UNBROKEN

CONFUSIONS_SHOWN = 10


def print_classes(console: Console, chosen: Selection) -> None:
    """Print the numbers of each class with their confusions, or those of each label."""
    if chosen.several is None:
        _print_with_confusions(console, chosen)
    else:
        console.print(_labels(chosen))


def _labels(chosen: Selection) -> Table:
    """Return what is said of each label."""
    table = Table(title="label by label", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("label", overflow="fold")
    heads = ("photos", "found", "missed", "wrongly named", "precision", "F1", "recall", "95 % CI")
    for name in (*heads, "AUROC", "average precision", "threshold"):
        table.add_column(name, justify="right")
    each = chosen.several.each if chosen.several else ()
    for i, (name, own, more) in enumerate(zip(chosen.classes, chosen.per_class, each, strict=True)):
        _, wrongly, missed, found = chosen.confusion[i]
        limits = "-".join(map(percent, chosen.recall_intervals[i]))
        counts = map(str, (own.photos, found, missed, wrongly))
        numbers = map(percent, (own.precision, own.f1, own.recall))
        areas = ("-" if x is None else f"{x:.4f}" for x in (more.auroc, more.average_precision))
        table.add_row(escape(name), *counts, *numbers, limits, *areas, f"{more.threshold:.3f}")
    return table


def _print_with_confusions(console: Console, chosen: Selection) -> None:
    """Print the numbers of each class and, beside them, the confusion matrix.

    Where they are wider than the terminal, the matrix is a table of its own; where that is still
    too wide, the most frequent confusions are listed.
    """
    if _fits(console, chosen, numbers=True):
        console.print(_classes(chosen, counts=True, numbers=True))
        return
    console.print(_classes(chosen, counts=False, numbers=True))
    if _fits(console, chosen, numbers=False):
        console.print(_classes(chosen, counts=True, numbers=False))
        return
    pairs = [
        (n, true, predicted)
        for true, row in zip(chosen.classes, chosen.confusion, strict=True)
        for predicted, n in zip(chosen.classes, row, strict=True)
        if n and true != predicted
    ]
    table = Table(title="most frequent confusions", title_justify="left", box=None)
    table.add_column("photos", justify="right")
    for name in ("true", "predicted"):
        table.add_column(name, overflow="fold")
    for n, true, predicted in sorted(pairs, key=itemgetter(0), reverse=True)[:CONFUSIONS_SHOWN]:
        table.add_row(str(n), escape(true), escape(predicted))
    if pairs:
        console.print(table)


def _fits(console: Console, chosen: Selection, *, numbers: bool) -> bool:
    """Return whether the confusion matrix is no wider than the terminal."""
    if 4 * len(chosen.classes) > console.width:  # a cell takes no less
        return False
    unbounded = console.options.update(max_width=UNBROKEN)
    table = _classes(chosen, counts=True, numbers=numbers)
    return console.measure(table, options=unbounded).maximum <= console.width


def _classes(chosen: Selection, *, counts: bool, numbers: bool) -> Table:
    title = "true class by predicted class" if counts else "class by class"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("", overflow="fold")
    for name in chosen.classes if counts else ("photos", "errors"):
        table.add_column(escape(name), justify="right")
    for name in ("precision", "F1", "recall", "95 % CI") if numbers else ():
        table.add_column(name, justify="right", style="dim")
    for i, name in enumerate(chosen.classes):
        row, own = chosen.confusion[i], chosen.per_class[i]
        cells = [
            f"[green]{n}[/]" if i == j else f"[red]{n}[/]" if n else "." for j, n in enumerate(row)
        ]
        if not counts:
            cells = [str(sum(row)), str(sum(row) - row[i])]
        if numbers:
            cells += map(percent, (own.precision, own.f1, own.recall))
            cells.append("-".join(map(percent, chosen.recall_intervals[i])))
        table.add_row(escape(name), *cells)
    return table
