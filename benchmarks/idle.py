"""Part `idle`: how long slots stand still between stage runs, while epochs take `--seconds`."""

import argparse
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from contestants import markdown
from stamped import LABELS, Gaps, StampedRecipe, gaps, spread
from wiring import searching

from study.config.space import PHOTO_SPACE
from study.engines.processes import ProcessEngine
from study.engines.slots import slots_of

HEADER = (
    "strategy",
    "gaps between stage runs",
    "median, ms",
    "95 %",
    "longest",
    "within a stage run: median, ms",
    "95 %",
    "longest",
    "slots idle, %",
)


def measure(strategy: str, slots: int, seconds: float, trials: int) -> Gaps:
    """Search once, with trainers that do nothing but wait, and look at their stamps."""
    with TemporaryDirectory(prefix="encore-bench-") as name:
        folder = Path(name)
        stamps = folder / "stamps"
        stamps.mkdir()
        engine = ProcessEngine(StampedRecipe(seconds, stamps), slots_of(f"cpu:{slots}"))
        with (
            closing(engine),
            searching(
                folder, engine, LABELS, space=PHOTO_SPACE, trials=trials, strategy=strategy
            ) as coordinator,
        ):
            coordinator.run()
        return gaps(stamps)


def row(label: str, found: Gaps) -> list[str]:
    """Write a line of the table."""
    between, within = spread(found.between), spread(found.within)
    return [label, str(len(found.between)), *between, *within, f"{100 * found.idle:.2f}"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this part's options."""
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.2, help="of an epoch")


def run(given: argparse.Namespace) -> tuple[str, Any]:
    """Measure; return the table and what it was made of."""
    found = {
        strategy: measure(strategy, given.slots, given.seconds, given.trials)
        for strategy in ("forecast", "independent")
    }
    text = markdown(HEADER, [row(label, each) for label, each in found.items()])
    return text, {label: asdict(each) for label, each in found.items()}
