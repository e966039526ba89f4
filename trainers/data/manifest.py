"""The data set, frozen: files, labels, splits, content hashes, and one digest over all."""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from trainers.data.csv_list import find_in_csv
from trainers.data.folders import find_in_folders
from trainers.data.groups import find_groups, parse_group_by
from trainers.data.sources import Findings, Found, LeftOut, Split, sample
from trainers.data.splits import assign_groups, assign_several
from trainers.data.verify import Reading, read_all
from trainers.errors import DatasetError, NoSuchData
from trainers.labels import KINDS, ONE_CLASS, SEVERAL, LabelKind

__all__ = [
    "DatasetError",
    "LeftOut",
    "Manifest",
    "Parted",
    "Photo",
    "Split",
    "build_manifest",
    "differences",
    "keep_together",
    "without",
]

FORMAT, GROUPED, FOLDED, OF_KIND = 1, 2, 3, 4
"""Versions of the manifest's JSON, plain, with groups, with folds, too, and with all of these and
another kind of labels than a class for each photo; part of the digest."""

MAX_UNREADABLE = 0.05
"""With a larger share of unreadable photos, the data as a whole are refused."""


@dataclass(frozen=True)
class Photo:
    """A photo: POSIX path from the manifest's root, its label's number, hash, size in bytes.

    The number is the index of its class, if labels are of no other kind (`LabelKind`).

    Photos of one `group` belong together, as those of one patient; "" is alone. `fold` counts from
    0, where photos are dealt into folds; None takes no part in them.
    """

    path: str
    label: int
    split: Split
    sha256: str
    size: int
    group: str = ""
    fold: int | None = None


@dataclass(frozen=True)
class Parted:
    """A group in several splits, with its number of photos in each."""

    group: str
    photos: dict[Split, int]


