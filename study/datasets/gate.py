"""The data gate: photos are checked before anything is trained, and leaks are refused."""

from collections import Counter

from study.config.portfolio import imbalanced
from study.events import Listener, Working
from study.formatting import count_text
from trainers.data.cache import Cache
from trainers.data.inspect.findings import Inspection, Pair
from trainers.data.inspect.inspection import inspect_data, moved
from trainers.data.manifest import DatasetError, Manifest, Parted, keep_together
from trainers.data.sources import Split
from trainers.labels import SEVERAL

FEW = 300
"""With fewer validation photos, folds are suggested."""

SUGGESTED = 5
"""The number of folds that is suggested."""


def look_over(
    manifest: Manifest,
    seed: int,
    cache: Cache | None,
    listener: Listener,
    *,
    thorough: bool = False,
) -> tuple[Manifest, Inspection]:
    """Inspect the data; where splits were drawn, draw them so that duplicates stay together."""
    found = inspect_data(
        manifest,
        cache,
        thorough=thorough,
        progress=lambda what, done, total: listener(Working(what, done, total)),
    )
    if any({pair.first.path, pair.second.path} & manifest.drawn for pair in found.leaks):
        manifest = keep_together(manifest, found.groups, seed)
        found = moved(found, manifest)
    return manifest, found


def refuse_leaks(found: Inspection, command: str) -> None:
    """Raise DatasetError if photos or groups of one split are also in another.

    `command` shows them.
    """
    parts = [f"{leaked(found)}, such as {_pair_text(found.leaks[0])}"] if found.leaks else []
    if found.parted:
        parts.append(f"{parted(found)}, such as {spread(found.parted[0])}")
    if not parts:
        return
    ways = "leave them out" if found.leaks else "bring each into one split"
    raise DatasetError(
        f"{'; '.join(parts)}, so that scores would be too high; see them with "
        f"`{command}`, {ways} with its --write-csv FILE, split again with "
        "--regroup, or search all the same with --allow-leaks"
    )


def leaked(found: Inspection) -> str:
    """Say how many photos of which splits are also in another split."""
    judged = {
        photo.path: photo.split
        for pair in found.leaks
        for photo in (pair.first, pair.second)
        if photo.split is not Split.TRAIN
    }
    counts: Counter[Split] = Counter(judged.values())
    parts = [f"{count_text(counts[split], 'photo')} of {split}" for split in Split if counts[split]]
    verb = "is" if len(judged) == 1 else "are"
    return f"{' and '.join(parts)} {verb} also in another split"


def parted(found: Inspection) -> str:
    """Say how many groups lie in several splits."""
    verb = "lies" if len(found.parted) == 1 else "lie"
    return f"{count_text(len(found.parted), 'group')} {verb} in several splits"


def imbalance(found: Inspection) -> str:
    """Say that one class has many more training photos than another, if it has."""
    counts = list(found.counts[Split.TRAIN])
    most, least = max(counts), min(counts)
    if found.kind is SEVERAL or not imbalanced(counts):
        return ""
    large, small = (found.classes[counts.index(count)] for count in (most, least))
    return f"classes are imbalanced: {large!r} has {most:,} training photos, {small!r} {least:,}"


def few_photos(manifest: Manifest) -> str:
    """Suggest folds where there are few validation photos, and each class is large enough."""
    judged = len(manifest.of_split(Split.VALID))
    every = [p.label for p in manifest.photos if p.split is not Split.TEST]
    smallest = manifest.kind.counts(every, len(manifest.classes)).min()
    if manifest.folds or judged >= FEW or smallest < SUGGESTED:
        return ""
    return (
        f"{count_text(judged, 'validation photo')}, few to choose by: --folds {SUGGESTED} would "
        f"score each schedule on all {len(every):,} of train and validation, for "
        f"{SUGGESTED} times the training"
    )


def spread(group: Parted) -> str:
    """Name a group and say where its photos are."""
    counts = ", ".join(f"{split} {n}" for split, n in group.photos.items())
    return f"{group.group!r} ({counts})"


def _pair_text(pair: Pair) -> str:
    """Name a pair."""
    return f"{pair.first.path!r} and {pair.second.path!r}"


def summary(found: Inspection) -> str:
    """Return a line on what was found, "" if nothing was."""
    inside = [pair for pair in found.pairs if not pair.leaks]
    flaws = Counter(each.flaw for each in found.flaws)
    cues = [cue.name for cue in found.cues or () if cue.leaks]
    parts = [
        leaked(found) if found.leaks else "",
        parted(found) if found.parted else "",
        f"{count_text(len(inside), 'pair')} of duplicates within a split" if inside else "",
        f"{count_text(len(found.conflicts), 'pair')} of one photo under two labels"
        if found.conflicts
        else "",
        ", ".join(f"{count} {flaw}" for flaw, count in flaws.items()),
        f"{' and '.join(cues)} alone separates the classes" if cues else "",
        f"{count_text(len(found.doubts), 'doubtful label')}" if found.doubts else "",
    ]
    return ", ".join(part for part in parts if part)
