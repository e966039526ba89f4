"""Arrays of a frozen network's activations of photos, and their files. Free of torch."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.data.mapped import SAMPLED, BrokenMap, MapWriter, check_hashes, read_about

FORMAT = 1
"""Version of the file: raised when its layout, or what its rows mean, changes."""

SUFFIX = ".array"

Array = NDArray[Any]

_MAGIC = b"encore array\n"
_DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class ArrayKind:
    """The kind of an array: its digest covers everything that its rows depend on.

    The first number of `shape` counts the rows, which are hashed one by one.
    """

    digest: str
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, content: Mapping[str, Any], shape: tuple[int, ...], dtype: str) -> "ArrayKind":
        """Name an array by a description of its content, in plain JSON."""
        text = json.dumps(content, sort_keys=True)
        return cls(hashlib.sha256(text.encode()).hexdigest(), shape, dtype)

    @property
    def name(self) -> str:
        """Return the file's name."""
        return f"{self.digest[:32]}{SUFFIX}"

    @property
    def n_bytes(self) -> int:
        """Count the bytes of all rows."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    def to_dict(self) -> dict[str, Any]:
        """Return the file's header."""
        shape = list(self.shape)
        return {"format": FORMAT, "digest": self.digest, "shape": shape, "dtype": self.dtype}


def write_array(path: Path, kind: ArrayKind, blocks: Iterable[Array]) -> None:
    """Write blocks of rows to a file, atomically."""
    writer = MapWriter(path, _MAGIC)
    try:
        for block in blocks:
            for row in block:
                writer.add(row.tobytes())
        writer.finish(kind.to_dict())
    finally:
        writer.abandon()


def filled(kind: ArrayKind, blocks: Iterable[Array]) -> Array:
    """Put blocks of rows into memory."""
    values = np.empty(kind.shape, kind.dtype)
    done = 0
    for block in blocks:
        values[done : done + len(block)] = block
        done += len(block)
    return values


def open_array(path: Path, kind: ArrayKind, *, sampled: int | None = SAMPLED) -> Array:
    """Map a file into memory; `BrokenMap` unless its kind, length and sampled hashes are right."""
    about = read_about(path, _MAGIC)
    if {name: about.get(name) for name in kind.to_dict()} != kind.to_dict():
        raise BrokenMap("it holds another array")
    hashes = about.get("hashes")
    if not isinstance(hashes, list) or len(hashes) != kind.shape[0] or about["bytes"] == 0:
        raise BrokenMap("it does not say what it holds")
    if about["bytes"] != kind.n_bytes:
        raise BrokenMap("its length does not fit what it holds")
    values = np.memmap(path, kind.dtype, "c", shape=kind.shape)
    check_hashes(hashes, lambda index: values[index].tobytes(), "row", sampled)
    return values


def check_array(path: Path) -> None:
    """Check every row of a file; raises `BrokenMap`."""
    about = read_about(path, _MAGIC)
    try:
        shape = tuple(int(number) for number in about["shape"])
        if about["dtype"] not in _DTYPES or not shape or min(shape) < 1:
            raise ValueError("no array of numbers")
        kind = ArrayKind(str(about["digest"]), shape, about["dtype"])
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise BrokenMap(f"it does not say what it holds ({error})") from error
    open_array(path, kind, sampled=None)
