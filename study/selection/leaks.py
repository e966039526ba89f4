"""Validation photos that are also in train: which they are, and scores without them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage.records import StudyRecord
from storage.store import Store
from study.statistics.selection_bias import BiasCorrected
from study.studies import manifest_of
from trainers.data.manifest import Manifest, Split


@dataclass(frozen=True)
class Leaks:
    """How many validation `photos` are also in train, and the chosen weights' score without them.

    `score` and `errors` are on the remaining `n_valid` photos; None if these are too few.
    `bias_corrected` is the estimate for new photos from these only. With `at_least`, more photos
    leak than were listed.
    """

    photos: int
    at_least: bool
    n_valid: int
    errors: int
    score: float | None
    bias_corrected: BiasCorrected | None


@dataclass(frozen=True, eq=False)
class Shared:
    """Which validation photos are also in train: a mask (n,) in their order; see `Leaks`."""

    mask: NDArray[np.bool_]
    at_least: bool

    @property
    def photos(self) -> int:
        """How many they are."""
        return int(self.mask.sum())


def shared_with_train(store: Store, study: StudyRecord, manifest: Manifest) -> Shared:
    """Find the validation photos that are also in train: by the data gate's findings, and by hash.

    The gate finds near copies as well; identical files are found without it.
    """
    found = store.check(study.manifest_digest) or {}
    leaks = [pair for pair in found.get("pairs", ()) if pair["leaks"]]
    ends = [(pair["first"], pair["second"]) for pair in leaks]
    paths = {
        one["path"]
        for first, second in ends
        for one, other in ((first, second), (second, first))
        if (one["split"], other["split"]) == (Split.VALID, Split.TRAIN)
    }
    # Folds keep copies together, so that each is scored without the others.
    training = () if manifest.folds else manifest.of_split(Split.TRAIN)
    trained = {photo.sha256 for photo in training}
    valid = manifest.of_split(Split.VALID)
    mask = [photo.path in paths or photo.sha256 in trained for photo in valid]
    return Shared(np.array(mask, bool), at_least=found.get("n_leaks", 0) > len(leaks))


@dataclass(frozen=True)
class Judged:
    """By how many validation `photos` scores are, and by what `leaks` they are too high, if any."""

    photos: int
    leaks: str | None


def judged_by(store: Store, study: StudyRecord) -> Judged:
    """Return the photos that a study's scores are based on."""
    found = shared_with_train(store, study, manifest_of(store, study))
    n_valid = len(found.mask)
    leaks = leak_warning(found.photos, n_valid, at_least=found.at_least) if found.photos else None
    return Judged(n_valid, leaks)


def leak_warning(photos: int, n_valid: int, *, at_least: bool = False) -> str:
    """Return the warning that scores are too high, and why."""
    count = f"{'at least ' * at_least}{photos:,} of {n_valid:,} validation photos"
    return f"{count} {'is' if photos == 1 else 'are'} also in train: scores are too high"
