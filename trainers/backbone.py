"""A timm body with our own head: layer groups, freezing, dropout, and loading weights.

Only this module and `averaging` use timm. Imports torch and timm: seconds, so only training code
imports this.
"""

import difflib
import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import timm
import torch
from timm.layers.drop import DropPath
from timm.models import EfficientNet
from torch import Tensor, nn

from trainers.errors import WeightsUnavailable
from trainers.files import sha256_of
from trainers.packaged import PACKAGED_WEIGHTS
from trainers.schedule import BatchNorm, Schedule

DEFAULT_SIZE = 224
"""The native image size of a backbone for which timm gives none."""

_BATCH_NORM = nn.modules.batchnorm._BatchNorm  # of any number of dimensions

_DROP_PATHS = ("drop_path", "drop_path1", "drop_path2")
"""timm's attribute names for stochastic depth, at the end of a block's residual paths."""


class Network(nn.Module):
    """Body and head. Takes squares of values in 0..1, (B, 3, S, S); gives logits (B, C).

    The head is, as in fast.ai 0.7, [BatchNorm, Dropout, Linear, ReLU] for each hidden width, then
    [BatchNorm, Dropout, Linear]. It sees the body's pooled features and, of its last `levels`
    stages, the means of their outputs over all places: on photos unlike those that the body was
    trained on, earlier features separate classes that the last ones do not (Evci et al.,
    "Head2Toe", ICML 2022).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, hidden: Sequence[int], n_classes: int, levels: int) -> None:
        super().__init__()
        self._still: list[nn.Module] = []
        self.body = body
        self.levels = levels
        self.widths = widths_of(body, levels)
        self.head = _build_head(sum(self.widths), hidden, n_classes)
        normalisation: Any = body.pretrained_cfg
        for name in ("mean", "std"):
            values = torch.tensor(normalisation[name]).view(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, squares: Tensor) -> Tensor:
        """Normalise, pool the body's features, classify."""
        logits: Tensor = self.head(self.features(squares))
        return logits

    def features(self, squares: Tensor) -> Tensor:
        """Return the head's input, (B, F): pooled features, `widths` of them from each level."""
        return pooled(self.body, (squares - self.mean) / self.std, self.levels)

    def set_dropout(self, rates: Sequence[float]) -> None:
        """Set the rate of each dropout site of the head, from the body to the output."""
        sites = [module for module in self.head if isinstance(module, nn.Dropout)]
        for site, rate in zip(sites, rates, strict=True):
            site.p = rate

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Return the parameters of body-early, body-late (half of the blocks each) and head."""
        blocks = blocks_of(self.body)
        late = {id(p) for block in blocks[len(blocks) // 2 :] for p in block.parameters()}
        groups: list[list[nn.Parameter]] = [[], [], list(self.head.parameters())]
        for parameter in self.body.parameters():
            groups[id(parameter) in late].append(parameter)
        return groups

    def shares_by_block(self, decay: float) -> dict[nn.Parameter, float]:
        """Return each parameter's factor of its group's learning rate, decreasing to the input.

        A block's factor is `decay` times that of the block after it; the last block and the head
        have 1. Parameters outside of blocks, such as a transformer's positions, count with the
        first.
        """
        blocks = blocks_of(self.body)
        shares = {parameter: decay ** (len(blocks) - 1) for parameter in self.body.parameters()}
        for depth, block in enumerate(reversed(blocks)):
            shares |= dict.fromkeys(block.parameters(), decay**depth)
        return shares | dict.fromkeys(self.head.parameters(), 1.0)

    def set_drop_path(self, rate: float) -> None:
        """Set stochastic depth.

        From 0 at the first residual block of timm's, to `rate` at the last. A body without residual
        blocks ignores it.
        """
        places = [
            (block, [name for name in _DROP_PATHS if _is_free(block, name)])
            for block in self.body.modules()
        ]
        places = [(block, names) for block, names in places if names]
        for index, (block, names) in enumerate(places):
            own = rate * index / max(len(places) - 1, 1)
            for name in names:
                setattr(block, name, DropPath(own) if own else nn.Identity())
        self.train(self.training)

    def freeze(self, share: float, batch_norm: BatchNorm = BatchNorm.TRAIN) -> None:
        """Freeze the first `share` of the body's blocks, with their BatchNorm statistics.

        With a frozen `batch_norm` all others keep their statistics as well, except a head that has
        none yet; their affine weights train.
        """
        frozen = frozen_blocks(self.body, share)
        learning = blocks_of(self.body)[len(frozen) :]
        free = {
            id(parameter) for layer in (*learning, self.head) for parameter in layer.parameters()
        }
        for parameter in self.parameters():
            # Parameters outside of blocks, such as a transformer's positions, are at the input.
            parameter.requires_grad_(not frozen or id(parameter) in free)
        self._still = list(frozen)
        if batch_norm is BatchNorm.FROZEN:
            self._still += [layer for layer in self.modules() if _has_statistics(layer)]
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode, except frozen layers."""
        super().train(mode)
        for layer in self._still:
            layer.eval()
        return self


