"""What `predict` prints: a table, CSV, one JSON document, and a last word on stderr."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from study.deployment.predict import Prediction, Predictions, Unreadable
from study.sanitizing import harmless, printable, visible
from trainers.decision import Decision

MANY_PHOTOS = 500
REJECTED = "rejected"


def print_table(console: Console, predictions: Iterable[Prediction]) -> None:
    """Print a line a photo; many of them without a table, each as it comes."""
    waiting = iter(predictions)
    first = list(islice(waiting, MANY_PHOTOS + 1))
    if len(first) > MANY_PHOTOS:
        for each in chain(first, waiting):
            line = f"{each.label or REJECTED}  {each.probability:.4f}  {each.path}"
            console.file.write(printable(visible(line)) + "\n")
        return
    table = Table(box=None)
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right")
    table.add_column("photo", overflow="fold")
    for each in first:
        label = Text(visible(each.label)) if each.label else Text(REJECTED, style="yellow")
        table.add_row(label, f"{each.probability:.4f}", Text(visible(each.path)))
    if first:
        console.print(table)


def write_csv(file: TextIO, classes: Sequence[str], predictions: Iterable[Prediction]) -> None:
    """Write a row a photo, as it comes; a rejected photo has no label."""
    # All texts are quoted: the writer leaves a lone CR bare, which a reader takes for a line's end.
    writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(["path", "label", "probability", *map(harmless, classes)])
    for each in predictions:
        numbers = (round(p, 6) for p in (each.probability, *each.probabilities.values()))
        writer.writerow([harmless(each.path), harmless(each.label or ""), *numbers])


class Tally:
    """Counts answers as they pass: photos on to the printer, the others to stderr at once."""

    def __init__(self, console: Console, found: Predictions) -> None:
        self._console, self._found = console, found
        self._counts: Counter[str | None] = Counter()
        self.unreadable: list[Unreadable] = []

    def predictions(self) -> Iterator[Prediction]:
        """Yield the photos that could be read; name the others, each in a sentence."""
        for answer in self._found.answers:
            if isinstance(answer, Unreadable):
                self.unreadable.append(answer)
                self._say(f"{answer.path}: cannot be read: {answer.reason}")
            else:
                self._counts[answer.label] += 1
                yield answer

    def print_summary(self) -> None:
        """Say which weights and rule answered, and how many photos are of which class."""
        self._say(f"weights: {self._found.weights}")
        if self._found.rule is not None:
            self._say(f"their rule was applied: {rule_text(self._found.rule, self._found.classes)}")
        if self._found.rounding:
            self._say(self._found.rounding)
        counts = [f"{self._counts[label]} {label}" for label in self._found.classes]
        if self._counts[None]:
            counts.append(f"{self._counts[None]} {REJECTED}")
        if self.unreadable:
            counts.append(f"{len(self.unreadable)} unreadable")
        photos = self._counts.total() + len(self.unreadable)
        self._say(f"{photos} {'photo' if photos == 1 else 'photos'}: {', '.join(counts)}")

    def _say(self, text: str) -> None:
        self._console.print(visible(text), markup=False, highlight=False, soft_wrap=True)


def rule_text(rule: Decision, classes: Sequence[str]) -> str:
    """Say a rule in a line: what it costs to name a wrong class, where that is not 1."""
    costs = [
        f"{true}>{predicted}={price:g}"
        for true, row in zip(classes, rule.costs, strict=True)
        for predicted, price in zip(classes, row, strict=True)
        if true != predicted and price != 1
    ]
    parts = [f"costs {', '.join(costs)}" if costs else "all mistakes cost the same"]
    if rule.threshold is not None:
        parts.append(f"{classes[0]} from a probability of {rule.threshold:.3g}")
    parts.append(f"temperature {rule.temperature:.3g}")
    if rule.reject_cost is not None:
        parts.append(f"{REJECTED} where any answer costs more than {rule.reject_cost:g} on average")
    return "; ".join(parts)