@dataclass(frozen=True)
class Manifest:
    """All photos by path, under sorted classes; what was left out does not count as data.

    `kind` says what a label is. `drawn` are the paths of those whose split was not given: it was
    drawn. Photos in folds (see `trainers.data.folds`) belong to both train and validation: each is
    scored by the network that was trained without its fold.
    """

    root: Path
    classes: tuple[str, ...]
    photos: tuple[Photo, ...]
    left_out: tuple[LeftOut, ...] = ()
    drawn: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    kind: LabelKind = ONE_CLASS

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the classes and photos, in hexadecimal; equal wherever the root is."""
        return hashlib.sha256(_to_text(self._contents()).encode()).hexdigest()

    def of_split(self, split: Split) -> tuple[Photo, ...]:
        """Return the photos of a split, by path."""
        if self.folds and split is not Split.TEST:
            return tuple(photo for photo in self.photos if photo.fold is not None)
        return tuple(photo for photo in self.photos if photo.split is split)

    @cached_property
    def folds(self) -> int:
        """How many folds there are; 0 where photos are in none."""
        return 1 + max((photo.fold for photo in self.photos if photo.fold is not None), default=-1)

    @cached_property
    def fold_of(self) -> NDArray[np.int64]:
        """The fold of each photo that is in one, by path, shape (n,)."""
        return np.array([p.fold for p in self.photos if p.fold is not None], dtype=np.int64)

    @property
    def fold_of_answers(self) -> NDArray[np.int64]:
        """The fold of each answer of these photos, by the order of `labels`."""
        return np.repeat(self.fold_of, self.n_questions)

    def fold(self, number: int) -> "Manifest":
        """Return the plain manifest that a fold's network sees: it validates, all others train."""
        photos = tuple(
            photo
            if photo.fold is None
            else replace(
                photo, split=Split.VALID if photo.fold == number else Split.TRAIN, fold=None
            )
            for photo in self.photos
        )
        return replace(self, photos=photos)

    def of_one_network(self) -> "Manifest":
        """Return the photos that a network sees: of folds, each is trained on all but one."""
        return self.fold(0) if self.folds else self

    def for_refit(self) -> "Manifest":
        """Return it with the validation photos in train, too, so that nothing validates."""
        other = Split.VALID if self.folds else Split.TRAIN
        plain = tuple(replace(photo, fold=None) for photo in self.photos)
        more = tuple(replace(p, split=other, fold=None) for p in self.of_split(Split.VALID))
        photos = tuple(sorted((*plain, *more), key=lambda photo: photo.path))
        return replace(self, photos=photos)

    def labels(self, split: Split) -> NDArray[np.int64]:
        """Return the true answers of `of_split`, shape (n * n_questions,): see `LabelKind`."""
        return self.kind.answers(self._numbers(split), len(self.classes))

    def targets(self, split: Split) -> NDArray[Any]:
        """Return what a network is trained on, a row for each photo of `of_split`."""
        return self.kind.targets(self._numbers(split), len(self.classes))

    def counts(self, split: Split) -> tuple[int, ...]:
        """Count the photos of each class in a split, (C,)."""
        return tuple(self.kind.counts(self._numbers(split), len(self.classes)).tolist())

    def label_text(self, photo: Photo) -> str:
        """Return a photo's label as people write it."""
        return self.kind.text(photo.label, self.classes)

    @property
    def n_questions(self) -> int:
        """How many questions each photo is asked."""
        return self.kind.questions(len(self.classes))

    @property
    def n_answers(self) -> int:
        """How many answers the questions of a photo have together."""
        return self.kind.n_answers(len(self.classes))

    def _numbers(self, split: Split) -> list[int]:
        return [photo.label for photo in self.of_split(split)]

    def groups(self, split: Split) -> NDArray[np.int64] | None:
        """Return the number of each photo's group, shape (n,), from 0 on, by the order of `labels`.

        None where no two photos share one: then each counts by itself. A photo that is asked
        several questions is a group of their answers.
        """
        numbers = self.photo_groups(split)
        if self.n_questions == 1:
            return numbers
        every = np.arange(len(self.of_split(split))) if numbers is None else numbers
        return np.repeat(every, self.n_questions)

    def photo_groups(self, split: Split) -> NDArray[np.int64] | None:
        """Return the number of each photo's group, shape (n,), by the order of `of_split`."""
        return _group_numbers(self.of_split(split))

    def n_groups(self, split: Split | None = None) -> int | None:
        """Return how many groups a split's photos, or all, are in; None if each is alone."""
        found = _group_numbers(self.photos if split is None else self.of_split(split))
        return None if found is None else int(found.max()) + 1

    @property
    def grouped(self) -> bool:
        """Whether groups are known."""
        return any(photo.group for photo in self.photos)

    @property
    def parted(self) -> tuple[Parted, ...]:
        """The groups that lie in several splits, by name."""
        places: dict[str, Counter[Split]] = defaultdict(Counter)
        for photo in self.photos:
            if photo.group:
                places[photo.group][photo.split] += 1
        return tuple(
            Parted(group, {split: counts[split] for split in Split if counts[split]})
            for group, counts in sorted(places.items())
            if len(counts) > 1
        )

    def to_json(self) -> str:
        """Return all but the root as JSON."""
        left_out = [[entry.path, entry.reason] for entry in self.left_out]
        return _to_text({**self._contents(), "left_out": left_out})

    @classmethod
    def from_json(cls, text: str, root: Path) -> Self:
        """Build from `to_json`; raises ValueError for another version of the format."""
        plain = json.loads(text)
        if plain["version"] not in (FORMAT, GROUPED, FOLDED, OF_KIND):
            raise ValueError(
                f"version of the manifest must be {FORMAT} to {OF_KIND}, got {plain['version']!r}"
            )
        return cls(
            root=root,
            classes=tuple(plain["classes"]),
            photos=tuple(
                Photo(path, label, Split(split), sha256, size, *places)
                for path, label, split, sha256, size, *places in plain["photos"]
            ),
            left_out=tuple(LeftOut(path, reason) for path, reason in plain["left_out"]),
            kind=KINDS[plain.get("kind", ONE_CLASS.name)],
        )

    def _contents(self) -> dict[str, Any]:
        version = FOLDED if self.folds else GROUPED if self.grouped else FORMAT
        if self.kind is not ONE_CLASS:
            version = OF_KIND
        photos = [
            [p.path, p.label, p.split.value, p.sha256, p.size, p.group, p.fold][: version + 4]
            for p in self.photos
        ]
        found = {"version": version, "classes": list(self.classes), "photos": photos}
        return found | ({"kind": self.kind.name} if version == OF_KIND else {})


def _group_numbers(photos: Sequence[Photo]) -> NDArray[np.int64] | None:
    """Return the number of each photo's group, (photos,); None if each is alone."""
    if not any(photo.group for photo in photos):
        return None
    _, numbers = np.unique(
        [f"g{photo.group}" if photo.group else f"p{photo.path}" for photo in photos],
        return_inverse=True,
    )
    return None if numbers.max() == len(photos) - 1 else numbers.astype(np.int64)


