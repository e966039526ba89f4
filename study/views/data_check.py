"""What `check-data` prints."""

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from study.datasets.check import Checked
from study.datasets.gate import few_photos, imbalance, leaked, parted, spread
from study.formatting import count_text
from study.sanitizing import visible
from trainers.data.inspect.document import document_of, worst_first
from trainers.data.inspect.findings import Inspection, Likeness, Pair
from trainers.labels import SEVERAL

SHOWN = 5
"""How many of a kind are listed; the page and the JSON have all."""

CLASSES = 20
"""With more classes, only the smallest and the largest are listed."""


def checked_document(checked: Checked) -> dict[str, Any]:
    """Return the result as one plain document."""
    return {
        "data": checked.data,
        "root": str(checked.manifest.root),
        **document_of(checked.found),
        "left_out": [asdict(each) for each in checked.left_out],
        "guessed_groups": checked.guess and asdict(checked.guess),
        "refused": checked.leaks,
        "amended": checked.amended and asdict(checked.amended),
        "search": None if checked.leaks or checked.amended else checked.search,
    }


def print_checked(console: Console, checked: Checked, page: Path | None) -> None:
    """Print a summary: the serious findings first, and what to do about them."""
    console.print(_counts(checked.found))
    for head, lines in _parts(checked):
        console.print(f"\n[bold]{escape(visible(head))}[/]", highlight=False)
        for line in lines[:SHOWN]:
            console.print(f"  {visible(line)}", markup=False, highlight=False, soft_wrap=True)
        if len(lines) > SHOWN:
            console.print(f"  ... and {len(lines) - SHOWN} more", highlight=False)
    console.print()
    for line in _conclusions(checked, page):
        whole = line.startswith((" ", "the "))  # commands and paths, to be copied
        console.print(line, markup=False, highlight=False, soft_wrap=whole)


def _counts(found: Inspection) -> Table:
    table = Table(box=None)
    table.add_column("class")
    for split in found.counts:
        table.add_column(split.value, justify="right")
    order = sorted(
        range(len(found.classes)),
        key=lambda label: sum(counts[label] for counts in found.counts.values()),
    )
    few = len(order) <= CLASSES
    for label in sorted(order) if few else [*order[:3], *order[-3:]]:
        numbers = (f"{counts[label]:,}" for counts in found.counts.values())
        table.add_row(escape(visible(found.classes[label])), *numbers)
    if not few:
        table.add_row(f"({len(order) - 6} classes between)")
    if found.kind is not SEVERAL:  # whose photos are in several rows, or in none
        table.add_section()
        table.add_row("all", *(f"{sum(counts):,}" for counts in found.counts.values()))
    return table


def _parts(checked: Checked) -> Iterator[tuple[str, list[str]]]:
    """Yield each kind of finding: its title, and a line for each."""
    found, pairs = checked.found, worst_first(checked.found.pairs)
    leaks = [pair for pair in pairs if pair.leaks]
    clashes = [pair for pair in pairs if pair.conflicts]
    inside = [pair for pair in pairs if not pair.leaks and not pair.conflicts]
    yield from _flattering(found, leaks)
    if clashes:
        yield "One photo under two labels: one of them is wrong", _lines(found, clashes)
    if inside:
        yield "Duplicates within a split", _lines(found, inside)
    yield from _of_all_photos(checked)
    if found.doubts:
        lines = [
            f"{doubt.photo.path}: labelled {found.label_text(doubt.photo)} "
            f"({100 * doubt.own_probability:.0f} %), predicted {found.classes[doubt.suggested]} "
            f"({100 * doubt.suggested_probability:.0f} %)"
            for doubt in found.doubts
        ]
        yield "Doubtful labels, by a simple classifier; please check", lines
    for cue in found.cues or ():
        if cue.leaks:
            head = (
                f"{cue.name} alone separates the classes ({100 * cue.accuracy:.0f} %; guessing "
                f"{100 * cue.chance:.0f} %): a network may look at nothing else"
            )
            yield head, [f"above all {found.classes[label]}" for label in cue.classes]
    flaws = defaultdict(list)
    for each in found.flaws:
        flaws[each.flaw].append(f"{each.photo.path}: {each.detail}")
    for flaw, lines in flaws.items():
        yield f"Photos: {flaw}", lines
    if checked.left_out:
        lines = [f"{each.path}: {each.reason}" for each in checked.left_out]
        yield "Left out, as they cannot be used", lines


def _of_all_photos(checked: Checked) -> Iterator[tuple[str, list[str]]]:
    """Yield findings about no single photo: imbalanced classes, and groups that were not given."""
    if uneven := imbalance(checked.found):
        yield uneven, ["--metric balanced_accuracy and --metric f1 count each class alike"]
    if guess := checked.guess:
        head = (
            f"{guess.photos:,} photos seem to come in {count_text(guess.groups, 'group')}, "
            f"such as {guess.example!r}; {guess.parted:,} lie in several splits"
        )
        how = f"if they do, keep them together: --group-by {shlex.quote(guess.group_by)}"
        yield head, [f"{how}; add --regroup where the list gives splits"]


def _flattering(found: Inspection, leaks: Sequence[Pair]) -> Iterator[tuple[str, list[str]]]:
    """Yield photos and groups that are in several splits."""
    if leaks:
        yield f"{leaked(found)}: scores would be too high", _lines(found, leaks)
    if found.parted:
        lines = [spread(group) for group in found.parted]
        yield f"{parted(found)}: scores would be too high", lines


def _lines(found: Inspection, pairs: Sequence[Pair]) -> list[str]:
    return [_line(found, pair) for pair in pairs]


def _line(found: Inspection, pair: Pair) -> str:
    alike = f"alike: detail {pair.agreement:.2f}, features {pair.cosine:.2f}"
    how = "the same pixels" if pair.likeness is Likeness.EXACT else alike
    turned = ", mirrored" if pair.mirrored else ""
    labels = ""
    if pair.conflicts:
        first, second = (found.label_text(p) for p in (pair.first, pair.second))
        labels = f", {first} or {second}?"
    ends = " = ".join(f"{p.path} ({p.split})" for p in (pair.first, pair.second))
    return f"{ends}: {how}{turned}{labels}"


def _conclusions(checked: Checked, page: Path | None) -> Iterator[str]:
    found, amended = checked.found, checked.amended
    if found.uncompared:
        yield f"{found.uncompared:,} photos are too small or too uniform to find changed copies"
    if page is not None:
        yield f"the page: {page}"
    if amended is not None:
        why = Counter(each.reason.partition(" ")[0] for each in amended.removed)
        gone = f", {len(amended.removed)} left out" if why else ""
        yield f"the cleaned CSV: {amended.file}, {amended.photos:,} photos{gone}; to use it:"
        yield f"  {amended.command}"
    elif checked.leaks:
        refused = (
            "a search on these data is refused: leave photos out with --write-csv FILE, split "
            "again with --regroup, or search with --allow-leaks"
        )
        yield refused
    else:
        nothing = "" if list(_parts(checked)) else "nothing was found: "
        yield f"{nothing}no photo of one split is in another one; to search:"
        yield f"  {checked.search}"
    if few := few_photos(checked.manifest):
        yield few
