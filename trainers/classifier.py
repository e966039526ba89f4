"""A classifier of a weights file: `load(path)`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import compress, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from trainers.allowance import usable_cpus
from trainers.backbone import Network, empty_network
from trainers.base import Precision
from trainers.card import WeightsCard
from trainers.checkpoint import read_weights, shapes
from trainers.data.photo import upright_rgb
from trainers.data.scale import read_at, validation_scale
from trainers.decision import REJECTED
from trainers.device import Compute, choose_device, use_no_more_than_usable_cpus
from trainers.errors import NotOurWeights, UnreadablePhoto
from trainers.folded import FoldNetworks, each_network
from trainers.labels import KINDS, SEPARATOR
from trainers.mirrored import Seeing, judging
from trainers.reference import Nearest, Reference
from trainers.schedule import CropType

Photo = Path | str | Image.Image
"""An input: a file's path, or an image opened by PIL."""

Row = NDArray[np.float32]
"""The probabilities of one photo, (C,), or those and more by each of K networks, (K, C + ...)."""

Square = NDArray[np.uint8]

Measure = Callable[[Tensor], Tensor]
"""From a network's features (B, F) to further outputs beside its probabilities, (B, ...)."""


class Classifier:
    """A trained network with its classes and its preprocessing.

    For photos in folds these are the networks of all folds, whose probabilities are averaged.
    """

    def __init__(
        self, network: Network | FoldNetworks, card: WeightsCard, device: torch.device
    ) -> None:
        self.card = card
        self._compute = Compute(device, _precision_at(card, device))
        self.classes = card.classes
        self.network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.objective = KINDS[card.kind].objective
        self._scale = validation_scale(card.image_size, CropType(card.crop))

    @property
    def networks(self) -> list[Network]:
        """The networks of all folds, or the one."""
        return each_network(self.network)

    def of_fold(self, number: int | None) -> "Classifier":
        """Return the network that was trained without a fold; itself if there are no folds."""
        if number is None or not isinstance(self.network, FoldNetworks):
            return self
        return Classifier(self.networks[number], self.card, self._compute.device)

    def predict(
        self, photos: Iterable[Photo], batch_size: int = 64, *, augment: bool | None = None
    ) -> NDArray[np.float32]:
        """Return the probabilities of each class for each photo, shape (photos, classes).

        With `augment` they are the mean of those of the photo and its mirror image: twice the work
        for slightly fewer errors, if left and right are equivalent. None means as in validation
        (the card's `tta`). Raises `UnreadablePhoto` for a file that is not a photo,
        FileNotFoundError for none.
        """
        rows = []
        for photo, row in self.stream(photos, batch_size, augment=augment):
            if isinstance(row, UnreadablePhoto):
                raise UnreadablePhoto(f"{photo}: {row}") from row
            if isinstance(row, OSError):
                raise row
            rows.append(row)
        return np.stack(rows) if rows else np.zeros((0, len(self.classes)), np.float32)

    def stream(
        self, photos: Iterable[Photo], batch_size: int = 64, *, augment: bool | None = None
    ) -> Iterator[tuple[Photo, Row | UnreadablePhoto | OSError]]:
        """Yield each photo in turn with its probabilities, or why it cannot be read.

        Holds the pixels of at most two batches.
        """
        model = judging(
            self.network,
            tta=self.card.tta if augment is None else augment,
            objective=self.objective,
        )
        yield from self._stream(photos, batch_size, model)

    def look(
        self,
        photos: Iterable[Photo],
        batch_size: int = 64,
        *,
        references: Sequence[Reference] = (),
        augment: bool | None = None,
    ) -> Iterator[tuple[Photo, Row | UnreadablePhoto | OSError]]:
        """Yield as `stream` does, a row for each of K networks: of folds, or of one.

        Each goes on with the photo's features, (K, C + F), or with the networks' `references` with
        how far it is from the training photos, (K, C + 1).
        """
        model = Seeing(
            self.networks,
            tta=self.card.tta if augment is None else augment,
            objective=self.objective,
        )
        measures = (
            [nn.Identity() for _ in self.networks]
            if not references
            else [Nearest(each.features).to(self._compute.device) for each in references]
        )
        yield from self._stream(photos, batch_size, model, measures)

    def _stream(
        self,
        photos: Iterable[Photo],
        batch_size: int,
        model: nn.Module,
        measures: Sequence[Measure] = (),
    ) -> Iterator[tuple[Photo, Row | UnreadablePhoto | OSError]]:
        waiting = iter(photos)
        # Threads suffice: Pillow releases the GIL while decoding, and processes take seconds to
        # start.
        with ThreadPoolExecutor(usable_cpus()) as pool:
            batch = self._begin(pool, islice(waiting, batch_size))
            while batch:
                # Decoded while the network computes the batch before it.
                following = self._begin(pool, islice(waiting, batch_size))
                yield from self._finish(batch, model, measures)
                batch = following

    @property
    def precision(self) -> Precision:
        """The precision: on a CUDA device, the same as in validation."""
        return self._compute.precision

    def rounding(self, photos: Iterable[Photo], batch_size: int = 64) -> float:
        """Return by how much probabilities of photos differ, at most, from those of validation.

        0.0 where the precision is the same. Elsewhere that of validation is emulated, with another
        order of summation: it is an estimate. Unreadable photos are skipped.
        """
        if self.precision is self.card.precision:
            return 0.0
        # TF32 has as many digits as float16, but only on a GPU.
        halved = Precision.FP16 if self.card.precision is Precision.TF32 else self.card.precision
        own, imitated = self._compute, Compute(self._compute.device, halved)
        rows: list[list[Row]] = []
        some = list(photos)
        try:
            for self._compute in (own, imitated):
                answers = self.stream(some, batch_size)
                rows.append([row for _, row in answers if isinstance(row, np.ndarray)])
        finally:
            self._compute = own
        return float(np.abs(np.array(rows[0]) - np.array(rows[1])).max(initial=0.0))

    def decide(self, probabilities: NDArray[np.floating[Any]]) -> list[str | None]:
        """Return each photo's class by the decision rule, given the probabilities of `predict`.

        None is a photo that the rule rejects, since any answer would cost too much on average.
        Of several labels, those that are there are named as in a list, "a;b".
        """
        if self.card.several:
            there = probabilities >= self.thresholds
            return [SEPARATOR.join(compress(self.classes, row)) for row in there.tolist()]
        answers = self.card.rule.decide(probabilities).tolist()
        return [None if answer == REJECTED else self.classes[answer] for answer in answers]

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """From which probability on each of several labels is there, (C,)."""
        given = self.card.thresholds
        return np.full(len(self.classes), 0.5) if given is None else np.array(given)

    def _begin(
        self, pool: ThreadPoolExecutor, photos: Iterable[Photo]
    ) -> list[tuple[Photo, Future[Square]]]:
        return [(photo, self._square(pool, photo)) for photo in photos]

    def _square(self, pool: ThreadPoolExecutor, photo: Photo) -> Future[Square]:
        if isinstance(photo, Image.Image):
            # Read here: the same image may come twice, and two threads must not read it at once.
            upright = upright_rgb(photo)
            return pool.submit(lambda: np.asarray(self._scale.fit(upright)))
        path = Path(photo)
        return pool.submit(lambda: read_at(path, [self._scale])[0])

    def _finish(
        self,
        batch: Sequence[tuple[Photo, Future[Square]]],
        model: nn.Module,
        measures: Sequence[Measure],
    ) -> Iterator[tuple[Photo, Row | UnreadablePhoto | OSError]]:
        outcomes = [_outcome(decoded) for _, decoded in batch]
        squares = [outcome for outcome in outcomes if isinstance(outcome, np.ndarray)]
        rows = iter(self._rows(np.stack(squares), model, measures) if squares else ())
        for (photo, _), outcome in zip(batch, outcomes, strict=True):
            yield photo, next(rows) if isinstance(outcome, np.ndarray) else outcome

    @torch.inference_mode()
    def _rows(
        self, pixels: NDArray[np.uint8], model: nn.Module, measures: Sequence[Measure]
    ) -> NDArray[np.float32]:
        squares = torch.from_numpy(pixels).to(self._compute.device).permute(0, 3, 1, 2).float()
        squares = (squares / 255).contiguous(memory_format=torch.channels_last)
        with self._compute.rounded(), self._compute.autocast():
            made = model(squares)
        # Not in the autocast: a distance is the difference of nearly equal numbers.
        rows = (
            self._probabilities(made)
            if isinstance(made, Tensor)
            else torch.stack(
                [
                    torch.cat([self._probabilities(logits), measure(features.float())], 1)
                    for (logits, features), measure in zip(made, measures, strict=True)
                ],
                1,
            )
        )
        if not rows.isfinite().all():
            raise NotOurWeights("these weights are damaged: they give no numbers for a photo")
        found: NDArray[np.float32] = rows.cpu().numpy()
        return found

    def _probabilities(self, logits: Tensor) -> Tensor:
        return self.objective.probabilities(logits.float())


