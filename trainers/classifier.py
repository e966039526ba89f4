"""A weights file put to work: `load(path)` alone gives a classifier."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trainers.backbone import Network, empty_network
from trainers.checkpoint import NotOurWeights, WeightsCard, read_weights, shapes
from trainers.data.photo import upright_rgb
from trainers.data.scale import read_at, validation_scale
from trainers.device import choose_device
from trainers.schedule import CropType


class Classifier:
    """A trained network with its classes and the way it wants its photos."""

    def __init__(self, network: Network, card: WeightsCard, device: torch.device) -> None:
        self.card = card
        self.classes = card.classes
        self._network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._device = device
        self._scale = validation_scale(card.image_size, CropType(card.crop))

    @torch.inference_mode()
    def predict(
        self, photos: Iterable[Path | str | Image.Image], batch_size: int = 64
    ) -> NDArray[np.float32]:
        """Give the probabilities of each class for each photo, shape (photos, classes).

        Raises `UnreadablePhoto` for a file that is no photo.
        """
        rows = [np.zeros((0, len(self.classes)), np.float32)]
        waiting: Iterator[Path | str | Image.Image] = iter(photos)
        while batch := list(islice(waiting, batch_size)):
            pixels = np.stack([self._square(photo) for photo in batch])
            squares = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
            squares = squares.to(self._device, memory_format=torch.channels_last)
            rows.append(self._network(squares).softmax(1).float().cpu().numpy())
        return np.concatenate(rows)

    def _square(self, photo: Path | str | Image.Image) -> NDArray[np.uint8]:
        if isinstance(photo, Image.Image):
            return np.array(self._scale.fit(upright_rgb(photo)))
        return read_at(Path(photo), [self._scale])[0]


def load(path: Path | str, device: str = "cpu") -> Classifier:
    """Make a classifier of a weights file. Runs no code from it; raises `NotOurWeights`."""
    tensors, card = read_weights(Path(path))
    try:
        if _claims_more(card, tensors):
            raise NotOurWeights(f"{path}: its metadata and its tensors do not fit")
        network = empty_network(card.backbone, card.hidden, len(card.classes))
        network.load_state_dict(tensors)
        network.mean.copy_(torch.tensor(card.mean).view(1, 3, 1, 1))
        network.std.copy_(torch.tensor(card.std).view(1, 3, 1, 1))
    except (RuntimeError, TypeError, ValueError) as error:
        raise NotOurWeights(f"{path}: metadata and tensors do not fit ({error})") from error
    return Classifier(network, card, choose_device(device))


def _claims_more(card: WeightsCard, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a card describes another network than the tensors are of.

    Found out on torch's meta device, where the most gigantic network takes no memory. Older timm
    cannot build every backbone there; what does not fit is then found when it is loaded.
    """
    if len(card.hidden) > len(tensors):
        return True
    try:
        with torch.device("meta"):
            claimed = empty_network(card.backbone, card.hidden, len(card.classes))
    except RuntimeError:
        return False
    return shapes(claimed.state_dict()) != shapes(tensors)
