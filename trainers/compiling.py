"""Networks through `torch.compile`, and a word where one is not compiled after all."""

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
    in what is trained and in sizes, so that each would use up some of these: `begin` one.
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
        """Note why this stage goes on without, and say so."""
        self.refused = " ".join(str(error).split())[:300] or type(error).__name__
        log.warning(
            "a network is not compiled (%s); it passes as it is written, which is slower: see "
            "whether a compiler is missing, or drop --compile",
            self.refused,
        )


class _Compiled(nn.Module):
    """Applies the compiled network to batches of the first one's size, else the one as written.

    The last batch of an epoch is mostly smaller: a network compiled for two sizes is compiled for
    any, which is slower, and for each anew.
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