def build_network(
    schedule: Schedule, n_classes: int, seed: int, weights_file: Path | None = None
) -> Network:
    """Build the network that a schedule starts from. The seed fixes everything random in it.

    Raises `WeightsUnavailable` if the weights cannot be loaded, ValueError for an unknown backbone.
    """
    torch.manual_seed(seed)
    body = _build_body(schedule, weights_file)
    torch.manual_seed(seed)  # so that the head is the same wherever the body's weights came from
    return Network(body, schedule.hidden, n_classes, schedule.levels)


def empty_network(backbone: str, hidden: Sequence[int], n_classes: int, levels: int = 0) -> Network:
    """Build a network for weights that are loaded afterwards."""
    check_backbone(backbone)
    return Network(_create(backbone), hidden, n_classes, levels)


def pooled(body: Any, inputs: Tensor, levels: int) -> Tensor:
    """Return a head's input, (B, F): pooled features of a body and of its last `levels` stages."""
    levelled = _by_level(body, inputs, levels)
    return torch.cat(levelled, 1) if len(levelled) > 1 else levelled[0]


def _by_level(body: Any, inputs: Tensor, levels: int) -> list[Tensor]:
    """Return a body's pooled features, and those of its last `levels` stages, (B, F) each.

    A last stage whose output is all that is pooled, as ResNet's, would say the same twice: it is
    left out.
    """
    if not levels:
        return [body(inputs)]
    kinds = {"indices": levels, "output_fmt": "NCHW"}
    if isinstance(body, EfficientNet):  # of which timm otherwise gives one stage for each size
        kinds["extra_blocks"] = True
    last, outputs = body.forward_intermediates(inputs, **kinds)
    means = [output.mean((2, 3)) for output in outputs if output is not last]
    return [body.forward_head(last, pre_logits=True), *means]


def widths_of(body: Any, levels: int) -> tuple[int, ...]:
    """Return how many features each level of `pooled` has. Raises ValueError where it cannot."""
    if not levels:
        return (features_of(body),)
    squares, training = torch.zeros(1, *body.pretrained_cfg["input_size"]), body.training
    try:
        with torch.no_grad():
            return tuple(part.shape[1] for part in _by_level(body.eval(), squares, levels))
    except (AttributeError, NotImplementedError, TypeError) as error:
        raise ValueError(
            f"levels must be 0 for {type(body).__name__}, of which timm gives no inner levels"
        ) from error
    finally:
        body.train(training)


def check_backbone(name: str) -> None:
    """Raise ValueError, naming the nearest, if timm has no such model or no such tag of it."""
    tagged = "." in name
    if not timm.is_model(name) or (tagged and not timm.is_model_pretrained(name)):
        names = timm.list_pretrained() if tagged else timm.list_models()
        near = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see timm.list_models()"
        raise ValueError(f"backbone must be the name of a timm model, got {name!r}; {hint}")


def native_size(name: str) -> int:
    """Return the image size at which a backbone's weights are best, according to timm.

    The larger of its sizes for training and for testing.
    """
    check_backbone(name)
    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if known is None:
        return DEFAULT_SIZE
    return int((known.test_input_size or known.input_size)[-1])


def file_digest(path: Path) -> str:
    """Return the name of a weights file in `Schedule.weights`."""
    return f"sha256:{sha256_of(path)}"


def _build_head(features: int, hidden: Sequence[int], n_classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.BatchNorm1d(features), nn.Dropout(), nn.Linear(features, width), nn.ReLU()]
        features = width
    layers += [nn.BatchNorm1d(features), nn.Dropout(), nn.Linear(features, n_classes)]
    return nn.Sequential(*layers)


def _build_body(schedule: Schedule, weights_file: Path | None) -> Any:
    name = schedule.backbone
    check_backbone(name)
    if schedule.weights == "random":
        return _create(name)
    if schedule.weights != "pretrained":
        return _body_from_file(name, schedule.weights, weights_file)
    if name in PACKAGED_WEIGHTS:
        return _body_from_package(name)
    return _body_from_hub(name)


def _body_from_hub(name: str) -> Any:
    # The hub's client logs each of its retries twice; our sentence is enough.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return _create(name, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsUnavailable(
            f"the ImageNet weights of {name} could not be fetched "
            f"({type(error).__name__}); connect this machine to the model hub and run again, or "
            f"give a file with --weights FILE, or use a backbone whose weights come as a package: "
            f"{', '.join(PACKAGED_WEIGHTS)}"
        ) from error


def _body_from_package(name: str) -> Any:
    module, kind = PACKAGED_WEIGHTS[name]
    try:
        finder = getattr(importlib.import_module(module), kind)
    except ModuleNotFoundError as error:
        package = module.replace("_", "-")
        raise WeightsUnavailable(
            f"the ImageNet weights of {name} come from the package {package}, which is not "
            f"installed; install encore-search[lite], or give a file with --weights FILE"
        ) from error
    weights = torch.load(finder.get_model_file_path(), map_location="cpu", weights_only=True)
    body = _create(name, num_classes=1000)
    body.load_state_dict(_rename_in_order(weights, body.state_dict()))
    body.reset_classifier(0)
    return body


