"""Weight soups: one network whose weights are the mean of several with common first stages.

Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy
without increasing inference time" (ICML 2022). BatchNorm's statistics cannot be averaged, as they
describe the outputs of the layers before them; they are re-estimated (Izmailov et al., "Averaging
weights leads to wider optima and better generalization", UAI 2018).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainers.backbone import Network, empty_network
from trainers.card import WeightsCard, package_versions, read_card
from trainers.checkpoint import read_weights, save_weights, shapes
from trainers.data.augment import draw_order, on_device
from trainers.data.batches import slices
from trainers.data.loader import Photos, validation_batches
from trainers.data.manifest import Manifest, Split
from trainers.data.scale import validation_scale
from trainers.device import Compute, choose_compute
from trainers.loop import evaluate
from trainers.metrics import Evaluation, Metric, f1_of
from trainers.mirrored import judging
from trainers.schedule import CropType, Stage

_BATCH_SIZE = 64


def average(states: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of networks' states, name by name; non-float tensors are the first one's.

    One state at a time is held beside the sum, in float64: so the mean of equal weights is those
    weights. Raises ValueError for networks of different shapes.
    """
    coming = iter(states)
    first = dict(next(coming))
    sums, count = {name: value.double() for name, value in first.items()}, 1
    for state in coming:
        if shapes(state) != shapes(first):
            raise ValueError("states must be of one network, got others of other names or shapes")
        sums = {name: total + state[name].double() for name, total in sums.items()}
        count += 1
    return {
        name: (sums[name] / count).to(value.dtype) if value.is_floating_point() else value
        for name, value in first.items()
    }


def drifting(average: Mapping[str, Tensor], one: Mapping[str, Tensor]) -> set[str]:
    """Name the layers with BatchNorm statistics that are not those of all that were averaged.

    Statistics which all ingredients share were frozen since their common beginning, and with
    layer groups frozen from the input on, so was all before them: they still hold.
    """
    kinds = (".running_mean", ".running_var")
    return {
        name.rpartition(".")[0]
        for name, value in one.items()
        if name.endswith(kinds) and not torch.equal(value.cpu(), average[name].cpu())
    }


@torch.no_grad()
def estimate_statistics(
    network: Network, layers: set[str], batches: Iterable[Tensor], compute: Compute
) -> None:
    """Set the BatchNorm statistics of some layers, by name, to those of batches of squares.

    Each photo has the same weight, also in a smaller last batch. Nothing else is in training mode,
    as dropout changes variances. Batches must mix the classes, as each is normalised by its own
    statistics.
    """
    modules: dict[str, nn.Module] = dict(network.named_modules())
    norms = [norm for name in sorted(layers) if isinstance(norm := modules[name], _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    seen = 0
    for squares in batches:
        seen += len(squares)
        for norm in norms:
            norm.momentum = len(squares) / seen  # so that the running mean is the mean of all
        with compute.autocast():
            network(squares)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


class Averager:
    """Makes soups of weights files of one study, and evaluates them on its validation photos.

    `files` are read when needed. A soup has the preprocessing of its first ingredient: image size,
    crop and mirror images; training photos are shown without augmentation, as in prediction. Raises
    `NotOurWeights`, ValueError for files of other data.
    """

    def __init__(
        self, manifest: Manifest, files: Sequence[Path], compute: Compute | None = None
    ) -> None:
        self._files = list(files)
        self._cards = [read_card(file) for file in self._files]
        for file, card in zip(self._files, self._cards, strict=True):
            if card.manifest_digest != manifest.digest:
                raise ValueError(f"{file} must be trained on the manifest's data, got others")
        self._compute = compute or choose_compute()
        self._manifest = manifest
        self._photos = Photos(manifest, None, self._compute.device)
        self._objective = manifest.kind.objective
        self._tried: dict[tuple[int, frozenset[int]], tuple[Evaluation, float]] = {}

    def evaluation(self, members: Sequence[int]) -> Evaluation:
        """Return the predictions of a soup of some files, by index; a single file is unchanged."""
        return self._try(members)[0]

    def save(
        self,
        members: Sequence[int],
        path: Path,
        made_by: Mapping[str, str],
        thresholds: tuple[float, ...] | None = None,
    ) -> None:
        """Write a soup as a weights file, whole or not at all.

        Its card is its first ingredient's, except for metrics, provenance and labels' `thresholds`.
        """
        network, card = self._network(members), self._cards[members[0]]
        evaluation, loss = self._evaluate(network, card)
        metrics = {
            "valid_loss": loss,
            "accuracy": Metric.ACCURACY.of(evaluation),
            "balanced_accuracy": Metric.BALANCED_ACCURACY.of(evaluation),
            "f1": f1_of(evaluation),
        }
        made_by = {**card.made_by, **made_by}
        own = replace(card, metrics=metrics, made_by=made_by, thresholds=thresholds)
        _write(path, network, own)

    def save_unjudged(self, members: Sequence[int], path: Path) -> None:
        """Write a soup without validation photos; its card has no scores."""
        _write(path, self._network(members), replace(self._cards[members[0]], metrics={}))

    def _try(self, members: Sequence[int]) -> tuple[Evaluation, float]:
        key = members[0], frozenset(members)
        if key not in self._tried:
            network = self._network(members)
            self._tried[key] = self._evaluate(network, self._cards[members[0]])
        return self._tried[key]

    def _evaluate(self, network: Network, card: WeightsCard) -> tuple[Evaluation, float]:
        batches = validation_batches(self._photos, _view(card))
        model = judging(network, tta=card.tta, objective=self._objective)
        return evaluate(model, batches, self._compute, objective=self._objective)

    def _network(self, members: Sequence[int]) -> Network:
        card, first = self._cards[members[0]], self._read(members[0])
        # Summed in the order of the files: the choice of the first must not change a bit.
        mean = average(self._read(index) for index in sorted(members))
        network = empty_network(card.backbone, card.hidden, len(card.classes), card.levels)
        network.load_state_dict(mean)
        network.mean.copy_(torch.tensor(card.mean).view(1, 3, 1, 1))
        network.std.copy_(torch.tensor(card.std).view(1, 3, 1, 1))
        to: Any = network.to  # torch's stubs do not know of the memory format
        to(self._compute.device, memory_format=torch.channels_last)
        network.eval()
        if layers := drifting(mean, first):
            estimate_statistics(network, layers, self._training_squares(card), self._compute)
        return network

    def _read(self, index: int) -> dict[str, Tensor]:
        return read_weights(self._files[index])[0]

    def _training_squares(self, card: WeightsCard) -> Iterator[Tensor]:
        """Yield all training photos as validation would show them, their classes mixed."""
        count = len(self._manifest.of_split(Split.TRAIN))
        # The manifest's order is by path, and so by class.
        order = draw_order(count, seed=0, position=0, epoch=0)
        batches = [order[part] for part in slices(count, _BATCH_SIZE)]
        scale = validation_scale(card.image_size, CropType(card.crop))
        for members in self._photos.batches(Split.TRAIN, scale, batches):
            squares = on_device(torch.stack(members), self._compute.device).permute(0, 3, 1, 2)
            yield squares.float().div_(255)


def _write(path: Path, network: Network, card: WeightsCard) -> None:
    # The prices' rule was fitted to other probabilities.
    own = replace(card, packages=package_versions(), decision=None)
    save_weights(path, network.state_dict(), own)


def _view(card: WeightsCard) -> Stage:
    size, crop = card.image_size, CropType(card.crop)
    return Stage(image_size=size, batch_size=_BATCH_SIZE, crop=crop)
