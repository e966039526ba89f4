"""Networks through `torch.compile`, with a warning if one cannot be compiled."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trainers.base import is_device_lost, is_out_of_memory

log = logging.getLogger(__name__)


class Compiler:
    """Compiles the networks of one stage after the other. `refused` is why it does not, else "".

    torch counts how often it compiles the same code, and gives up after eight times. Stages differ
    in sizes and in what is trained, so each would use up some of these: call `begin` for each.
    """

    def __init__(self) -> None:
        self.refused = ""

    def begin(self) -> None:
        """Begin a stage."""
        from torch._dynamo import config  # a second to import

        torch.compiler.reset()
        config.fail_on_recompile_limit_hit = True  # by default, it would not be reported
        self.refused = ""

    def compiled(self, network: nn.Module) -> nn.Module:
        """Return a network that is compiled when it is first applied."""
        return _Compiled(network, self)

    def refuse(self, error: Exception) -> None:
        """Note why this stage is not compiled, and log it."""
        self.refused = " ".join(str(error).split())[:300] or type(error).__name__
        log.warning(
            "a network is not compiled (%s); it runs uncompiled, which is slower: check whether a "
            "compiler is missing, or drop --compile",
            self.refused,
        )


class _Compiled(nn.Module):
    """Applies the compiled network to batches of the first one's size, else the original one.

    The last batch of an epoch is usually smaller: for a second size torch would compile the network
    again, with dynamic shapes, which is slower.
    """

    def __init__(self, network: nn.Module, compiler: Compiler) -> None:
        super().__init__()
        self._network, self._compiler = network, compiler
        self._fast = torch.compile(network, dynamic=False)
        self._size = 0

    def forward(self, inputs: Tensor) -> Tensor:
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        self._size = self._size or len(inputs)
        if not self._compiler.refused and len(inputs) == self._size:
            try:
                return self._applied(self._fast, inputs)
            except (TorchDynamoException, FailOnRecompileLimitHit) as error:
                if is_out_of_memory(error) or is_device_lost(error):
                    raise
                self._compiler.refuse(error)
        return self._applied(self._network, inputs)

    @staticmethod
    def _applied(network: Callable[[Tensor], Any], inputs: Tensor) -> Tensor:
        found: Tensor = network(inputs)
        return found
