"""What checkpoints cost: the share of a stage's time that the training waits for them.

`Keeper.keep` runs after each epoch, in the way of the training; what it leaves to its thread does
not stop the training, but takes a share of the processor.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contestants import markdown

from trainers.base import StageTask
from trainers.checkpointing import Keeper
from trainers.data.cache import Cache
from trainers.data.manifest import build_manifest
from trainers.device import choose_compute
from trainers.finetuner import Finetuner
from trainers.schedule import Augmentation, Schedule, Stage


def timed(owner: type, name: str, spent: list[float]) -> None:
    """Have a method note how long each of its calls takes."""
    real: Callable[..., Any] = getattr(owner, name)

    def call(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return real(*given, **named)
        finally:
            spent.append(time.perf_counter() - began)

    setattr(owner, name, call)


def main() -> None:
    """Train a stage at each size and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=30.0, help="between two checkpoints")
    given = parser.parse_args()
    manifest = build_manifest(given.data)
    kept: list[float] = []
    written: list[float] = []
    timed(Keeper, "keep", kept)
    timed(Keeper, "_save", written)
    lines = []
    with tempfile.TemporaryDirectory() as name:
        cache = Cache(Path(name) / "cache", manifest)
        trainer = Finetuner(
            manifest,
            compute=choose_compute("cpu"),
            cache=cache,
            checkpoint_seconds=given.seconds,
        )
        for size in given.sizes:
            stage = Stage(
                image_size=size,
                batch_size=32,
                cycle_len=given.epochs,
                augmentation=Augmentation.SIDE_ON,
            )
            schedule = Schedule(backbone="tf_efficientnet_lite0", stages=(stage,))
            folder = Path(name) / str(size)
            folder.mkdir()
            kept.clear()
            written.clear()
            began = time.perf_counter()
            for _ in trainer.train(StageTask(schedule=schedule, seed=0, folder=folder)):
                pass
            whole = time.perf_counter() - began
            lines.append(
                [
                    str(size),
                    f"{whole:.1f}",
                    str(len(kept)),
                    f"{100 * sum(kept) / whole:.2f}",
                    str(len(written)),
                    f"{100 * sum(written) / whole:.2f}",
                ]
            )
    print(
        markdown(
            (
                "pixels",
                "stage, s",
                "epochs",
                "waiting, % of the time",
                "written in the background",
                "their writing, % of the time",
            ),
            lines,
        )
    )


if __name__ == "__main__":
    main()