def build_manifest(
    source: Path,
    *,
    data_root: Path | None = None,
    seed: int = 0,
    known: Manifest | None = None,
    split_anew: bool = False,
    group_by: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    listing: Callable[[int, int], None] = lambda *_: None,
) -> Manifest:
    """Find, read and check all photos of a folder or CSV, and split them where they are not.

    `data_root` is the folder that a CSV's paths start from, if not its own; `seed` draws the
    splits, those of all photos if they are to be `split_anew`; photos that are in `known` are not
    decoded again and keep the splits that were drawn there; `group_by` finds groups, which stay
    together (see `parse_group_by`); `progress` gets (files read, files in all), `listing` (rows of
    a CSV, rows in all). Raises DatasetError if the data cannot be used.
    """
    found = _find(source, data_root, listing)
    if split_anew:
        found = replace(found, photos=tuple(replace(each, split=None) for each in found.photos))
    given = {photo.split for photo in found.photos}
    needed = {Split.TRAIN, Split.VALID, *given} - {None}
    # Errors that reading cannot fix are reported first; splits still to be drawn have no gaps.
    named = found.kind.named
    filled = {(name, photo.split) for photo in found.photos for name in named(photo.label)}
    _check_filled(found.classes, filled, set() if None in given else needed, found.left_out)
    pairs, left_out = _read(found, known, progress)
    if group_by is not None:
        pairs = _grouped(pairs, found.root, group_by)
    photos = _photos(pairs, found, seed, known)
    drawn = frozenset(photo.path for photo, _ in pairs if photo.split is None)
    made = Manifest(found.root, found.classes, photos, left_out, drawn, found.kind)
    filled = set(_filled(made, photos))
    _check_filled(found.classes, filled, needed | {split for _, split in filled}, left_out)
    return made


def _grouped(
    pairs: Sequence[tuple[Found, Reading]], root: Path, group_by: str
) -> list[tuple[Found, Reading]]:
    """Find groups; DatasetError where the list has some already."""
    if any(photo.group for photo, _ in pairs):
        raise DatasetError(
            "the CSV has a column group already; omit --group-by, or remove the column"
        )
    groups = find_groups(parse_group_by(group_by), root, [photo.path for photo, _ in pairs])
    return [
        (replace(photo, group=group), file)
        for (photo, file), group in zip(pairs, groups, strict=True)
    ]


def keep_together(manifest: Manifest, groups: Iterable[Sequence[Photo]], seed: int = 0) -> Manifest:
    """Draw the splits of the `drawn` photos again, keeping groups of photos together.

    A group with photos of a given split goes there.
    """
    # Photos of one hash stay together: let those of a group have one.
    twin = {photo.sha256: min(each.sha256 for each in g) for g in groups for photo in g}
    splits = _assigned(
        manifest.kind,
        [manifest.label_text(photo) for photo in manifest.photos],
        [twin.get(photo.sha256, photo.sha256) for photo in manifest.photos],
        [photo.group for photo in manifest.photos],
        [None if photo.path in manifest.drawn else photo.split for photo in manifest.photos],
        seed,
    )
    photos = tuple(
        replace(photo, split=split) for photo, split in zip(manifest.photos, splits, strict=True)
    )
    filled = _filled(manifest, photos)
    _check_filled(manifest.classes, filled, {Split.TRAIN, Split.VALID}, manifest.left_out)
    return replace(manifest, photos=photos)


def without(manifest: Manifest, paths: AbstractSet[str]) -> Manifest:
    """Leave photos out; DatasetError if a class loses all of its photos in a split by that."""
    before = {photo.split for photo in manifest.photos}
    photos = tuple(photo for photo in manifest.photos if photo.path not in paths)
    filled = _filled(manifest, photos)
    _check_filled(manifest.classes, filled, before, manifest.left_out)
    return replace(manifest, photos=photos)


def differences(old: Manifest, new: Manifest) -> str:
    """Say in a short phrase how `new` differs from `old`; nothing if their digests are equal."""
    if old.digest == new.digest:
        return ""
    before, after = ({photo.path: photo for photo in m.photos} for m in (old, new))
    both = [(before[path], after[path]) for path in sorted(before.keys() & after.keys())]
    relabelled = [a.path for a, b in both if old.label_text(a) != new.label_text(b)]
    added = sorted(after.keys() - before.keys())
    counts = {
        "photo added" if len(added) == 1 else "photos added": added,
        "removed": sorted(before.keys() - after.keys()),
        "changed": [a.path for a, b in both if a.sha256 != b.sha256],
        "moved to another split": [a.path for a, b in both if a.split is not b.split],
        "moved to another class": relabelled,
        "moved to another group": [a.path for a, b in both if a.group != b.group],
    }
    parts = [f"{len(paths)} {what} ({sample(paths)})" for what, paths in counts.items() if paths]
    if old.classes != new.classes:
        parts.append(f"classes now {sample(new.classes, 10)}")
    return ", ".join(parts)


