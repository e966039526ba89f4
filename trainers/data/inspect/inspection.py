"""Inspect a data set: duplicates, flaws and, on request, doubtful labels and trivial cues."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from trainers.data.cache import Cache
from trainers.data.groups import joined
from trainers.data.inspect.cues import find_cues
from trainers.data.inspect.duplicates import find_duplicates
from trainers.data.inspect.facts import Facts, facts_of
from trainers.data.inspect.findings import Inspection
from trainers.data.inspect.fingerprints import CHECK_SCALE, Fingerprint, fingerprint
from trainers.data.inspect.flaws import find_flaws
from trainers.data.inspect.labels import doubt_labels
from trainers.data.inspect.shots import Shots
from trainers.data.manifest import Manifest, Photo
from trainers.data.sources import Split

ProgressCallback = Callable[[str, int, int], None]
"""Receives the name of the current work, the photos done, and their total."""


def inspect_data(
    manifest: Manifest,
    cache: Cache | None,
    *,
    thorough: bool = False,
    progress: ProgressCallback = lambda *_: None,
) -> Inspection:
    """Inspect a data set's photos once; see `Inspection`.

    Only if `thorough`, the features of all photos are computed, and doubtful labels are found;
    otherwise features are computed only for photos with similar hashes, if there are any.
    """
    shots = Shots(manifest, CHECK_SCALE, cache, lambda *n: progress("decoding photos", *n))
    photos, total = manifest.photos, len(manifest.photos)
    one_class = manifest.n_questions == 1  # of several labels, neither cues nor doubts are known
    prints: list[Fingerprint] = []
    facts: list[Facts] = []
    for done, (mark, fact) in enumerate(shots.each(lambda *of: _look(manifest, *of)), 1):
        prints.append(mark)
        facts.append(fact)
        progress("looking at photos", done, total)
    embed = partial(_features, shots, lambda *n: progress("comparing photos", *n))
    features = embed(range(total)) if thorough else None
    pairs, groups, uncompared = find_duplicates(
        photos, prints, embed if features is None else lambda asked: features[asked]
    )
    found = Inspection(
        manifest_digest=manifest.digest,
        classes=manifest.classes,
        photos=total,
        counts=counts_of(manifest),
        pairs=pairs,
        groups=groups,
        flaws=find_flaws(photos, facts),
        uncompared=uncompared,
        cues=find_cues(photos, facts, len(manifest.classes)) if one_class else None,
        parted=manifest.parted,
        kind=manifest.kind,
    )
    if features is None or not one_class:
        return found
    numbers = _group_numbers(photos, groups)
    doubts = doubt_labels(photos, features, numbers, len(manifest.classes))
    return replace(found, doubts=doubts)


def counts_of(manifest: Manifest) -> dict[Split, tuple[int, ...]]:
    """Count the photos of each class in each split that has any."""
    return {split: manifest.counts(split) for split in Split if manifest.of_split(split)}


def moved(found: Inspection, manifest: Manifest) -> Inspection:
    """Return the findings for the same photos in other splits."""
    now = {photo.path: photo for photo in manifest.photos}
    return replace(
        found,
        manifest_digest=manifest.digest,
        counts=counts_of(manifest),
        parted=manifest.parted,
        pairs=tuple(
            replace(pair, first=now[pair.first.path], second=now[pair.second.path])
            for pair in found.pairs
        ),
        groups=tuple(tuple(now[photo.path] for photo in group) for group in found.groups),
        flaws=tuple(replace(flaw, photo=now[flaw.photo.path]) for flaw in found.flaws),
        doubts=found.doubts
        and tuple(replace(doubt, photo=now[doubt.photo.path]) for doubt in found.doubts),
    )


def _look(manifest: Manifest, photo: Photo, pixels: NDArray[np.uint8]) -> tuple[Fingerprint, Facts]:
    return fingerprint(pixels), facts_of(manifest.root / photo.path, photo.size, pixels)


def _features(
    shots: Shots, progress: Callable[[int, int], None], indices: Sequence[int]
) -> NDArray[np.float32]:
    """Return the features of some photos, (n, F), rows of length 1."""
    from trainers.embedding import embed  # torch: seconds to import

    return embed((shots[index] for index in indices), len(indices), progress)


def _group_numbers(photos: Sequence[Photo], groups: Sequence[Sequence[Photo]]) -> NDArray[np.int64]:
    """Return the number of each photo's group; one that is alone is a group by itself."""
    copies = {photo.path: group[0].path for group in groups for photo in group}
    keys = [copies.get(photo.path, "") for photo in photos]
    return np.array(joined(keys, [photo.group for photo in photos]), np.int64)
