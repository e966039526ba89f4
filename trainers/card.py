"""The card of a weights file, in its metadata."""

import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import safetensors
from safetensors.numpy import save_file

from trainers.base import Precision
from trainers.data.sources import FEWEST_FOLDS, MOST_FOLDS
from trainers.decision import Decision
from trainers.errors import NotOurWeights
from trainers.labels import KINDS, ONE_CLASS, SEVERAL
from trainers.schedule import CropType, Schedule, Stage

CARD = "encore"
"""The metadata key of the card."""


@dataclass(frozen=True, kw_only=True)
class WeightsCard:
    """The card of a weights file: how to rebuild the network, and how it was made.

    With `tta`, its probabilities are the mean of those of a photo and its mirror image, as in
    validation. It is part of the preprocessing, like image size and crop, and not of `decision`,
    which turns probabilities into a prediction if prices were set (`Decision`). `kind` says what a
    label is (`LabelKind`). Of several labels, those are there whose probability is at least that of
    `thresholds`, 0.5 where none were set. `prior` is the share of each class in training, each
    alike if classes were balanced, or of the photos with each of several labels; None where that is
    not known. `unknown` is the share of photos like those of validation that may be called unknown,
    where photos unlike the training photos are: a reference lies beside such weights. With `folds`,
    the file holds a network for each fold of the photos, trained without it, and the probabilities
    are the mean of theirs. `made_by` is the command, commit and device that trained it, as far as
    it is known.
    """

    backbone: str
    hidden: tuple[int, ...]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    crop: str
    schedule: dict[str, Any]
    schedule_digest: str
    manifest_digest: str
    seed: int
    stage: int
    epoch: int
    metrics: dict[str, float]
    packages: dict[str, str]
    levels: int = 0
    tta: bool = False
    kind: str = "class"
    thresholds: tuple[float, ...] | None = None
    decision: dict[str, Any] | None = None
    prior: tuple[float, ...] | None = None
    unknown: float | None = None
    folds: int = 0
    made_by: dict[str, str] = field(default_factory=dict)
    format_version: str = ONE_CLASS.weights_format

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a card; anything but a whole card of this format version is a `NotOurWeights`."""
        try:
            plain = json.loads(text)
            formats = {kind.weights_format for kind in KINDS.values()}
            if plain["format_version"] not in formats:
                raise NotOurWeights(
                    f"weights are of format {plain['format_version']}, this Encore reads "
                    f"{max(formats)}; upgrade encore-search"
                )
            # Later fields may be missing: files of all versions of this format are read.
            later: dict[str, Any] = {"levels": 0, "tta": False, "decision": None, "prior": None}
            later |= {"unknown": None, "folds": 0, "made_by": {}}
            later |= {"kind": "class", "thresholds": None}
            known = {each.name: (later | plain)[each.name] for each in fields(cls)}
            for name in ("hidden", "classes", "mean", "std"):
                known[name] = tuple(known[name])
            for name in ("prior", "thresholds"):
                known[name] = known[name] and tuple(map(float, known[name]))
            card = cls(**known)
            card._check()
            return card
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise NotOurWeights(f"the metadata of these weights is not Encore's: {error}") from None

    def _check(self) -> None:
        # The fields that a network is built from are validated as in a schedule.
        crop = CropType(self.crop)
        stage = Stage(image_size=self.image_size, batch_size=2, crop=crop, tta=self.tta)
        Schedule(backbone=self.backbone, hidden=self.hidden, levels=self.levels, stages=(stage,))
        if not self.classes or not all(isinstance(name, str) for name in self.classes):
            raise ValueError(f"classes must be names, got {str(self.classes)[:100]}")
        if self.decision is not None:
            Decision.from_dict(self.decision, len(self.classes))
        if self.prior is not None and not (
            len(self.prior) == len(self.classes) and all(0 < share <= 1 for share in self.prior)
        ):
            raise ValueError(f"prior must be a share of each class, got {str(self.prior)[:100]}")
        if self.unknown is not None and not 0 < float(self.unknown) < 1:
            raise ValueError(f"unknown must be a share between 0 and 1, got {self.unknown!r:.100}")
        if self.folds not in (0, *range(FEWEST_FOLDS, MOST_FOLDS + 1)):
            raise ValueError(f"folds must be {FEWEST_FOLDS} to {MOST_FOLDS}, got {self.folds!r}")
        kind = KINDS.get(self.kind)
        if kind is None or kind.weights_format != self.format_version:
            raise ValueError(
                f"kind must be that of format {self.format_version}, got {self.kind!r}"
            )
        if self.thresholds is not None and not (
            len(self.thresholds) == len(self.classes) and all(0 <= t <= 1 for t in self.thresholds)
        ):
            raise ValueError(f"thresholds must be one a label, got {str(self.thresholds)[:100]}")
        if not all(isinstance(value, str) for value in dict(self.made_by).values()):
            raise ValueError(f"made_by must be texts, got {str(self.made_by)[:100]}")

    @property
    def several(self) -> bool:
        """Whether a photo has any number of labels."""
        return self.kind == SEVERAL.name

    @property
    def precision(self) -> Precision:
        """The precision of the network in validation, if known."""
        word = self.made_by.get("device", "").rpartition(", ")[2]
        known = word in tuple(Precision) and word != Precision.AUTO
        return Precision(word) if known else Precision.FP32

    @property
    def rule(self) -> Decision:
        """The decision rule: the most probable class, if none was set."""
        if self.decision is None:
            return Decision.plain(len(self.classes))
        return Decision.from_dict(self.decision, len(self.classes))


def package_versions() -> dict[str, str]:
    """Return the versions that a training depends on."""
    versions = {"python": platform.python_version()}
    for name in ("encore-search", "torch", "torchvision", "timm", "numpy", "pillow"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def read_card(path: Path) -> WeightsCard:
    """Read only the card of a weights file."""
    with opened(path) as file:
        return WeightsCard.from_json((file.metadata() or {}).get(CARD, "null"))


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a weights file for reading, its tensors as torch's. Raises `NotOurWeights`."""
    try:
        if path.exists() and not path.is_file():
            raise NotOurWeights(f"{str(path)!r} is not a regular file")
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except (safetensors.SafetensorError, OSError) as error:
        raise NotOurWeights(f"{str(path)!r} is not a whole safetensors file ({error})") from error


def copy_with(source: Path, target: Path, changes: Mapping[str, Any]) -> None:
    """Copy weights with some fields of their card changed, such as the decision rule."""
    with safetensors.safe_open(source, "np") as file:
        metadata = file.metadata() or {}
        card = json.loads(metadata.get(CARD, "null"))
        if not isinstance(card, dict):
            raise ValueError(f"{source} must be weights that Encore has written")
        marked = metadata | {CARD: json.dumps(card | dict(changes))}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, target, marked)
