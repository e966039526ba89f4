"""Split a network after a stage's frozen blocks, so that their activations can be cached."""

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainers.backbone import Network, blocks_of, frozen_blocks, layers_of, pooled
from trainers.device import Compute

_LARGEST = torch.finfo(torch.float16).max


class Cut:
    """The frozen front of a network, and its `tail`, whose input is the front's output.

    The tail shares its weights with the network. If the whole body is frozen, the front returns
    pooled features and the tail is the head; rows are then kept in float32, as they are small and a
    probe is fitted on them. Otherwise they are activations, kept in float16 and channels last.
    `shape` is that of one row for squares of `image_size`, `digest` identifies the front.
    """

    def __init__(self, network: Network, front: Sequence[nn.Module], image_size: int) -> None:
        self._mean, self._std = network.mean, network.std
        self._front, self._body, self._levels = list(front), network.body, network.levels
        self.pooled = self._front == [network.body]
        self.dtype = "float32" if self.pooled else "float16"
        self.digest = _digest(network, self._front)
        self._late = nn.Identity() if self.pooled else _without(network.body, self._front)
        self._tail = (
            network.head
            if self.pooled
            else nn.Sequential(_Pooling(self._late, network.levels), network.head)
        )
        self.shape = (sum(network.widths),) if self.pooled else self._shape(network, image_size)

    @property
    def tail(self) -> nn.Module:
        """The tail, in the network's mode (training or evaluation)."""
        if not self.pooled:
            for name, module in self._late.named_modules():
                module.training = self._body.get_submodule(name).training
        return self._tail

    # Not inference_mode: its outputs cannot be used in training.
    @torch.no_grad()
    def rows(self, squares: Tensor, compute: Compute, size: int) -> Tensor:
        """Apply the front to squares, and return the row of each.

        Always in batches of `size`, the last one padded: another batch size may change the last
        bit, while the position in a batch does not. So rows do not depend on the process.
        """
        found = []
        for some in torch.split(squares, size):
            missing = size - len(some)
            whole = torch.cat([some, some[:1].expand(missing, -1, -1, -1)]) if missing else some
            with compute.autocast():
                made = self._applied(whole.contiguous(memory_format=torch.channels_last))
            found.append(self._kept(made[: len(some)]))
        return torch.cat(found)

    def restored(self, rows: Tensor) -> Tensor:
        """Return the tail's input from stored rows."""
        values = rows.float()
        return values.permute(0, 3, 1, 2) if values.ndim == 4 else values

    def _applied(self, squares: Tensor) -> Tensor:
        made = (squares - self._mean) / self._std
        if self.pooled:
            return pooled(self._body, made, self._levels)
        for layer in self._front:
            made = layer(made)
        return made

    def _kept(self, made: Tensor) -> Tensor:
        if self.pooled:
            return made.float()
        made = made.clamp(-_LARGEST, _LARGEST).half()
        return made.permute(0, 2, 3, 1).contiguous() if made.ndim == 4 else made.contiguous()

    @torch.no_grad()
    def _shape(self, network: Network, image_size: int) -> tuple[int, ...]:
        """Apply both parts to noise; raise ValueError unless the result equals the network's."""
        rng = torch.Generator().manual_seed(0)
        squares = torch.rand(2, 3, image_size, image_size, generator=rng).to(self._mean.device)
        squares = squares.contiguous(memory_format=torch.channels_last)
        training = network.training
        network.eval()
        try:
            made, found = self._applied(squares), self.tail(self._applied(squares))
            inputs = (squares - self._mean) / self._std
            expected = network.head(pooled(network.body, inputs, self._levels))
        finally:
            network.train(training)
        tolerance = 1e-3 * float(expected.abs().max())
        if found.shape != expected.shape or not torch.allclose(found, expected, 0, tolerance):
            raise ValueError("the parts of this network do not follow each other")
        return tuple(self._kept(made[:1]).shape[1:])


def cut_of(network: Network, frozen: float, image_size: int) -> Cut | None:
    """Cut a network where a stage's `frozen` ends; None if nothing is frozen, or it cannot be cut.

    It can be cut if the body's blocks are sequential, as in convolutional networks; a transformer
    may add positions in between.
    """
    body, ours = network.body, frozen_blocks(network.body, frozen)
    blocks, layers = blocks_of(body), layers_of(body)
    if not ours:
        return None
    if len(ours) == len(blocks):
        return Cut(network, [body], image_size)
    try:
        return Cut(network, layers[: layers.index(blocks[len(ours)])], image_size)
    except Exception:  # noqa: BLE001 - a body may fail in any way on what it does not expect
        return None


class _Pooling(nn.Module):
    """The head's input, from what goes into a body's late layers."""

    def __init__(self, late: nn.Module, levels: int) -> None:
        super().__init__()
        self._late, self._levels = late, levels

    def forward(self, made: Tensor) -> Tensor:
        """Return features (B, F)."""
        return pooled(self._late, made, self._levels)


def _without(body: nn.Module, front: Sequence[nn.Module]) -> nn.Module:
    """Return a shallow copy of the body with some layers replaced by identities."""
    memo: dict[int, Any] = {id(layer): layer for layer in layers_of(body)}
    memo |= {id(tensor): tensor for tensor in (*body.parameters(), *body.buffers())}
    memo |= {id(layer): nn.Identity() for layer in front}
    return copy.deepcopy(body, memo)


def _digest(network: Network, front: Sequence[nn.Module]) -> str:
    """Return a front's digest: by kind, as weights may fit several, length and weights."""
    kind: Any = network.body.pretrained_cfg
    about = [kind["architecture"], kind["mean"], kind["std"], len(front)]
    if network.levels and front == [network.body]:
        about.append(network.levels)
    digest = hashlib.sha256(repr(tuple(about)).encode())
    for index, layer in enumerate(front):
        for name, value in layer.state_dict().items():
            digest.update(f"{index} {name}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