def _rename_in_order(weights: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights to the target's names: same order, every leaf name and shape checked."""
    if len(weights) != len(target):
        raise ValueError(f"weights hold {len(weights)} tensors, {len(target)} were expected")
    renamed = {}
    for (ours, tensor), (name, place) in zip(weights.items(), target.items(), strict=True):
        if ours.rsplit(".")[-1] != name.rsplit(".")[-1] or tensor.shape != place.shape:
            raise ValueError(
                f"weights do not fit: {ours} {tuple(tensor.shape)} stands where "
                f"{name} {tuple(place.shape)} was expected"
            )
        renamed[name] = tensor
    return renamed


def _body_from_file(name: str, digest: str, path: Path | None) -> Any:
    if path is None or (problem := _why_not(path, digest)):
        raise WeightsUnavailable(
            f"this schedule starts from the weights file with {digest[:19]}..., "
            f"but {'none was given' if path is None else f'{path} {problem}'}; "
            f"give that file with --weights FILE"
        )
    body = _create(name)
    weights, wanted = _body_weights(_read_weights(path)), body.state_dict()
    for key, place in wanted.items():
        found = weights.get(key)
        if found is None or found.shape != place.shape:
            has = "is missing" if found is None else f"has shape {tuple(found.shape)}"
            raise WeightsUnavailable(
                f"{path} does not hold weights of {name}: {key} {tuple(place.shape)} {has}; "
                f"give a file saved from this backbone"
            )
    body.load_state_dict({key: weights[key] for key in wanted})
    return body


def _why_not(path: Path, digest: str) -> str:
    """Return why a file does not have this digest; "" if it has."""
    try:
        return "" if file_digest(path) == digest else "is another"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _read_weights(path: Path) -> dict[str, Any]:
    """Read a safetensors file or a checkpoint of plain tensors; never runs code from the file."""
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a hostile file may raise anything
        raise WeightsUnavailable(
            f"{path} could not be read as weights ({type(error).__name__}); expected a "
            f"safetensors file or a checkpoint that torch.load(weights_only=True) accepts"
        ) from error


def _body_weights(weights: dict[str, Any]) -> dict[str, Tensor]:
    """Unwrap common formats: {"state_dict": ...}, DataParallel's prefix, an Encore network."""
    for wrapper in ("state_dict", "model"):
        if isinstance(weights.get(wrapper), dict):
            weights = weights[wrapper]
    tensors = {str(key): value for key, value in weights.items() if isinstance(value, Tensor)}
    for prefix in ("module.", "body."):
        if any(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _create(name: str, *, num_classes: int = 0, pretrained: bool = False) -> Any:
    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    options: dict[str, Any] = {"num_classes": num_classes, "pretrained": pretrained}
    if known is not None and known.fixed_input_size:
        # Transformers have a fixed image size; most accept an option to vary it.
        try:
            return _out_of_place(timm.create_model(name, dynamic_img_size=True, **options))
        except TypeError:
            pass
    return _out_of_place(timm.create_model(name, **options))


def _out_of_place(body: Any) -> Any:
    """Have activations that need their input for the gradient write to new memory.

    In place, torch copies the input first: to the same bits, with one more pass.
    """
    for module in body.modules():
        if isinstance(module, nn.Hardtanh | nn.SiLU | nn.Hardswish):
            module.inplace = False
    return body


def features_of(body: Any) -> int:
    """Return how many pooled features a body has."""
    return int(getattr(body, "head_hidden_size", body.num_features))


def blocks_of(body: nn.Module) -> list[nn.Module]:
    """Return the body's blocks with weights, from the input to the output.

    A stack (of stages, of blocks) counts by its members, down to single blocks.
    """
    return [layer for layer in layers_of(body) if any(True for _ in layer.parameters())]


def layers_of(module: nn.Module) -> list[nn.Module]:
    """Return a body's modules in order: its blocks, and modules without weights between them."""
    layers: list[nn.Module] = []
    for child in module.children():
        stacked = isinstance(child, nn.Sequential) or isinstance(
            getattr(child, "blocks", None), nn.Sequential
        )
        layers += layers_of(child) if stacked else [child]
    return layers


def frozen_blocks(body: nn.Module, share: float) -> list[nn.Module]:
    """Return the blocks that a stage's `frozen` freezes."""
    blocks = blocks_of(body)
    return blocks[: round(share * len(blocks))]


def _is_free(block: nn.Module, name: str) -> bool:
    """Whether stochastic depth may act at an attribute of a block."""
    nothing = (nn.Identity, DropPath, type(None))
    return hasattr(block, name) and isinstance(getattr(block, name), nothing)


def has_batch_norm(body: nn.Module) -> bool:
    """Return whether a body has BatchNorm."""
    return any(isinstance(each, _BATCH_NORM) for each in body.modules())


def _has_statistics(layer: nn.Module) -> bool:
    """Whether a layer is BatchNorm with statistics: a new head's has none."""
    if not isinstance(layer, _BATCH_NORM):
        return False
    return layer.running_mean is not None and bool(layer.running_mean.any())
