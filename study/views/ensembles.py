"""Output of `best --ensemble` and `best --soup`."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from study.formatting import count_text, score_phrase, score_text
from study.selection.ensemble import EnsembleResult
from study.selection.soup import LEVEL, SoupResult
from study.views.terminal import file_text


def print_ensemble(console: Console, found: EnsembleResult, leaks: str | None = None) -> None:
    """Print an ensemble's members, and its gain over the best file."""
    counts = sum(member.count for member in found.members)
    _print_damaged(console, found.damaged)
    console.print(
        f"[bold]ensemble of {counts}[/], study {escape(found.study)}, chosen from "
        f"{found.candidates} weights files",
        highlight=False,
    )
    table = Table(box=None)
    for name in ("times", "trial", "seed"):
        table.add_column(name, justify="right")
    table.add_column("file", overflow="fold")
    for member in found.members:
        name = escape(file_text(console, member.file))
        table.add_row(str(member.count), str(member.trial), str(member.seed), name)
    console.print(table)
    _print_scores(console, "ensemble", found)
    _print_cross(console, found, "ensemble", leaks)
    if found.cross.gain_interval[0] <= 0:
        text = "the gain may be chance: its interval contains 0; one file is simpler"
        console.print(text, highlight=False)


def print_soup(console: Console, found: SoupResult, leaks: str | None = None) -> None:
    """Print a soup's ingredients, its gain over the best file, and its file."""
    used = sum(ingredient.used for ingredient in found.ingredients)
    _print_damaged(console, found.damaged)
    console.print(
        f"[bold]soup of {used}[/], study {escape(found.study)}, from {len(found.ingredients)} "
        "weights files that share their first stages",
        highlight=False,
    )
    table = Table(box=None)
    for name in ("", "trial", "seed", str(found.metric)):
        table.add_column(name, justify="right")
    table.add_column("file", overflow="fold")
    for each in found.ingredients:
        name = escape(file_text(console, each.file))
        reached = score_text(found.metric, each.score, found.n_valid)
        table.add_row("in" if each.used else "out", str(each.trial), str(each.seed), reached, name)
    console.print(table)
    _print_scores(console, "soup", found)
    _print_cross(console, found, "soup", leaks)
    console.print(
        "the files were kept because of these photos; what that adds to the mean of their "
        "predictions is subtracted"
        if found.corrected
        else "[red]these figures are still optimistic[/]: the files were kept because of these "
        "photos, and too little is stored of each epoch to tell by how much",
        highlight=False,
    )
    if found.file is not None:
        console.print(f"significantly better (p {found.p_value:.2g}): written to", highlight=False)
        console.print(f"[bold]{escape(found.file)}[/]", soft_wrap=True)
        return
    alone, soup = (
        _phrase(found, value) for value in (found.cross.score_single, found.cross.score_ensemble)
    )
    console.print(
        f"the soup was not significantly better: {found.metric} {soup}, the best file {alone} "
        f"(p {found.p_value:.2g}, below {LEVEL:g} is required); nothing was written",
        highlight=False,
    )


def _print_damaged(console: Console, paths: Sequence[str]) -> None:
    for path in paths:
        console.print(f"[red]skipped[/] {escape(path)}: missing or changed", soft_wrap=True)


def _print_scores(console: Console, what: str, found: EnsembleResult | SoupResult) -> None:
    """Print both scores on the photos they were chosen by."""
    many, single = _phrase(found, found.score), _phrase(found, found.single_score)
    of = "" if found.labels is None else f"{found.labels:,} labels of "
    console.print(
        f"on the {of}{found.n_valid:,} photos they were chosen by (optimistic for both): {what} "
        f"{found.metric} {many}, {count_text(found.errors, 'error')}; trial {found.single_trial} "
        f"alone {single}, {count_text(found.single_errors, 'error')}",
        highlight=False,
    )


def _print_cross(
    console: Console, found: EnsembleResult | SoupResult, what: str, leaks: str | None
) -> None:
    """Print the cross-fitted scores of both."""
    cross = found.cross
    many, single = _phrase(found, cross.score_ensemble), _phrase(found, cross.score_single)
    low, high = (_signed(found, value) for value in cross.gain_interval)
    console.print(
        f"[bold]cross-validated[/] (chosen without the photos that score them): {what} {many}, "
        f"best file {single}; gain {_signed(found, cross.gain)} (95 % CI {low} to {high})",
        highlight=False,
    )
    if leaks:
        console.print(f"[bold red]the best file: {leaks}[/]", highlight=False)


def _phrase(found: EnsembleResult | SoupResult, score: float) -> str:
    return score_phrase(found.metric, score, found.n_valid)


def _signed(found: EnsembleResult | SoupResult, gain: float) -> str:
    sign = "-" if gain < 0 else "+"
    return f"{sign}{score_text(found.metric, abs(gain), found.n_valid)}"