def _find(source: Path, data_root: Path | None, listing: Callable[[int, int], None]) -> Findings:
    try:
        if source.suffix.lower() == ".csv" and source.is_file():
            if data_root is not None and not data_root.is_dir():
                raise DatasetError(f"the data root {str(data_root)!r} is no folder; correct it")
            return find_in_csv(source, data_root, listing)
        if data_root is None and source.is_dir():
            return find_in_folders(source)
    except OSError as error:
        raise DatasetError(
            f"cannot read {str(error.filename)!r} ({error.strerror}); make it readable or remove it"
        ) from error
    if data_root is not None:
        raise DatasetError(f"a data root goes with a .csv only, got {str(source)!r}; leave it out")
    ways = "give a folder of photos or a .csv of them"
    if not os.path.lexists(source):
        raise NoSuchData(f"{str(source)!r} does not exist; {ways}")
    raise DatasetError(f"{str(source)!r} is neither a folder nor a .csv; {ways}")


def _read(
    found: Findings, known: Manifest | None, progress: Callable[[int, int], None] | None
) -> tuple[list[tuple[Found, Reading]], tuple[LeftOut, ...]]:
    """Return the readable photos, and all that was left out so far."""
    readable = {photo.sha256 for photo in known.photos} if known else set()
    paths = [found.root / photo.path for photo in found.photos]
    pairs = list(zip(found.photos, read_all(paths, readable, progress), strict=True))
    unreadable = [LeftOut(photo.path, file.trouble) for photo, file in pairs if file.trouble]
    if len(unreadable) > MAX_UNREADABLE * len(pairs):
        raise DatasetError(
            f"{len(unreadable)} of {len(pairs)} photos cannot be read, more than "
            f"{MAX_UNREADABLE:.0%}, such as {_quoted(unreadable[:3])}; repair or remove them"
        )
    left_out = sorted((*found.left_out, *unreadable), key=lambda entry: entry.path)
    return [(photo, file) for photo, file in pairs if not file.trouble], tuple(left_out)


def _photos(
    pairs: Sequence[tuple[Found, Reading]],
    found: Findings,
    seed: int,
    known: Manifest | None,
) -> tuple[Photo, ...]:
    """Assign missing splits, and sort the photos."""
    before = {(photo.path, photo.sha256): photo.split for photo in known.photos} if known else {}
    splits = _assigned(
        found.kind,
        [photo.label for photo, _ in pairs],
        [file.sha256 for _, file in pairs],
        [photo.group for photo, _ in pairs],
        [photo.split or before.get((photo.path, file.sha256)) for photo, file in pairs],
        seed,
    )
    number = cache(lambda label: found.kind.number(label, found.classes))
    photos = (
        Photo(photo.path, number(photo.label), split, file.sha256, file.size, photo.group)
        for (photo, file), split in zip(pairs, splits, strict=True)
    )
    return tuple(sorted(photos, key=lambda photo: photo.path))


def _assigned(
    kind: LabelKind,
    labels: Sequence[str],
    hashes: Sequence[str],
    groups: Sequence[str],
    given: Sequence[Split | None],
    seed: int,
) -> list[Split]:
    if kind is not SEVERAL:
        return assign_groups(labels, hashes, groups, given, seed)
    return assign_several([kind.named(label) for label in labels], hashes, groups, given, seed)


def _filled(manifest: Manifest, photos: Iterable[Photo]) -> set[tuple[str, Split]]:
    """Return which classes have photos in which splits."""
    named, text = manifest.kind.named, manifest.label_text
    return {(name, photo.split) for photo in photos for name in named(text(photo))}


def _check_filled(
    classes: Sequence[str],
    filled: AbstractSet[tuple[str, Split | None]],
    needed: AbstractSet[Split | None],
    left_out: Sequence[LeftOut],
) -> None:
    """Check that there are two classes, and photos of each class in each needed split."""
    if len(classes) < 2:
        raise DatasetError(f"the data must have at least 2 classes, got only {sample(classes)}")
    hint = f" ({len(left_out)} left out, such as {_quoted(left_out[:1])})" if left_out else ""
    labels = {label for label, _ in filled}
    for label in classes:
        if label not in labels:
            raise DatasetError(f"class {label!r} has no photos{hint}; add some or remove it")
        for split in Split:
            if split in needed and (label, split) not in filled:
                raise DatasetError(
                    f"class {label!r} has no photos in {split.value}{hint}; "
                    "give each class photos in each split"
                )


def _quoted(left_out: Sequence[LeftOut]) -> str:
    return ", ".join(f"{entry.path!r} ({entry.reason})" for entry in left_out)


def _to_text(plain: dict[str, Any]) -> str:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))
