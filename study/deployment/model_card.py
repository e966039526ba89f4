"""The model card, in Markdown: what a network is, how it was made and its limits. Pure.

Names of classes and files are untrusted: none of them can become markup.
"""

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from study.formatting import count_text, photos_text
from study.sanitizing import masked
from study.selection.result import Selection
from study.stage_text import head_text, schedule_text, stage_table
from trainers.data.manifest import Manifest, Split
from trainers.labels import KINDS
from trainers.schedule import Schedule

if TYPE_CHECKING:
    from study.deployment.exported import Exported
    from study.deployment.reference import Stated
    from trainers.card import WeightsCard

MATRIX_CLASSES = 20
"""With more classes, the most frequent mistakes are listed in place of a table."""

LONGEST = 100
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "`": "&#96;", "\\": "&#92;"}
_HARMLESS = set("-,.'\"/=% ")
_LINK = re.compile(r"(?<=www)\.", re.IGNORECASE)  # GitHub turns these into links


def model_card(
    card: "WeightsCard",
    exported: "Exported",
    chosen: Selection | None = None,
    manifest: Manifest | None = None,
    expected: str | None = None,
    stated: "Stated | None" = None,
) -> str:
    """Write the card of weights; facts from the study only if they are its `chosen` ones.

    `expected` is the estimate for new photos, `stated` the limits for unknown ones.
    """
    sections = [
        _title(card),
        _data(card, manifest),
        _training(card, chosen),
        _score(card, chosen, expected),
        _confusion(chosen) if chosen else "",
        _decision(card, chosen),
        _use(card, chosen, stated),
        _origin(card, exported),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def escaped(text: object) -> str:
    """Return any text as Markdown that shows it, on one line, and does nothing else."""
    shown = masked(str(text)).strip() or "(blank)"
    if len(shown) > LONGEST:
        shown = shown[: LONGEST - 1] + "…"
    return _harmless(shown)


def _harmless(line: str) -> str:
    return _LINK.sub(r"\.", "".join(map(_escaped, line)))


def _escaped(character: str) -> str:
    if character in _ENTITIES:
        return _ENTITIES[character]
    special = character in string.punctuation and character not in _HARMLESS
    return f"\\{character}" if special else character


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lay out cells, which are Markdown already."""
    lines = [head, ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _title(card: "WeightsCard") -> str:
    names = ", ".join(map(escaped, card.classes[:10]))
    more = f" and {len(card.classes) - 10} more" if len(card.classes) > 10 else ""
    return (
        f"# Image classifier: {names}{more}\n\n"
        f"A {escaped(card.backbone)} that {_purpose(card)}, "
        f"as squares of {card.image_size} pixels{_mirrored(card)}. `model.json` describes the "
        "preprocessing of photos and the interpretation of the output."
    )


def _purpose(card: "WeightsCard") -> str:
    if card.several:
        return f"predicts which of {len(card.classes)} labels a photo has"
    return f"classifies photos into {len(card.classes)} {KINDS[card.kind].plural}"


def _mirrored(card: "WeightsCard") -> str:
    if not card.tta:
        return ""
    return ", averaging the probabilities of each photo and its mirror image"


def _data(card: "WeightsCard", manifest: Manifest | None) -> str:
    digest = f"Manifest digest: {escaped(card.manifest_digest or 'unknown')}."
    if manifest is None:
        return f"## Data\n\n{digest} The weights file says nothing else about its data."
    splits = [split for split in Split if manifest.of_split(split)]
    counts = {split: manifest.counts(split) for split in splits}
    rows: list[Sequence[object]] = [
        [escaped(name), *(counts[split][label] for split in splits)]
        for label, name in enumerate(manifest.classes)
    ]
    rows.append(["all", *(len(manifest.of_split(split)) for split in splits)])
    left_out = len(manifest.left_out)
    return (
        f"## Data\n\nThe photos of the folder {escaped(manifest.root.name)}. {digest}"
        + (f" Left out, since they cannot be read: {left_out}." if left_out else "")
        + "\n\n"
        + _table(["class", *splits], rows)
    )


def _training(card: "WeightsCard", chosen: Selection | None) -> str:
    try:
        schedule = Schedule.from_dict(chosen.schedule if chosen else card.schedule)
    except (ValueError, TypeError, AttributeError):
        return "## Training\n\nThe weights file does not say how it was trained."
    head = head_text(schedule.hidden, schedule.levels)
    came_from = (
        f"{escaped(schedule.backbone)}, weights {escaped(schedule.weights)}, "
        f"{escaped(head)}: {_harmless(schedule_text(schedule))}. These weights "
        f"are of stage {_whole(card.stage, 1)}, epoch {_whole(card.epoch)}, "
        f"seed {_whole(card.seed)}; schedule digest {escaped(card.schedule_digest or 'unknown')}."
    )
    columns, *rows = stage_table(schedule)
    return f"## Training\n\n{came_from}\n\n{_table(columns, rows)}"


def _score(card: "WeightsCard", chosen: Selection | None, expected: str | None) -> str:
    if chosen is None:
        rows = [(escaped(k), escaped(_rounded(v))) for k, v in _items(card.metrics)]
        said = _table(["metric", "on the validation photos"], rows) if rows else "Unknown."
        return f"## Score\n\n{said}\n\nAs stated by the weights file itself."
    metric, scores = chosen.metric, chosen.seed_scores
    spread = "" if (sd := chosen.schedule_spread) is None else f" ± {chosen.text(sd)}"
    lines = [
        (
            f"These weights: **{metric} {chosen.phrase(chosen.score)}**, {chosen.errors_text}, "
            f"log loss {chosen.loss:.4f}. They were chosen as the best of {chosen.trials} "
            "trials on these photos, so the number is optimistic."
        ),
        f"**{_harmless(chosen.leak_text)}.**" if chosen.leak_text else "",
        (
            f"Photos were dealt into {chosen.folds} folds: each was judged by a network trained "
            f"without its fold. These weights are all {chosen.folds} networks, whose probabilities "
            "are averaged."
            if chosen.folds
            else ""
        ),
        plain_lines(expected) or _expected(chosen),
        (
            f"A new run of this schedule: {chosen.phrase(chosen.schedule_mean)}{spread}, the mean "
            f"over {count_text(len(scores), 'seed')}."
        ),
        _table(["seed", str(metric)], [(s, chosen.text(v)) for s, v in scores.items()]),
    ]
    return "## Score\n\n" + "\n\n".join(line for line in lines if line)


def _expected(chosen: Selection) -> str:
    found, metric = chosen.bias_corrected, chosen.metric
    if found is None:
        few = photos_text(chosen.n_valid, chosen.n_groups)
        return f"{few} are too few to estimate the score on new ones."
    return (
        f"Estimated {metric} on new photos: **{chosen.phrase(found.estimate)}** "
        f"({_harmless(chosen.interval)}); the observed {chosen.phrase(chosen.score)} was "
        f"chosen from {count_text(found.candidates, 'epoch')} and is therefore optimistic."
    )


def plain_lines(text: str | None) -> str:
    """Return a text of several sentences as Markdown that shows it; each line is a paragraph."""
    lines = (text or "").splitlines()
    return "\n\n".join(_harmless(line) for line in lines if line.strip())


def _confusion(chosen: Selection) -> str:
    names = [escaped(name) for name in chosen.classes]
    numbers = _table(
        ["class", "photos", "recall", "precision", "F1"],
        [
            (name, n.photos, f"{n.recall:.3f}", f"{n.precision:.3f}", f"{n.f1:.3f}")
            for name, n in zip(names, chosen.per_class, strict=True)
        ],
    )
    if chosen.several is not None:
        heads = ["label", "rightly absent", "wrongly named", "missed", "found"]
        rows = [[name, *row] for name, row in zip(names, chosen.confusion, strict=True)]
        return (
            "## Mistakes on the validation photos\n\nAt a probability of a half for each label."
            f"\n\n{_table(heads, rows)}\n\n{numbers}"
        )
    if len(names) <= MATRIX_CLASSES:
        rows = [[name, *row] for name, row in zip(names, chosen.confusion, strict=True)]
        counts = _table(["true \\ named", *names], rows)
    else:
        mistakes = [
            (count, names[true], names[named])
            for true, row in enumerate(chosen.confusion)
            for named, count in enumerate(row)
            if count and true != named
        ]
        most = sorted(mistakes, key=lambda mistake: -mistake[0])[:MATRIX_CLASSES]
        counts = _table(["photos", "true", "named"], most)
    return (
        "## Mistakes on the validation photos\n\nEach photo named by its most probable class.\n\n"
        f"{counts}\n\n{numbers}"
    )


def _decision(card: "WeightsCard", chosen: Selection | None) -> str:
    rule = card.rule
    if card.several:
        if card.thresholds is None:
            return "## Decision\n\nEach label is named whose probability is at least a half."
        cuts = zip(map(escaped, card.classes), card.thresholds, strict=True)
        limits = [(name, f"{cut:.4f}") for name, cut in cuts]
        said = "Each label is named whose probability is at least its threshold."
        return f"## Decision\n\n{said}\n\n{_table(['label', 'threshold'], limits)}"
    if card.decision is None:
        return "## Decision\n\nThe most probable class is predicted, whatever its probability."
    lines = ["The class with the least expected cost is predicted."]
    if rule.temperature != 1:
        lines.append(f"Probabilities are calibrated with temperature {rule.temperature:g}.")
    if rule.threshold is not None:
        lines.append(
            f"{escaped(card.classes[0])} is predicted from probability {rule.threshold:.4f} on."
        )
    if rule.reject_cost is not None:
        lines.append(f"If that costs more than {rule.reject_cost:g}, no class is predicted.")
    if chosen and (found := chosen.operation):
        low, high = found.cost_interval
        lines.append(
            f"Estimated cost on new photos: {found.cost:.4f} per photo (95 % CI {low:.4f}-"
            f"{high:.4f}); predicting the most probable class costs {found.plain_cost:.4f}."
        )
    names = [escaped(name) for name in card.classes]
    rows = [
        [name, *(f"{price:g}" for price in row)]
        for name, row in zip(names, rule.costs, strict=True)
    ]
    small = len(names) <= MATRIX_CLASSES
    prices = _table(["true \\ named", *names], rows) if small else "Prices are in `model.json`."
    return f"## Decision\n\n{' '.join(lines)}\n\n{prices}"


def _use(card: "WeightsCard", chosen: Selection | None, stated: "Stated | None") -> str:
    always = card.rule.reject_cost is None
    lines = [
        "For photos like those it was trained on: of the same objects, taken in the same way.",
        _knows(card, stated, always=always),
        (
            "Before using it for anything important, evaluate it on photos that were used neither "
            "for training nor for choosing it."
        ),
    ]
    if card.rule.temperature == 1:
        lines.append("Its probabilities are not calibrated and may be over-confident.")
    if chosen and (few := [n.photos for n in chosen.per_class if n.photos < 30]):
        lines.append(
            f"{len(few)} of its classes {'has' if len(few) == 1 else 'have'} fewer than 30 "
            "validation photos: their numbers are rough."
        )
    return "## Intended use and limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _knows(card: "WeightsCard", stated: "Stated | None", *, always: bool) -> str:
    given = "given some of them, or none," if card.several else "assigned to one of them"
    return (
        f"It knows {len(card.classes)} {KINDS[card.kind].plural} and nothing else: a photo of "
        f"anything else is {given} as well{'' if always else ', or is rejected'}"
        f"{_unless_unknown(stated)}."
    )


def _unless_unknown(stated: "Stated | None") -> str:
    if stated is None or stated.unknown is None:
        return ""
    return (
        f", unless it is farther than {stated.distance:.4g} from the training photos: then it is "
        f"unknown. So are {stated.unknown_text} of photos like the "
        f"{stated.photos_text}; what looks like the training photos is not told"
    )


def _origin(card: "WeightsCard", exported: "Exported") -> str:
    files = [
        (f"`{file.name}`", file.format, file.sha256, f"{file.largest_difference:.2g}")
        for file in exported.files
    ]
    made = [(escaped(name), escaped(value)) for name, value in _items(card.made_by)]
    made += [(escaped(name), escaped(value)) for name, value in _items(card.packages)]
    name = exported.weights.replace("\\", "/").rpartition("/")[2]
    return (
        f"## What made it\n\nEncore, from the weights file {escaped(name)} (SHA-256 "
        f"{exported.weights_sha256}). Each file here was read back and compared with it on "
        f"{escaped(exported.verified_on)}.\n\n"
        + _table(["file", "format", "SHA-256", "largest difference of a logit"], files)
        + ("\n\n" + _table(["trained with", ""], made) if made else "")
    )


def _items(mapping: Mapping[str, Any]) -> list[tuple[str, Any]]:
    # A weights file may come from anywhere, and these fields are not checked.
    return list(mapping.items()) if isinstance(mapping, dict) else []


def _whole(value: object, add: int = 0) -> str:
    return str(value + add) if isinstance(value, int) else escaped(value)


def _rounded(value: object) -> object:
    return f"{value:.4f}" if isinstance(value, float) else value
