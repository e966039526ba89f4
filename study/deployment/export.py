"""Use case `export`: the chosen weights as a folder that works without this project."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from storage.store import open_store
from study.config.schema import StudyConfig
from study.deployment.exported import Exported, ExportedFile
from study.deployment.model_card import model_card
from study.deployment.reference import Stated, known_distances, references_of, stated
from study.errors import ConfigError
from study.formatting import json_text
from study.selection.best import best
from study.selection.result import Selection
from study.statistics.conformal import enough
from study.studies import find_study, manifest_of
from trainers.data.manifest import Manifest, Split
from trainers.data.photo import is_photo_name
from trainers.files import sha256_of
from trainers.formats import DISTANCE, Format, describe

if TYPE_CHECKING:  # takes seconds; wrong flags are reported before
    from trainers.card import WeightsCard
    from trainers.classifier import Classifier
    from trainers.reference import Joined, Reference

SPEC, CARD = "model.json", "MODEL_CARD.md"
FORMAT, FORMAT_VERSION = "encore-export", 1
VERIFY_ON = 100
"""Number of photos, spread evenly over those given, on which a graph is verified."""

_ONNX = ("onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True)
class _Source:
    """The weights to export; for a study's best also the choice, and the study's data."""

    file: Path
    chosen: Selection | None = None
    manifest: Manifest | None = None


def export(
    weights: Path | None,
    folder: Path,
    *,
    formats: Sequence[Format] = (Format.ONNX,),
    study: str | None = None,
    storage: str = StudyConfig().storage,
    verify_on: Path | None = None,
    expected: str | None = None,
    unknown: float | None = None,
) -> Exported:
    """Write a folder with the network in each format, its description and its model card.

    Without `weights`, those that `best` chooses are exported. Each file is first read back and
    verified on photos: those in the folder `verify_on`, else the study's validation photos, else
    noise. `expected` is the card's estimate for new photos. With `unknown`, by default the rate
    that the weights carry, the networks also output the distance from the training photos, and the
    description has the threshold for unknown photos: see `predict`. A folder that `export` has made
    is replaced file by file. Raises `ConfigError`, the errors of `best` and of `load`,
    FileExistsError for another folder that is not empty, and `ExportRefused` for a network whose
    outputs differ once it is written; then nothing is left behind.
    """
    if weights is not None and study is not None:
        raise ConfigError("give --weights FILE or --study NAME, not both")
    _check_installed(formats)
    _check_folder(folder)
    source = _source(weights, study, storage)

    from trainers.classifier import load

    classifier = load(source.file)
    squares, verified_on = _squares(classifier, source, verify_on)
    card = _with_rule(classifier.card, source.chosen)
    rate = (card.unknown if unknown is None else unknown) or None
    references = () if rate is None else references_of(classifier, source.file, storage)
    limits = stated(references, rate, None) if references else None
    told = limits and _unknown(limits, "label" if card.several else "class")
    joined = None if limits is None else _joined(references, limits)
    about = _about(card, source.file, formats) | {"unknown": told}
    around = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    # Beside the final folder, so that each file appears there whole or not at all.
    with tempfile.TemporaryDirectory(prefix=".encore-export-", dir=around) as beside:
        made = Path(beside)
        files = tuple(
            _write(classifier, made, kind, squares, about, references, joined) for kind in formats
        )
        done = Exported(
            folder=str(folder),
            weights=str(source.file),
            weights_sha256=about["weights"]["sha256"],
            files=files,
            verified_on=verified_on,
        )
        found = {"files": [asdict(file) for file in files], "verified_on": verified_on}
        _put_text(made / SPEC, json_text({**about, **found}) + "\n")
        _put_text(
            made / CARD,
            model_card(card, done, source.chosen, source.manifest, expected, limits),
        )
        _move(made, folder)
    return done


def _check_installed(formats: Sequence[Format]) -> None:
    missing = [name for name in _ONNX if find_spec(name) is None]
    if Format.ONNX in formats and missing:
        raise ConfigError(
            f"--format onnx needs {', '.join(missing)}: install encore-search[onnx], or give "
            f"--format {Format.TORCHSCRIPT} or {Format.TORCH_EXPORT}"
        )


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; give --to another folder")
    if folder.is_dir() and any(folder.iterdir()) and not _is_ours(folder):
        raise FileExistsError(
            f"{folder} holds files that `export` did not make; give --to an empty or a new folder"
        )


def _is_ours(folder: Path) -> bool:
    try:
        spec = json.loads((folder / SPEC).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(spec, dict) and spec.get("made_by") == FORMAT


def _source(weights: Path | None, study: str | None, storage: str) -> _Source:
    if weights is not None:
        if not weights.is_file():
            raise FileNotFoundError(f"there is no weights file {str(weights)!r}")
        return _Source(weights)
    chosen = best(study, storage=storage)
    with open_store(storage, create=False) as store:
        manifest = manifest_of(store, find_study(store, chosen.study))
    return _Source(Path(chosen.file), chosen, manifest)


def _with_rule(card: "WeightsCard", chosen: Selection | None) -> "WeightsCard":
    """Return a file's card with the decision rule that `best` fitted to the study's prices."""
    return replace(card, **chosen.rule) if chosen else card


def _squares(
    classifier: "Classifier", source: _Source, verify_on: Path | None
) -> tuple[NDArray[np.uint8], str]:
    """Return the inputs for verifying the written networks, and what they are in words."""
    from trainers.exporting import photo_squares, random_squares

    if verify_on is not None:
        squares = photo_squares(classifier, _spread(_photos_in(verify_on)))
        return squares, f"{len(squares)} photos of {verify_on.name or verify_on}"
    if source.manifest is not None:
        valid = source.manifest.of_split(Split.VALID)
        paths = [source.manifest.root / photo.path for photo in valid]
        if there := [path for path in paths if path.is_file()]:
            squares = photo_squares(classifier, _spread(there))
            return squares, f"{len(squares)} validation photos of the study"
    squares = random_squares(classifier)
    return squares, f"{len(squares)} squares of noise, since no photos were available"


def _photos_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} of --verify-on is not there")
    found = sorted(path for path in folder.rglob("*") if is_photo_name(path.name))
    if not found:
        raise LookupError(f"the folder {folder} of --verify-on holds no photos")
    return found


def _spread(paths: Sequence[Path]) -> list[Path]:
    count = min(VERIFY_ON, len(paths))
    return [paths[i * len(paths) // count] for i in range(count)]


def _about(card: "WeightsCard", file: Path, formats: Sequence[Format]) -> dict[str, Any]:
    """Return the description that goes into `SPEC` and, as a note, into each network's file."""
    from trainers.card import package_versions

    with_what = package_versions()
    if Format.ONNX in formats:
        with_what |= {name: version(name) for name in _ONNX}
    return {
        "made_by": FORMAT,
        "format_version": FORMAT_VERSION,
        **describe(card),
        "weights": {
            "file": file.name,
            "sha256": sha256_of(file),
            "backbone": card.backbone,
            "schedule_digest": card.schedule_digest,
            "manifest_digest": card.manifest_digest,
            "seed": card.seed,
            "stage": card.stage,
            "epoch": card.epoch,
        },
        "versions": {"trained_with": card.packages, "exported_with": with_what},
    }


