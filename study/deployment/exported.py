"""What an export has written."""

from dataclasses import dataclass

from trainers.formats import Format


@dataclass(frozen=True)
class ExportedFile:
    """A network's file; `largest_difference` of a logit from those of the network it is made of."""

    name: str
    format: Format
    sha256: str
    n_bytes: int
    largest_difference: float


@dataclass(frozen=True)
class Exported:
    """The answer of `export`: what lies in `folder`, of which weights, verified on what."""

    folder: str
    weights: str
    weights_sha256: str
    files: tuple[ExportedFile, ...]
    verified_on: str
