"""The findings of the data gate, as plain frozen data. Free of torch."""

from dataclasses import dataclass
from enum import StrEnum

from trainers.data.manifest import Parted, Photo
from trainers.data.sources import Split
from trainers.labels import ONE_CLASS, LabelKind


class Likeness(StrEnum):
    """EXACT duplicates have the same pixels; NEAR ones are slightly changed."""

    EXACT = "exact"
    NEAR = "near"


@dataclass(frozen=True)
class Pair:
    """A pair of duplicates, in the manifest's order.

    `agreement` is the correlation of their aligned detail, `cosine` that of their features (both
    are 1 for exact ones), `mirrored` means that one is mirrored.
    """

    first: Photo
    second: Photo
    likeness: Likeness
    agreement: float
    cosine: float
    mirrored: bool = False

    @property
    def leaks(self) -> bool:
        """Whether the two are in different splits, so that one leaks the other."""
        return self.first.split is not self.second.split

    @property
    def conflicts(self) -> bool:
        """Whether the two have different labels, one of which must be wrong."""
        return self.first.label != self.second.label


class Flaw(StrEnum):
    """The kinds of flaws of a single photo."""

    BLANK = "blank"
    BLURRED = "blurred"
    TINY = "tiny"
    ODD_ASPECT = "odd aspect"
    GREY = "grey among colour"


@dataclass(frozen=True)
class FlawedPhoto:
    """A photo with a flaw; `detail` says what was measured, such as "12 x 9 pixels"."""

    photo: Photo
    flaw: Flaw
    detail: str


@dataclass(frozen=True)
class Doubt:
    """A photo with a doubtful label: class `suggested` is more probable than its own.

    Both probabilities come from a classifier that was fitted without the photo.
    """

    photo: Photo
    suggested: int
    suggested_probability: float
    own_probability: float


@dataclass(frozen=True)
class Cue:
    """How well a trivial cue separates the classes, such as "size" or "file format".

    `accuracy` is balanced and cross-validated, by a linear probe on that alone; `chance` is one
    over the number of classes; `p_value` is that of doing as well by chance. `leaks` warns that the
    task can be solved without looking at the content of the photos. `classes` are those that the
    cue separates best, by index.
    """

    name: str
    accuracy: float
    chance: float
    p_value: float
    leaks: bool
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Inspection:
    """All findings on a data set.

    `groups` are the connected components of `pairs`, largest first, each in the manifest's order.
    `counts` are photos by split and class. `uncompared` are photos too small to be compared except
    exactly. `doubts` (the most probable mistakes first) and `cues` are None if they were not looked
    for. `parted` are groups of the list or of --group-by that are in several splits.
    """

    manifest_digest: str
    classes: tuple[str, ...]
    photos: int
    counts: dict[Split, tuple[int, ...]]
    pairs: tuple[Pair, ...]
    groups: tuple[tuple[Photo, ...], ...]
    flaws: tuple[FlawedPhoto, ...]
    uncompared: int
    doubts: tuple[Doubt, ...] | None = None
    cues: tuple[Cue, ...] | None = None
    parted: tuple[Parted, ...] = ()
    kind: LabelKind = ONE_CLASS

    def label_text(self, photo: Photo) -> str:
        """Return a photo's label as people write it."""
        return self.kind.text(photo.label, self.classes)

    @property
    def leaks(self) -> tuple[Pair, ...]:
        """Return the pairs across splits."""
        return tuple(pair for pair in self.pairs if pair.leaks)

    @property
    def conflicts(self) -> tuple[Pair, ...]:
        """Return the pairs whose labels differ."""
        return tuple(pair for pair in self.pairs if pair.conflicts)
