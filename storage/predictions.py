"""How an epoch's predictions are packed: a small header, then zlib over plain arrays.

Both forms store the predicted class itself, because probabilities rounded to float16 can tie and
change the argmax. Body of FULL: predicted, then all probabilities. Body of COMPACT, for big
validation sets: predicted, its probability, the true class's probability.
"""

import struct
import zlib
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from trainers.metrics import Evaluation, columns_of, of_presence

FULL_LIMIT = 2_000_000
"""The maximum number of probabilities (photos times classes) in the form FULL; else COMPACT."""

_HEADER = struct.Struct("<4sBII")  # magic, version, photos, classes
_MAGIC, _VERSION, _SEVERAL = b"ENCP", 1, 2  # of photos that are asked several questions
_HALF = np.dtype("<f2")


class Form(StrEnum):
    """Whether all probabilities are kept, or two per photo."""

    FULL = "full"
    COMPACT = "compact"


@dataclass(frozen=True, eq=False)
class StoredPredictions:
    """The stored part of an evaluation on n photos; `probabilities` (n, C) only if full."""

    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]
    true_probability: NDArray[np.float32]
    probabilities: NDArray[np.float32] | None = field(repr=False)


def encode(evaluation: Evaluation) -> tuple[Form, bytes]:
    """Pack an evaluation, without its labels, which are in the manifest."""
    photos, classes = evaluation.probabilities.shape
    answers = columns_of(evaluation.predicted, evaluation.probabilities)
    predicted = answers.astype(_class_dtype(classes)).tobytes()
    if photos * classes <= FULL_LIMIT:
        form = Form.FULL
        body = predicted + _half(evaluation.probabilities)
    else:
        form = Form.COMPACT
        confidence = _pick(evaluation.probabilities, answers)
        true_probability = _pick(evaluation.probabilities, evaluation.columns)
        body = predicted + _half(confidence) + _half(true_probability)
    # Level 1: probabilities hardly compress, and an epoch should not wait for it.
    version = _VERSION if evaluation.questions == 1 else _SEVERAL
    return form, _HEADER.pack(_MAGIC, version, photos, classes) + zlib.compress(body, level=1)


def shorten(blob: bytes, labels: NDArray[np.int64]) -> bytes:
    """Convert packed predictions from the full form to the compact one; see `decode`."""
    found = decode(Form.FULL, blob, labels)
    _, version, photos, classes = _HEADER.unpack_from(blob)
    predicted = (found.predicted % classes).astype(_class_dtype(classes)).tobytes()
    body = predicted + _half(found.confidence) + _half(found.true_probability)
    return _HEADER.pack(_MAGIC, version, photos, classes) + zlib.compress(body, level=1)


def decode(form: str, blob: bytes, labels: NDArray[np.int64]) -> StoredPredictions:
    """Unpack the bytes of `encode`, given the labels it was made with.

    Raises ValueError for any other bytes; uses no more memory than the labels justify.
    """
    form = Form(form)
    photos, classes = _read_header(form, blob, labels)
    width = _class_dtype(classes)
    halves = photos * classes if form is Form.FULL else 2 * photos
    body = _inflate(blob[_HEADER.size :], photos * width.itemsize + halves * _HALF.itemsize)
    predicted = np.frombuffer(body, width, photos).astype(np.int64)
    numbers = np.frombuffer(body, _HALF, halves, photos * width.itemsize).astype(np.float32)
    if predicted.max(initial=0) >= classes:
        raise ValueError(f"stored predictions name a class beyond the {classes} they are about")
    numbered = predicted + labels - labels % classes  # on from one question to the next
    if form is Form.COMPACT:
        return StoredPredictions(numbered, numbers[:photos], numbers[photos:], None)
    table = numbers.reshape(photos, classes)
    if _HEADER.unpack_from(blob)[1] == _SEVERAL:
        table = of_presence(table)
    true = _pick(table, labels % classes)
    return StoredPredictions(numbered, _pick(table, predicted), true, table)


def _read_header(form: Form, blob: bytes, labels: NDArray[np.int64]) -> tuple[int, int]:
    if len(blob) < _HEADER.size:
        raise ValueError(f"stored predictions must have {_HEADER.size} bytes, got {len(blob)}")
    magic, version, photos, classes = _HEADER.unpack_from(blob)
    if magic != _MAGIC or version not in (_VERSION, _SEVERAL):
        raise ValueError(
            f"stored predictions must be of version {_VERSION} or {_SEVERAL}, got {blob[:5]!r}"
        )
    if photos != len(labels):
        raise ValueError(f"stored predictions are of {photos} photos, but {len(labels)} labels")
    if form is Form.FULL and photos * classes > FULL_LIMIT:
        raise ValueError(f"stored predictions claim {photos} x {classes} probabilities")
    if version == _VERSION and photos and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels must be from 0 to {classes - 1}, the stored classes")
    return photos, classes


def _inflate(packed: bytes, size: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        # One byte more than expected detects excess data without unpacking it all.
        body = stream.decompress(packed, size + 1)
    except zlib.error as error:
        raise ValueError(f"stored predictions are damaged: {error}") from error
    if len(body) != size or not stream.eof:
        raise ValueError(f"stored predictions must unpack to {size} bytes, got {len(body)}")
    return body


def _class_dtype(classes: int) -> np.dtype[np.unsignedinteger]:
    """Return the smallest type, little-endian, that counts up to `classes`."""
    return np.dtype("<u1" if classes <= 2**8 else "<u2" if classes <= 2**16 else "<u4")


def _half(numbers: NDArray[np.float32]) -> bytes:
    return numbers.astype(_HALF).tobytes()


def _pick(table: NDArray[np.float32], column: NDArray[np.int64]) -> NDArray[np.float32]:
    return table[np.arange(len(table)), column]
