"""What the data gate finds, as plain frozen data. Free of torch."""

from dataclasses import dataclass
from enum import StrEnum

from trainers.data.label_kind import ONE_CLASS, LabelKind
from trainers.data.manifest import Parted, Photo
from trainers.data.sources import Split


class Likeness(StrEnum):
    """EXACT photos have the same pixels; NEAR ones show the same shot, changed a little."""

    EXACT = "exact"
    NEAR = "near"


@dataclass(frozen=True)
class Pair:
    """Two photos of one shot, in the manifest's order.

    `agreement` is the correlation of their detail, one laid over the other, `cosine` that of their
    features (both are 1 for exact ones), `mirrored` that one is turned over.
    """

    first: Photo
    second: Photo
    likeness: Likeness
    agreement: float
    cosine: float
    mirrored: bool = False

    @property
    def leaks(self) -> bool:
        """Whether the two lie in different splits, so that one gives the other away."""
        return self.first.split is not self.second.split

    @property
    def conflicts(self) -> bool:
        """Whether the two have different labels, one of which must be wrong."""
        return self.first.label != self.second.label


class Flaw(StrEnum):
    """What may be wrong with a photo by itself."""

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
    """A photo whose label is doubted: class `suggested` is likelier than its own.

    Both probabilities come from a classifier that was fitted without the photo.
    """

    photo: Photo
    suggested: int
    suggested_probability: float
    own_probability: float


@dataclass(frozen=True)
class Cue:
    """How well something trivial tells the classes apart, such as "size" or "file format".

    `accuracy` is balanced and cross-validated, by a linear probe on that alone; `chance` is one
    over the number of classes; `p_value` is that of doing as well by luck. `leaks` warns that the
    task can be solved without looking at what the photos show. `classes` are those that the cue
    separates best, by index.
    """

    name: str
    accuracy: float
    chance: float
    p_value: float
    leaks: bool
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Inspection:
    """All that was found in a data set.

    `groups` are the connected components of `pairs`, largest first, each in the manifest's order.
    `counts` are photos by split and class. `uncompared` are photos too small to be compared, other
    than to the last pixel. `doubts` (the likeliest mistakes first) and `cues` are None where they
    were not looked for. `parted` are groups of the list or of --group-by that lie across splits.
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
        """Return the pairs that lie across splits."""
        return tuple(pair for pair in self.pairs if pair.leaks)

    @property
    def conflicts(self) -> tuple[Pair, ...]:
        """Return the pairs whose labels differ."""
        return tuple(pair for pair in self.pairs if pair.conflicts)
