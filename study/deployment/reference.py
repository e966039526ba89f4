"""The reference for recognising photos unlike the training photos: read, or measured."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from storage.errors import StudyNotFound
from storage.paths import CACHE, runs_folder
from storage.store import open_store
from study.datasets.download import at_hand
from study.datasets.unchanged import check_photos
from study.errors import ConfigError
from study.formatting import photos_text
from study.invocation import hint
from study.selection.best import copy_weights
from study.selection.result import Selection
from study.statistics.conformal import fewest, limit, limit_of_labels
from study.studies import manifest_of
from trainers.data.manifest import Manifest, Photo, Split
from trainers.errors import NotOurWeights

if TYPE_CHECKING:  # torch takes seconds
    from trainers.classifier import Classifier
    from trainers.reference import Reference

KEPT = "references"
"""The cache's folder of references for weights of a study."""


@dataclass(frozen=True)
class Stated:
    """Guaranteed rates for photos like those of validation.

    At most the share `unknown` is labelled unknown: farther than `distance` from the training
    photos. For at most the share `missed`, the true class is not in the set of classes, those with
    a probability of at least 1 - `misfit`. A rate that was not requested is None, and so is its
    limit. `photos` and `groups` count the validation photos that the rates are based on.
    With several labels, `missed` is the share of a photo's labels that are not in its set, at most,
    on average over photos that have any: so have `labelled` of the photos.
    """

    photos: int
    groups: int | None
    unknown: float | None = None
    distance: float | None = None
    missed: float | None = None
    misfit: float | None = None
    labelled: int | None = None

    @property
    def photos_text(self) -> str:
        """The photos that the rates are based on, in words."""
        return photos_text(self.photos, self.groups)

    @property
    def labelled_text(self) -> str:
        """The photos that sets are based on, in words."""
        if self.labelled in (None, self.photos):
            return self.photos_text
        return f"{self.labelled} of {self.photos_text} that have labels"


def share_of(flag: str, text: str | None) -> float | None:
    """Read a share, as "5%" or "0.05"; `ConfigError` for anything but one from 0 to 1."""
    if text is None:
        return None
    number, sign, rest = text.strip().partition("%")
    try:
        share = float(number) / (100 if sign else 1)
    except ValueError:
        share = -1.0
    if rest or not 0 <= share < 1:
        raise ConfigError(f"{flag} must be a share below 1, such as 5% or 0.05, got {text!r}")
    return share


def stated(reference: "Reference", unknown: float | None, coverage: float | None) -> Stated:
    """Return the limits of the requested rates; `ConfigError` if there are too few photos."""
    groups, count = reference.groups, reference.count
    found = Stated(len(reference.distances), None if groups is None else count)
    if unknown and count < fewest(unknown):
        raise _too_few("--unknown", unknown, found, f"{100 / (count + 1):.3g}% or more")
    if unknown is not None:
        distance = limit(reference.distances, unknown, groups)
        found = replace(found, unknown=unknown, distance=distance)
    return found if coverage is None else _with_sets(found, reference, 1 - coverage)


def _with_sets(found: Stated, reference: "Reference", missed: float) -> Stated:
    misfits, groups, count = reference.misfits, reference.groups, reference.count
    several = misfits.ndim == 2
    if several:
        there = misfits >= 0
        some = there.any(axis=1)
        found = replace(found, labelled=int(some.sum()))
        count = int(some.sum()) if groups is None else len(np.unique(groups[some]))
    if count < fewest(missed):
        raise _too_few("--coverage", missed, found, f"{100 - 100 / (count + 1):.3g}% or less")
    misfit = (
        limit_of_labels(misfits, there, missed, groups)
        if several
        else limit(misfits, missed, groups)
    )
    return replace(found, missed=missed, misfit=misfit)


def _too_few(flag: str, rate: float, found: Stated, other: str) -> ConfigError:
    few = "" if found.labelled is None else f"{found.labelled} among "
    return ConfigError(
        f"{flag} needs at least {fewest(rate)} validation photos{' with labels' if few else ''}"
        f"{' that share no group' if found.groups else ''}, and these weights have {few}"
        f"{found.photos_text}; give {other}"
    )