def load(path: Path | str, device: str = "cpu") -> Classifier:
    """Make a classifier of a weights file. Runs no code from it; raises `NotOurWeights`."""
    tensors, card = read_weights(Path(path))
    try:
        if _claims_more(card, tensors):
            raise NotOurWeights(f"{path}: its metadata and its tensors do not fit")
        network = _empty(card)
        network.load_state_dict(tensors)
        for one in each_network(network):
            one.mean.copy_(torch.tensor(card.mean).view(1, 3, 1, 1))
            one.std.copy_(torch.tensor(card.std).view(1, 3, 1, 1))
    except (RuntimeError, TypeError, ValueError) as error:
        raise NotOurWeights(f"{path}: metadata and tensors do not fit ({error})") from error
    use_no_more_than_usable_cpus()
    return Classifier(network, card, choose_device(device))


def _precision_at(card: WeightsCard, device: torch.device) -> Precision:
    """Return the precision: as in validation if that was a GPU's, else float32."""
    return card.precision if device.type == "cuda" else Precision.FP32


def _outcome(decoded: Future[Square]) -> Square | UnreadablePhoto | OSError:
    try:
        return decoded.result()
    except (UnreadablePhoto, OSError) as error:
        return error


def _empty(card: WeightsCard) -> Network | FoldNetworks:
    made = [
        empty_network(card.backbone, card.hidden, len(card.classes), card.levels)
        for _ in range(max(1, card.folds))
    ]
    return FoldNetworks(made, KINDS[card.kind].objective) if card.folds else made[0]


def _claims_more(card: WeightsCard, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a card and the tensors are of different networks.

    Checked on torch's meta device, where even a huge network takes no memory. Older timm cannot
    build every backbone there; a mismatch is then found on loading.
    """
    if len(card.hidden) > len(tensors):
        return True
    try:
        with torch.device("meta"):
            claimed = _empty(card)
    except RuntimeError:
        return False
    return shapes(claimed.state_dict()) != shapes(tensors)
