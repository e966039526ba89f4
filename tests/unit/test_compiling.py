"""Networks that are compiled: each stage's anew, and not silently left as they are."""

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tiny_training import noise, schedule, stage
from trainers.base import BEST, StageTask
from trainers.card import read_card
from trainers.compiling import Compiler
from trainers.device import Compute
from trainers.finetuner import Finetuner


class Tiny(nn.Module):
    """One layer; networks of all widths have the same code."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 2)

    def forward(self, values: Tensor) -> Tensor:
        """Apply the layer."""
        return self.layer(values)  # type: ignore[no-any-return]


class Backend:
    """Compiles nothing, and counts what it is to compile; or `fails`."""

    def __init__(self) -> None:
        self.graphs = 0
        self.fails = False

    def __call__(self, graph: Any, _inputs: list[Tensor]) -> Any:
        """Return what is to be called in the place of a graph."""
        if self.fails:
            raise RuntimeError("no compiler is found\nsee the manual")
        self.graphs += 1
        return graph.forward


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """Have networks compiled without a C++ compiler, by what is returned."""
    from torch._dynamo import config

    made = Backend()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=made))
    with config.patch(fail_on_recompile_limit_hit=False):
        yield made
    torch.compiler.reset()


@pytest.fixture
def compiler(backend: Backend) -> Compiler:  # noqa: ARG001 - torch is told by both
    """Return one that has begun its first stage."""
    made = Compiler()
    made.begin()
    return made


@pytest.mark.long
def test_every_stage_is_compiled(compiler: Compiler, backend: Backend) -> None:
    """Twelve that differ, though torch compiles the same code only eight times."""
    for width in range(2, 14):
        compiler.begin()
        network = compiler.compiled(Tiny(width))
        for _ in range(2):
            network(torch.ones(4, width))
    assert backend.graphs == 12
    assert compiler.refused == ""


def test_a_last_batch_compiles_nothing(compiler: Compiler, backend: Backend) -> None:
    """It passes the network as it is written; what comes out is the same for all."""
    plain = Tiny(3)
    network = compiler.compiled(plain)
    for size in (4, 4, 3, 4, 2):
        values = torch.rand(size, 3)
        assert torch.equal(network(values), plain(values))
    assert backend.graphs == 1


def test_too_many_compilations_are_told(
    compiler: Compiler, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """Where torch gives up, networks pass as they are written, and it is said once."""
    with caplog.at_level(logging.WARNING, "trainers.compiling"):
        for width in range(2, 14):
            plain, values = Tiny(width), torch.rand(4, width)
            assert torch.equal(compiler.compiled(plain)(values), plain(values))
    assert backend.graphs == 8
    assert "limit" in compiler.refused
    assert [record.name for record in caplog.records].count("trainers.compiling") == 1


def test_what_cannot_be_compiled_is_told_and_trains(
    backend: Backend, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """One sentence with the reason, and the weights' card does not say that it was compiled."""
    backend.fails = True
    compute = Compute(torch.device("cpu"), compiled=True)
    trainer = Finetuner(noise(tmp_path / "photos", 6, 4), compute=compute)
    with caplog.at_level(logging.WARNING, "trainers.compiling"):
        epochs = list(
            trainer.train(StageTask(schedule=schedule(stage(cycle_len=2)), seed=0, folder=tmp_path))
        )
    assert len(epochs) == 2
    assert [("no compiler" in record.getMessage()) for record in caplog.records] == [True]
    assert read_card(tmp_path / BEST).made_by["compiled"] == "no"
