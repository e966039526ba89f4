"""Output of `predict`: a table, CSV or one JSON document, and a summary on stderr."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from study.deployment.predict import Prediction, Predictions, Unreadable
from study.deployment.reference import Stated
from study.sanitizing import harmless, printable, visible
from trainers.decision import Decision
from trainers.labels import SEPARATOR

MANY_PHOTOS = 500
REJECTED, UNKNOWN, NONE = "rejected", "unknown", "(none)"


def print_table(console: Console, found: Predictions, predictions: Iterable[Prediction]) -> None:
    """Print one line per photo; many of them without a table, each as it comes."""
    waiting = iter(predictions)
    first = list(islice(waiting, MANY_PHOTOS + 1))
    if len(first) > MANY_PHOTOS:
        for each in chain(first, waiting):
            line = "  ".join([_answer(each), f"{each.probability:.4f}", *_set(each), each.path])
            console.file.write(printable(visible(line)) + "\n")
        return
    table = Table(box=None)
    table.add_column("labels" if found.several else "class", overflow="fold")
    table.add_column("probability", justify="right")
    if first and first[0].classes is not None:
        table.add_column("set", overflow="fold")
    table.add_column("photo", overflow="fold")
    for each in first:
        label = Text(visible(_answer(each)), style="yellow" if each.label is None else "")
        cells = [Text(visible(cell or NONE)) for cell in (*_set(each), each.path)]
        table.add_row(label, f"{each.probability:.4f}", *cells)
    if first:
        console.print(table)


def _answer(each: Prediction) -> str:
    """Say a photo's class, or its labels."""
    if each.label is None:
        return UNKNOWN if each.unknown else REJECTED
    return each.label or NONE


def _set(each: Prediction) -> list[str]:
    return [] if each.classes is None else ["; ".join(each.classes)]


def write_csv(file: TextIO, found: Predictions, predictions: Iterable[Prediction]) -> None:
    """Write a row a photo, as it comes; a photo that is rejected or unknown has no label."""
    # All texts are quoted: the writer does not quote a lone CR, which ends a line for readers.
    writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    asked = found.stated
    far = ["unknown", "p_value"] if asked and asked.unknown is not None else []
    may = ["set"] if asked and asked.missed is not None else []
    head = ["path", "label", "probability", *far, *may]
    writer.writerow([*head, *map(harmless, found.classes)])
    for each in predictions:
        names = harmless(each.path), harmless(each.label or "")
        shares = [round(p, 6) for p in (each.probability, *each.probabilities.values())]
        told = [int(each.unknown), round(each.p_value or 0.0, 6)] if far else []
        writer.writerow([*names, shares[0], *told, *map(harmless, _set(each)), *shares[1:]])


class Tally:
    """Counts results: passes predictions to the printer, reports errors on stderr at once."""

    def __init__(self, console: Console, found: Predictions) -> None:
        self._console, self._found = console, found
        self._counts: Counter[str | None] = Counter()
        self._photos = self._unknown = 0
        self.unreadable: list[Unreadable] = []

    def predictions(self) -> Iterator[Prediction]:
        """Yield the photos that could be read; name the others, each in a sentence."""
        for answer in self._found.answers:
            if isinstance(answer, Unreadable):
                self.unreadable.append(answer)
                self._say(f"{answer.path}: cannot be read: {answer.reason}")
            else:
                several = self._found.several and answer.label is not None
                names = (answer.label or "").split(SEPARATOR) if several else [answer.label]
                self._counts.update(names)
                self._photos += 1
                self._unknown += answer.unknown
                yield answer

    def print_summary(self) -> None:
        """Print the weights and the rule that were used, and the number of photos by class."""
        self._say(f"weights: {self._found.weights}")
        if self._found.rule is not None:
            self._say(f"their rule was applied: {rule_text(self._found.rule, self._found.classes)}")
        if self._found.thresholds:
            cuts = [f"{name} {cut:.3f}" for name, cut in self._found.thresholds.items()]
            self._say(f"a label is present from a probability of: {', '.join(cuts)}")
        for line in stated_lines(self._found.stated):
            self._say(line)
        if self._found.rounding:
            self._say(self._found.rounding)
        counts = [f"{self._counts[label]} {label}" for label in self._found.classes]
        if self._counts[""]:
            counts.append(f"{self._counts['']} {NONE}")
        if self._unknown:
            counts.append(f"{self._unknown} {UNKNOWN}")
        if rejected := self._counts[None] - self._unknown:
            counts.append(f"{rejected} {REJECTED}")
        if self.unreadable:
            counts.append(f"{len(self.unreadable)} unreadable")
        photos = self._photos + len(self.unreadable)
        self._say(f"{photos} {'photo' if photos == 1 else 'photos'}: {', '.join(counts)}")

    def _say(self, text: str) -> None:
        self._console.print(visible(text), markup=False, highlight=False, soft_wrap=True)


def stated_lines(stated: Stated | None) -> list[str]:
    """Return the stated rates of unknown photos and of wrong sets of classes."""
    lines = []
    if stated and stated.unknown is not None:
        lines.append(
            f"{stated.unknown_text} of photos like the {stated.photos_text} are called unknown"
        )
    if stated and stated.missed is not None and stated.misfit is not None:
        share = stated.coverage_text
        said = (
            f"{share} of photos like the {stated.photos_text} have their class in its set"
            if stated.labelled is None
            else f"sets hold {share} of a photo's labels, on average over photos like the "
            f"{stated.labelled_text}"
        )
        if stated.labelled is not None and not stated.folds:
            cut = f"{max(0, 1 - stated.misfit):.3g}"
            said += f": all labels with a probability of at least {cut}, and those that are named"
        lines.append(
            f"{said}; these photos have chosen the weights as well, so of new ones it may be a "
            "little less"
        )
    return lines


def rule_text(rule: Decision, classes: Sequence[str]) -> str:
    """Return a rule in a line: the prices of mistakes that are not 1."""
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
        parts.append(
            f"{REJECTED} where any prediction costs more than {rule.reject_cost:g} on average"
        )
    return "; ".join(parts)
