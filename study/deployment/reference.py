"""The references for recognising photos unlike the training photos: read, or measured."""

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
from study.statistics.conformal import Known, at_most, count, fewest, limit
from study.studies import manifest_of
from trainers.data.manifest import Manifest, Photo, Split
from trainers.errors import NotOurWeights
from trainers.labels import SEVERAL

if TYPE_CHECKING:  # torch takes seconds
    from trainers.backbone import Network
    from trainers.classifier import Classifier
    from trainers.reference import Reference

KEPT = "references"
"""The cache's folder of references for weights of a study."""


@dataclass(frozen=True)
class Stated:
    """Rates for photos like those of validation.

    At most the share `unknown` is labelled unknown: farther than `distance` from the training
    photos. For at most the share `missed`, the true class is not in the set of classes, those with
    a probability of at least 1 - `misfit`. A rate that was not requested is None, and so is its
    limit. `photos` and `groups` count the validation photos that the rates are based on.
    With several labels, `missed` is the share of a photo's labels that are not in its set, at most,
    on average over photos that have any: so have `labelled` of the photos.
    With `folds`, rates hold about, and for sure `unknown_at_most` and `missed_at_most`, which are
    else the rates themselves. There, `distance` and `misfit` are limits for what the networks of
    all folds measure, joined (`trainers.reference.Joined`).
    """

    photos: int
    groups: int | None
    unknown: float | None = None
    distance: float | None = None
    missed: float | None = None
    misfit: float | None = None
    labelled: int | None = None
    folds: int = 0
    unknown_at_most: float | None = None
    missed_at_most: float | None = None

    @property
    def unknown_text(self) -> str:
        """How many photos are called unknown, in words."""
        rate, most = 100 * (self.unknown or 0), 100 * (self.unknown_at_most or 0)
        worst = f"about {rate:.3g} % (in the worst case {most:.3g} %)"
        return worst if self.folds else f"at most {rate:.3g} %"

    @property
    def coverage_text(self) -> str:
        """What share the sets hold, in words."""
        share, least = 100 - 100 * (self.missed or 0), 100 - 100 * (self.missed_at_most or 0)
        worst = f"about {share:.3g} % (in the worst case {least:.3g} %)"
        return worst if self.folds else f"at least {share:.3g} %"

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


def known_distances(references: Sequence["Reference"]) -> list[Known]:
    """Return the distances of validation photos, as known to each network."""
    return [Known.of_photos(each.distances, each.groups) for each in references]


def known_misfits(references: Sequence["Reference"]) -> list[Known]:
    """Return the misfits of validation photos' classes, or labels, as known to each network."""
    return [
        Known.of_photos(each.misfits, each.groups)
        if each.misfits.ndim == 1
        else Known.of_labels(each.misfits, each.misfits >= 0, each.groups)
        for each in references
    ]


def stated(
    references: Sequence["Reference"], unknown: float | None, coverage: float | None
) -> Stated:
    """Return the limits of the requested rates; `ConfigError` if there are too few photos."""
    far = known_distances(references)
    grouped = any(each.groups is not None for each in references)
    found = Stated(
        sum(len(each.distances) for each in references),
        count(far) if grouped else None,
        folds=len(references) if len(references) > 1 else 0,
    )
    if unknown is not None:
        if unknown and (n := count(far)) < fewest(unknown):
            raise _too_few("--unknown", unknown, found, f"{100 / (n + 1):.3g}% or more")
        found = replace(
            found,
            unknown=unknown,
            distance=limit(far, unknown),
            unknown_at_most=at_most(unknown, far),
        )
    return found if coverage is None else _with_sets(found, references, 1 - coverage)


def _with_sets(found: Stated, references: Sequence["Reference"], missed: float) -> Stated:
    known = known_misfits(references)
    if references[0].misfits.ndim == 2:
        labelled = sum(int((each.misfits >= 0).any(axis=1).sum()) for each in references)
        found = replace(found, labelled=labelled)
    if (n := count(known)) < fewest(missed):
        raise _too_few("--coverage", missed, found, f"{100 - 100 / (n + 1):.3g}% or less")
    return replace(
        found,
        missed=missed,
        misfit=limit(known, missed),
        missed_at_most=at_most(missed, known),
    )


