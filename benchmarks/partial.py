"""Training on what frozen layers made of photos, against the same steps through all layers.

Run by hand: OMP_NUM_THREADS=1 python benchmarks/partial.py. Prints a table in Markdown. Photos are
noise: what is measured depends on their size alone.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from trainers.backbone import Network, blocks_of, build_network
from trainers.cut import Cut, cut_of
from trainers.device import Compute, choose_compute
from trainers.loop import make_optimizer, train_epoch
from trainers.schedule import BatchNorm, Schedule, Stage

BATCH, STEPS, ROUNDS, TOGETHER = 32, 4, 3, 16
SIZES = (128, 224)
SHARES = (0.35, 0.5, 0.65, 0.85)


def main() -> None:
    """Measure each size and cut; print how many steps a second there are, and their ratio."""
    compute = choose_compute("cpu")
    print("| pixels | frozen | full steps/s | on activations, steps/s | times as many | ", end="")
    print("ms per photo and view | KB each |\n|---|---|---|---|---|---|---|")
    for size in SIZES:
        for share in SHARES:
            print(row(size, share, compute), flush=True)


def row(size: int, share: float, compute: Compute) -> str:
    """Measure one cut: the ways in turn, the best of some rounds each."""
    stage = Stage(
        image_size=size, batch_size=BATCH, frozen=share, batch_norm=BatchNorm.FROZEN, lrs=1e-4
    )
    plain = Schedule(backbone="tf_efficientnet_lite0", stages=(replace(stage, frozen=0),))
    network = build_network(plain, 2, seed=0).to(memory_format=torch.channels_last)
    network.freeze(share, BatchNorm.FROZEN)
    cut = cut_of(network.train(), share, size)
    if cut is None:
        raise ValueError(f"this network cannot be cut at {share}")
    squares = torch.rand(BATCH, 3, size, size).to(memory_format=torch.channels_last)
    rows = cut.rows(squares, compute, TOGETHER)
    full, partial, front = [], [], []
    for _ in range(ROUNDS):
        full.append(seconds(lambda: steps(network, network, [squares] * STEPS, stage, compute)))
        partial.append(seconds(lambda: on_rows(network, cut, rows, stage, compute)))
        front.append(seconds(lambda: cut.rows(squares, compute, TOGETHER)))
    blocks = len(blocks_of(network.body))
    return (
        f"| {size} | {round(share * blocks)} of {blocks} blocks | {STEPS / min(full):.2f} | "
        f"{STEPS / min(partial):.2f} | {min(full) / min(partial):.1f} | "
        f"{1e3 * min(front) / BATCH:.1f} | {rows[0].nbytes / 1e3:.0f} |"
    )


def on_rows(network: Network, cut: Cut, rows: Tensor, stage: Stage, compute: Compute) -> None:
    """Train on rows that lie in memory, gathered for each step as an epoch does."""
    order = torch.randperm(BATCH)
    inputs = (cut.restored(rows[order]) for _ in range(STEPS))
    steps(network, cut.tail, inputs, stage, compute)


def steps(
    network: Network,
    model: torch.nn.Module,
    inputs: Iterable[Tensor],
    stage: Stage,
    compute: Compute,
) -> None:
    """Take some steps of an epoch."""
    labels = torch.arange(BATCH) % 2
    optimizer = make_optimizer(network, stage)
    batches = ((each, labels) for each in inputs)
    train_epoch(model, batches, optimizer, compute.scaler(), lambda _: 1.0, compute)


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds that some work takes, with one thread: other programs do not count."""
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
