"""The files that an export wrote."""

from dataclasses import dataclass

from trainers.formats import Format


@dataclass(frozen=True)
class ExportedFile:
    """A network's file; `largest_difference` is between its logits and the original network's."""

    name: str
    format: Format
    sha256: str
    n_bytes: int
    largest_difference: float


@dataclass(frozen=True)
class Exported:
    """The result of `export`: the files in `folder`, of which weights, verified on what."""

    folder: str
    weights: str
    weights_sha256: str
    files: tuple[ExportedFile, ...]
    verified_on: str
