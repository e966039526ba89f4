"""Which area of a photo supports a class: Grad-CAM, on any of timm's backbones.

R. R. Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", ICCV 2017, https://arxiv.org/abs/1610.02391; the arithmetic is captum's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import isqrt
from typing import Any

import numpy as np
import torch
from captum.attr import LayerGradCam
from numpy.typing import NDArray
from torch import Tensor, nn

from trainers.backbone import Network
from trainers.classifier import Classifier
from trainers.folded import FoldNetworks

MIN_SIDE = 5
"""The minimum side of a map.

If a small photo's last layer has fewer positions, an earlier one is used. Measured with an
EfficientNet-Lite0 on 289 photos of 96 pixels: with the hottest quarter hidden, the predicted class
fell from 0.91 to 0.81 by the last layer's 3 x 3 positions, as with any quarter hidden (0.81), and
to 0.70 by the 6 x 6 positions before them.
"""

_Layout = Callable[[Tensor], tuple[Tensor, Callable[[Tensor], Tensor]]]
"""Turns a layer's output into a grid (B, C, H, W), and returns the inverse function."""


def attribute(
    subject: Classifier | Network,
    squares: NDArray[np.uint8],
    classes: Sequence[int],
    batch_size: int = 8,
) -> NDArray[np.float32]:
    """Return a heat map for each square: how much each position supports the given class.

    `squares` are RGB, (B, S, S, 3), as validation shows them; `classes` are B indices. The shape is
    (B, S, S) and each map's maximum is 1, or 0 if nothing supports the class; maps of the networks
    of several folds are averaged. The network is not changed. Raises ValueError for a backbone
    without a spatial layer.
    """
    network = subject.network if isinstance(subject, Classifier) else subject
    if isinstance(network, FoldNetworks):
        every = [attribute(each, squares, classes, batch_size) for each in network.networks]
        mean = torch.from_numpy(np.mean(every, axis=0, dtype=np.float32))
        return _stretched(mean[:, None], squares.shape[1]).numpy()
    maps = [np.zeros((0, *squares.shape[1:3]), np.float32)]
    with _evaluating(network), torch.enable_grad():
        for first in range(0, len(squares), batch_size):
            part = slice(first, first + batch_size)
            pixels = torch.from_numpy(squares[part]).permute(0, 3, 1, 2).float() / 255
            wanted = torch.tensor(classes[part], device=network.mean.device)
            found = _grad_cam(network, pixels.to(network.mean.device), wanted)
            maps.append(_stretched(found, squares.shape[1]).cpu().numpy())
    return np.concatenate(maps)


def _grad_cam(network: Network, squares: Tensor, classes: Tensor) -> Tensor:
    """Return the maps of a batch at the size of their layer, (B, 1, H, W)."""
    layer, layout = _last_with_places(network, squares)
    places = nn.Identity()  # captum hooks this module, whose output is always a grid

    def show(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        grid, back = layout(output.detach())
        # A copy, as later layers may write into it; the gradient need not go further down.
        return back(places(grid.requires_grad_()).clone())

    hook = layer.register_forward_hook(show)
    try:
        found: Tensor = LayerGradCam(network, places).attribute(
            squares, classes, relu_attributions=True
        )
        return found.detach()
    finally:
        hook.remove()


def _stretched(maps: Tensor, size: int) -> Tensor:
    """Enlarge maps (B, 1, H, W) to squares (B, size, size) whose highest value is 1, or 0."""
    large = nn.functional.interpolate(maps.float(), (size, size), mode="bilinear")[:, 0]
    highest = large.amax(dim=(1, 2), keepdim=True)
    return large / highest.where(highest > 0, 1)


def _last_with_places(network: Network, squares: Tensor) -> tuple[nn.Module, _Layout]:
    """Find the last layer with `MIN_SIDE` positions a side, or the most, by a forward pass."""
    found: list[tuple[int, nn.Module, _Layout]] = []
    prefix = int(getattr(network.body, "num_prefix_tokens", 0))

    def look(module: nn.Module, _: Any, output: Any, *, tokens: bool) -> None:
        layout = _layout_of(output, prefix, tokens=tokens)
        if layout is not None:
            found.append((layout(output)[0].shape[2], module, layout))

    hooks = [
        module.register_forward_hook(partial(look, tokens=tokens))
        for module, tokens in _candidates(network.body)
    ]
    try:
        with torch.no_grad():
            network(squares[:1])
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        kind = type(network.body).__name__
        raise ValueError(f"backbone must have a spatial layer to be explained, got {kind}")
    enough = min(MIN_SIDE, max(side for side, _, _ in found))
    return next((module, layout) for side, module, layout in reversed(found) if side >= enough)


def _candidates(module: nn.Module) -> Iterator[tuple[nn.Module, bool]]:
    """Yield the sequential layers from photo to features, and norms of tokens.

    Layers inside of a block are excluded: their grids may be of windows, or of attention. Tokens
    are taken before the last block's attention: after it, only a class token matters.
    """
    yield from ((inner, True) for name, inner in module.named_modules() if name.endswith("norm1"))
    rows = [module]
    while rows:
        for child in rows.pop().children():
            yield child, False
            if isinstance(child, nn.Sequential | nn.ModuleList):
                rows.append(child)


def _layout_of(output: Any, prefix: int, *, tokens: bool) -> _Layout | None:
    """Return the layout of the output for one square photo; None if it is not spatial."""
    if not isinstance(output, Tensor) or len(output) != 1:
        return None
    shape = output.shape
    if tokens:
        side = isqrt(max(0, shape[1] - prefix)) if output.ndim == 3 else 0
        is_grid = side > 1 and side * side == shape[1] - prefix
        return partial(_from_tokens, prefix=prefix, side=side) if is_grid else None
    if output.ndim == 4 and shape[2] == shape[3] > 1:
        return _from_channels_first
    if output.ndim == 4 and shape[1] == shape[2] > 1:
        return _from_channels_last
    return None


def _from_channels_first(output: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    return output, lambda grid: grid


def _from_channels_last(output: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    return output.permute(0, 3, 1, 2), lambda grid: grid.permute(0, 2, 3, 1)


def _from_tokens(
    output: Tensor, *, prefix: int, side: int
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    first, places = output[:, :prefix], output[:, prefix:]

    def back(grid: Tensor) -> Tensor:
        return torch.cat([first, grid.flatten(2).transpose(1, 2)], dim=1)

    return places.transpose(1, 2).reshape(len(places), -1, side, side), back


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Switch a network to evaluation mode, as a context; afterwards restore each layer's mode."""
    before = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