def _too_few(flag: str, rate: float, found: Stated, other: str) -> ConfigError:
    few = "" if found.labelled is None else f"{found.labelled} among "
    return ConfigError(
        f"{flag} needs at least {fewest(rate)} validation photos{' with labels' if few else ''}"
        f"{' that share no group' if found.groups else ''}, and these weights have {few}"
        f"{found.photos_text}; give {other}"
    )


def references_of(classifier: "Classifier", file: Path, storage: str) -> tuple["Reference", ...]:
    """Return the references beside a weights file; else those measured before, or now.

    There is one for each network. To measure them, up to 2,000 training and 2,000 validation photos
    of the study that trained the weights are used; of folds, up to 2,000 of all, each of which
    validates the network of its fold and trained the others. Raises `NotOurWeights` for a broken
    file, LookupError where nothing is known of the photos, `DatasetError` where they have changed.
    """
    from trainers.reference import SUFFIX, beside, digest_of, read_references, save_references

    n_labels = len(classifier.classes) if classifier.card.several else None
    if beside(file).exists():
        return read_references(beside(file), classifier.networks, n_labels)
    digest = digest_of(classifier.network)
    kept = runs_folder(storage) / CACHE / KEPT / f"{digest}{SUFFIX}"
    with suppress(NotOurWeights):  # a broken one is made again
        if kept.exists():
            return read_references(kept, classifier.networks, n_labels)
    found = measured(classifier, _photos_to_see(classifier, storage))
    with suppress(OSError):  # where nothing may be written, it is measured each time
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_references(kept, found)
    return found


def copy_with_reference(chosen: Selection, folder: Path, storage: str, unknown: str) -> Path:
    """Copy the chosen weights with the rate of `--unknown`, and their references beside them.

    Raises what `references_of`, `stated` and `copy_weights` raise, before anything is copied.
    """
    rate, source = share_of("--unknown", unknown), Path(chosen.file)
    if not rate:
        raise ConfigError("--unknown must be above 0 for weights that carry it; drop it")

    from trainers.classifier import load
    from trainers.reference import beside, save_references

    found = references_of(load(source), source, storage)
    stated(found, rate, None)
    folder.mkdir(parents=True, exist_ok=True)
    # First the references that the weights' card mentions: weights without them would be refused.
    save_references(beside(folder / source.name), found)
    return copy_weights(chosen, folder, rate)


def _photos_to_see(classifier: "Classifier", storage: str) -> Manifest:
    """Return those of the photos of training and validation that references are measured from."""
    from trainers.reference import MOST

    study, manifest = _photos_of(classifier, storage)
    train, valid = (_spread(manifest.of_split(s), MOST) for s in (Split.TRAIN, Split.VALID))
    # Of folds, these are the same photos.
    found = replace(manifest, photos=tuple(dict.fromkeys((*train, *valid))))
    check_photos(study, found)
    return found


def measured(classifier: "Classifier", photos: Manifest) -> tuple["Reference", ...]:
    """Measure the references from photos of training and validation, of folds from all alike."""
    rows = _look(classifier, photos)
    parts = [photos.fold(number) for number in range(photos.folds)] or [photos]
    each = zip(classifier.networks, parts, rows, strict=True)
    return tuple(_measured(network, part, of_network) for network, part, of_network in each)


def _measured(network: "Network", photos: Manifest, rows: NDArray[np.float32]) -> "Reference":
    """Return the reference of a network, given its rows of photos, (n, C + F)."""
    from trainers.reference import Reference, digest_of, distances, rounded

    n_classes = len(photos.classes)
    held = np.array([photo.split is Split.VALID for photo in photos.photos])
    features, of_valid = rounded(rows[~held, n_classes:]), rows[held]
    misfits = 1 - of_valid[:, :n_classes]
    if photos.kind is SEVERAL:
        misfits[photos.targets(Split.VALID) == 0] = -1
    else:
        misfits = misfits[np.arange(len(misfits)), photos.labels(Split.VALID)]
    return Reference(
        digest_of(network),
        features,
        distances(of_valid[:, n_classes:], features),
        misfits,
        photos.photo_groups(Split.VALID),
    )


def _look(classifier: "Classifier", manifest: Manifest) -> NDArray[np.float32]:
    """Return each network's rows of all photos, (K, n, C + F)."""
    rows = []
    for path, row in classifier.look(manifest.root / photo.path for photo in manifest.photos):
        if not isinstance(row, np.ndarray):
            raise LookupError(f"{path} cannot be read: {row}") from row
        rows.append(row)
    return np.stack(rows, axis=1)


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