def reference_of(classifier: "Classifier", file: Path, storage: str) -> "Reference":
    """Return the reference beside a weights file; else one measured before, or now.

    To measure it, up to 2,000 training and 2,000 validation photos of the study that trained the
    weights are used. Raises `NotOurWeights` for a broken file, LookupError where nothing is known
    of the photos, `DatasetError` where they have changed.
    """
    from trainers.reference import SUFFIX, beside, digest_of, read_reference, save_reference

    if folds := classifier.card.folds:
        raise ConfigError(
            f"these weights hold a network for each of {folds} folds, so that no photos are left "
            "that none of them was trained on to measure rates; omit --unknown and --coverage"
        )
    n_labels = len(classifier.classes) if classifier.card.several else None
    if beside(file).exists():
        return read_reference(beside(file), classifier.network, n_labels)
    digest = digest_of(classifier.network)
    kept = runs_folder(storage) / CACHE / KEPT / f"{digest}{SUFFIX}"
    with suppress(NotOurWeights):  # a broken one is made again
        if kept.exists():
            return read_reference(kept, classifier.network, n_labels)
    found = measured(classifier, storage, digest)
    with suppress(OSError):  # where nothing may be written, it is measured each time
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_reference(kept, found)
    return found


def copy_with_reference(chosen: Selection, folder: Path, storage: str, unknown: str) -> Path:
    """Copy the chosen weights with the rate of `--unknown`, and the reference beside them.

    Raises what `reference_of`, `stated` and `copy_weights` raise, before anything is copied.
    """
    rate, source = share_of("--unknown", unknown), Path(chosen.file)
    if not rate:
        raise ConfigError("--unknown must be above 0 for weights that carry it; drop it")

    from trainers.classifier import load
    from trainers.reference import beside, save_reference

    found = reference_of(load(source), source, storage)
    stated(found, rate, None)
    folder.mkdir(parents=True, exist_ok=True)
    # First the reference that the weights' card mentions: weights without it would be refused.
    save_reference(beside(folder / source.name), found)
    return copy_weights(chosen, folder, rate)


def measured(classifier: "Classifier", storage: str, digest: str) -> "Reference":
    """Measure a reference from the photos that weights were trained on, and those of validation."""
    from trainers.reference import MOST, Reference, distances, rounded

    study, manifest = _photos_of(classifier, storage)
    train, valid = (_spread(manifest.of_split(s), MOST) for s in (Split.TRAIN, Split.VALID))
    looked = replace(manifest, photos=(*train, *valid))
    check_photos(study, looked)
    n_classes, root = len(classifier.classes), manifest.root
    features = rounded(_look(classifier, root, train)[:, n_classes:])
    of_valid = _look(classifier, root, valid)
    misfits = 1 - of_valid[:, :n_classes]
    if classifier.card.several:
        misfits[looked.targets(Split.VALID) == 0] = -1
    else:
        misfits = misfits[np.arange(len(valid)), looked.labels(Split.VALID)]
    return Reference(
        digest,
        features,
        distances(of_valid[:, n_classes:], features),
        misfits,
        looked.photo_groups(Split.VALID),
    )


def _look(classifier: "Classifier", root: Path, photos: Sequence[Photo]) -> NDArray[np.float32]:
    rows = []
    for path, row in classifier.look(root / photo.path for photo in photos):
        if not isinstance(row, np.ndarray):
            raise LookupError(f"{path} cannot be read: {row}") from row
        rows.append(row)
    return np.stack(rows)


def _spread(photos: Sequence[Photo], most: int) -> tuple[Photo, ...]:
    count = min(most, len(photos))
    return tuple(photos[i * len(photos) // count] for i in range(count))


def _photos_of(classifier: "Classifier", storage: str) -> tuple[str, Manifest]:
    """Return a study and the data that weights were trained on; LookupError if there are none."""
    card = classifier.card
    if "trained on" in card.made_by:
        raise ConfigError(
            "these weights were trained on the validation photos as well, so that no photos are "
            "left to measure rates on; take those that `best` names without --refit"
        )
    found = None
    with suppress(StudyNotFound):  # there is no database here
        found = trained_on(card.manifest_digest, storage)
    if found is None:
        copied = hint("best", "--copy-to", "chosen", "--unknown", "5%")
        raise LookupError(
            "there is no reference beside these weights, and no study here "
            f"knows the photos that they were trained on; run `{copied}` where their study is"
        )
    return found


def trained_on(digest: str, storage: str) -> tuple[str, Manifest] | None:
    """Return a study of this data, and the data with its photos at hand; None if there is none."""
    with open_store(storage, create=False) as store:
        study = next((s for s in store.studies() if s.manifest_digest == digest), None)
        if study is None:
            return None
        return study.name, at_hand(manifest_of(store, study), study, storage)
