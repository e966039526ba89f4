"""The data gate: photos are looked over before anything is trained, and leaks are refused."""

from collections import Counter

from study.events import Listener, Working
from study.formatting import count_text
from study.invocation import hint
from trainers.data.cache import Cache
from trainers.data.inspect.findings import Inspection, Pair
from trainers.data.inspect.inspection import inspect_data, moved
from trainers.data.manifest import DatasetError, Manifest, keep_together
from trainers.data.sources import Split


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


def refuse_leaks(found: Inspection) -> None:
    """Raise DatasetError if photos of one split are in another one, too."""
    if not found.leaks:
        return
    raise DatasetError(
        f"{leaked(found)}, such as {_pair_text(found.leaks[0])}, so that scores would be too high; "
        f"see them with `{hint('check-data')} PHOTOS`, leave them out with its --write-csv FILE, "
        "split again with --regroup, or search all the same with --allow-leaks"
    )


def leaked(found: Inspection) -> str:
    """Say how many photos of which splits lie in another split, too."""
    judged = {
        photo.path: photo.split
        for pair in found.leaks
        for photo in (pair.first, pair.second)
        if photo.split is not Split.TRAIN
    }
    counts: Counter[Split] = Counter(judged.values())
    parts = [f"{count_text(counts[split], 'photo')} of {split}" for split in Split if counts[split]]
    verb = "is" if len(judged) == 1 else "are"
    return f"{' and '.join(parts)} {verb} in another split, too"


def _pair_text(pair: Pair) -> str:
    """Name a pair."""
    return f"{pair.first.path!r} and {pair.second.path!r}"


def summary(found: Inspection) -> str:
    """Say in a line what was found, if anything."""
    inside = [pair for pair in found.pairs if not pair.leaks]
    flaws = Counter(each.flaw for each in found.flaws)
    cues = [cue.name for cue in found.cues or () if cue.leaks]
    parts = [
        leaked(found) if found.leaks else "",
        f"{count_text(len(inside), 'pair')} of duplicates within a split" if inside else "",
        f"{count_text(len(found.conflicts), 'pair')} of one photo under two labels"
        if found.conflicts
        else "",
        ", ".join(f"{count} {flaw}" for flaw, count in flaws.items()),
        f"{' and '.join(cues)} alone tells the classes apart" if cues else "",
        f"{count_text(len(found.doubts), 'doubtful label')}" if found.doubts else "",
    ]
    return ", ".join(part for part in parts if part)
