"""References for unknown photos: features of training photos, distances of validation photos.

Of photos in folds there is one for each fold's network. They are stored beside a weights file as
safetensors; nothing is pickled. Imports torch.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from trainers.backbone import Network
from trainers.card import opened
from trainers.errors import NotOurWeights
from trainers.files import replacing
from trainers.folded import fold_name
from trainers.labels import Objective
from trainers.mirrored import Seeing

SUFFIX = ".reference.safetensors"
"""The suffix of a reference, in place of the weights file's."""

NEIGHBOURS = 5
"""The distance is that of the k-th nearest training photo (benchmarks/README.md)."""

MOST = 2000
"""Maximum number of photos of each split in a reference, or of all folds in theirs together.

From more, evenly spaced ones.
"""

_FORMAT, _METADATA = 1, "encore-reference"
_TENSORS = ("features", "distances", "misfits", "groups")
_LARGEST = 20_000


@dataclass(frozen=True)
class Reference:
    """The features of training photos, (m, F), rows of length 1, and numbers of validation photos.

    Of each of n validation photos: `distances` from the training photos, as `Nearest` measures;
    `misfits`, 1 less the probability of its class, or of several labels, (n, L), of each that it
    has, and -1 of the others; the number of its group, if there are groups.
    `weights` is the `digest_of` the network that saw them.
    """

    weights: str
    features: NDArray[np.float32]
    distances: NDArray[np.float32]
    misfits: NDArray[np.float32]
    groups: NDArray[np.int64] | None = None


class Nearest(nn.Module):
    """Measures how far features (B, F) are from those of training photos: (B, 1), from 0 to 2.

    It is 1 less the cosine to the fifth nearest of them (Sun et al., ICML 2022).
    """

    known: Tensor

    def __init__(self, features: NDArray[np.float32]) -> None:
        super().__init__()
        self.register_buffer("known", torch.from_numpy(features.T.copy()))

    def forward(self, features: Tensor) -> Tensor:
        """Return distances."""
        cosines = normalize(features.float()) @ self.known
        return 1 - cosines.topk(min(NEIGHBOURS, self.known.shape[1])).values[:, -1:]


class Joined(nn.Module):
    """Joins the distances of photos by the networks of K folds, (B, K), to one each: (B,).

    The distances of n known photos, each by the network trained without its fold, are subtracted
    from a photo's distance by that network. The quantile of these differences up to which there is
    `enough` of the known photos' weight is above 0 exactly where the photo's p-value is at most the
    rate (CV+: Barber, Candes, Ramdas, Tibshirani, Annals of Statistics 2021). With `limit`, that of
    all known distances, added, it lies between the photo's least and largest distance, and is one
    network's distance itself.
    """

    known: Tensor
    weights: Tensor
    fold: Tensor

    def __init__(
        self,
        known: Sequence[NDArray[Any]],
        weights: Sequence[NDArray[np.float64]],
        *,
        limit: float,
        enough: float,
    ) -> None:
        super().__init__()
        self.register_buffer("known", torch.from_numpy(np.concatenate(known)))
        self.register_buffer("weights", torch.from_numpy(np.concatenate(weights)))
        self.register_buffer("fold", torch.arange(len(known)).repeat_interleave(
            torch.tensor([len(each) for each in known])))  # fmt: skip
        self._limit, self._enough = limit, enough

    def forward(self, far: Tensor) -> Tensor:
        """Return distances."""
        differences, order = (self.known - far[:, self.fold]).sort(dim=1)
        enough = self.weights[order].cumsum(1) >= self._enough
        first = enough.int().argmax(1, keepdim=True)
        return self._limit - differences.gather(1, first)[:, 0]