def _unknown(limits: Stated, answer: str) -> dict[str, Any]:
    rate, joined = "At most `rate`", ""
    if limits.folds:
        rate = "About `rate` (in the worst case `at_most`)"
        joined = (
            f" Each of {limits.folds} networks measures it, and compares it with the distances of "
            f"the photos in the fold it was trained without; `{DISTANCE}` joins what they say, and "
            "lies between the least and the largest."
        )
    return {
        "words": (
            f"The second output, `{DISTANCE}`, says how far a photo is from the fifth nearest "
            f"training photo, by what the network sees before its head: 1 less the cosine.{joined} "
            f"Above the threshold, predict no {answer}: the photo is unlike the training photos. "
            f"{rate} of photos like those of validation are above it."
        ),
        "output": DISTANCE,
        "threshold": limits.distance,
        "rate": limits.unknown,
        "at_most": limits.unknown_at_most,
        "photos": limits.photos,
        "groups": limits.groups,
    }


def _joined(references: "Sequence[Reference]", limits: Stated) -> "Joined | None":
    from trainers.reference import Joined

    known = known_distances(references)
    if len(known) == 1 or limits.distance is None or limits.unknown is None:
        return None
    return Joined(
        [each.scores for each in known],
        [each.weights for each in known],
        limit=limits.distance,
        enough=enough(known, limits.unknown),
    )


def _write(
    classifier: "Classifier",
    made: Path,
    kind: Format,
    squares: NDArray[np.uint8],
    about: dict[str, Any],
    references: "Sequence[Reference]",
    joined: "Joined | None",
) -> ExportedFile:
    from trainers.exporting import export_network

    path = made / kind.file_name
    # ASCII only: not all readers of these files assume the same encoding.
    note = json.dumps(about)
    difference = export_network(classifier, path, kind, squares, note, references, joined)
    return ExportedFile(path.name, kind, sha256_of(path), path.stat().st_size, difference)


def _move(made: Path, folder: Path) -> None:
    """Put the files in place; the description, which knows their hashes, comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in {kind.file_name for kind in Format} - {path.name for path in made.iterdir()}:
        (folder / stale).unlink(missing_ok=True)  # an old file would be of other weights
    for path in sorted(made.iterdir(), key=lambda path: path.name == SPEC):
        path.replace(folder / path.name)


def _put_text(path: Path, text: str) -> None:
    # A lone surrogate in a class's name is not valid UTF-8; as an escape it is valid JSON.
    path.write_bytes(text.encode("utf-8", "backslashreplace"))