class Measuring(nn.Module):
    """Applies networks to squares (B, 3, S, S), and measures their distances: (B, C) and (B,)."""

    def __init__(
        self,
        networks: Sequence[Network],
        references: Sequence[Reference],
        joined: nn.Module | None = None,
        *,
        tta: bool,
        objective: Objective,
    ) -> None:
        super().__init__()
        self.seeing = Seeing(networks, tta=tta, objective=objective)
        self.nearest = nn.ModuleList(Nearest(each.features) for each in references)
        self.joined, self.objective = joined, objective

    def forward(self, squares: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and distances: of one network its own, of several `joined`."""
        logits, features = zip(*self.seeing(squares), strict=True)
        far = [nearest(each) for nearest, each in zip(self.nearest, features, strict=True)]
        if self.joined is None:
            return logits[0], far[0][:, 0]
        return self.objective.mean(*logits), self.joined(torch.cat(far, 1))


def distances(features: NDArray[np.float32], known: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the distances of features (n, F) from known ones, as by `Nearest`, (n,)."""
    found: NDArray[np.float32] = Nearest(known)(torch.from_numpy(features))[:, 0].numpy()
    return found


def rounded(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return features (n, F) as stored in a reference: of length 1, as float16."""
    lengths = np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return np.asarray((features / lengths).astype(np.float16), np.float32)


def digest_of(network: nn.Module) -> str:
    """Return the SHA-256 of a network's tensors, whatever a card says beside them."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def beside(weights: Path) -> Path:
    """Return the path of a weights file's reference."""
    return weights.with_name(weights.stem + SUFFIX)


def save_references(path: Path, references: Sequence[Reference]) -> None:
    """Write a weights file's reference, or those of all its folds, whole or not at all."""
    tensors: dict[str, NDArray[Any]] = {}
    for prefix, reference in zip(_prefixes(len(references)), references, strict=True):
        tensors[f"{prefix}features"] = reference.features.astype(np.float16)
        tensors[f"{prefix}distances"] = reference.distances
        tensors[f"{prefix}misfits"] = reference.misfits
        if reference.groups is not None:
            tensors[f"{prefix}groups"] = reference.groups
    weights = _told([each.weights for each in references])
    about = {"format_version": _FORMAT, "weights": weights, "neighbours": NEIGHBOURS}
    with replacing(path) as temporary:
        save_file(tensors, temporary, {_METADATA: json.dumps(about)})


def read_references(
    path: Path, networks: Sequence[Network], n_labels: int | None = None
) -> tuple[Reference, ...]:
    """Read the reference of each network; they tell one class, or several labels: how many.

    Raises `NotOurWeights`; runs no code from the file.
    """
    digests = [digest_of(network) for network in networks]
    width, per_photo = networks[0].widths[0], () if n_labels is None else (n_labels,)
    with opened(path) as file:
        try:
            about = json.loads((file.metadata() or {}).get(_METADATA, "null"))
            _check_about(about, _told(digests))
            each = zip(_prefixes(len(digests)), digests, strict=True)
            return tuple(_read(file, prefix, digest, width, per_photo) for prefix, digest in each)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise NotOurWeights(
                f"{str(path)!r} must be what photos are compared with under these weights "
                f"({error}); make it again, or delete it"
            ) from None


def _prefixes(count: int) -> list[str]:
    """Return what the names of each reference's tensors begin with in a file."""
    return [""] if count == 1 else [f"{fold_name(number)}." for number in range(count)]


def _told(digests: Sequence[str]) -> str | list[str]:
    """Return what a file says of its weights: files of one network are older than folds."""
    return digests[0] if len(digests) == 1 else list(digests)


def _read(
    file: Any, prefix: str, weights: str, n_features: int, per_photo: tuple[int, ...]
) -> Reference:
    every = set(file.keys())
    there = {name: f"{prefix}{name}" for name in _TENSORS if f"{prefix}{name}" in every}
    # Checked before reading: a file may claim any size.
    shapes = {name: tuple(file.get_slice(key).get_shape()) for name, key in there.items()}
    _check_shapes(shapes, n_features, per_photo)
    tensors = {name: file.get_tensor(key).numpy() for name, key in there.items()}
    _check_values(tensors)
    return Reference(
        weights,
        tensors["features"].astype(np.float32),
        tensors["distances"],
        tensors["misfits"],
        tensors.get("groups"),
    )


def _check_about(about: Any, weights: str | list[str]) -> None:
    if not isinstance(about, dict) or "weights" not in about:
        raise ValueError("it is no reference that Encore has written")
    if (about.get("format_version"), about.get("neighbours")) != (_FORMAT, NEIGHBOURS):
        raise ValueError("another version of Encore wrote it")
    if about["weights"] != weights:
        raise ValueError("it is of other weights")


def _check_shapes(
    shapes: Mapping[str, tuple[int, ...]], n_features: int, per_photo: tuple[int, ...]
) -> None:
    features, distances = shapes["features"], shapes["distances"]
    if len(features) != 2 or features[1] != n_features or not 0 < features[0] <= _LARGEST:
        raise ValueError(f"features are of shape {features}")
    if len(distances) != 1 or not 0 < distances[0] <= _LARGEST:
        raise ValueError(f"distances are of shape {distances}")
    numbers = shapes["misfits"], shapes.get("groups", distances)
    if numbers != ((*distances, *per_photo), distances):
        raise ValueError("not each photo has its numbers")


def _check_values(tensors: Mapping[str, NDArray[Any]]) -> None:
    expected = {"features": "float16", "distances": "float32", "misfits": "float32"}
    if any(tensors[name].dtype != kind for name, kind in expected.items()):
        raise ValueError("its numbers are of another type")
    if not all(np.isfinite(tensors[name]).all() for name in expected):
        raise ValueError("it holds what is no number")
    groups = tensors.get("groups")
    if groups is not None:
        numbers = np.unique(groups)
        if groups.dtype != np.int64 or numbers.tolist() != list(range(len(numbers))):
            raise ValueError("groups must be numbered from 0 on")
