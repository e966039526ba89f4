"""Part `peers`: the same work under `optimize(n_jobs=2)`, Optuna's own way to use two slots.

Its slots are threads. Ray Tune takes part where it is installed (the group `peers`).
"""

import argparse
import time
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import sharing
from contestants import markdown, say
from idle import HEADER as IDLE_HEADER
from idle import row
from plain_optuna import PlainLoop, sampler_of
from stamped import Gaps, StampedRecipe, gaps

from study.config.space import PHOTO_SPACE
from study.searching.optuna_storage import optuna_storage


def optimize(seconds: float, trials: int, jobs: int, sampler: str) -> tuple[float, Gaps]:
    """Let Optuna run the same trials on a file; return the seconds in all, and its slots' gaps."""
    with TemporaryDirectory(prefix="encore-bench-") as name:
        folder = Path(name)
        stamps = folder / "stamps"
        stamps.mkdir()
        trainer = StampedRecipe(seconds, stamps)()
        storage = optuna_storage(f"sqlite:///{folder / 'optuna.db'}")
        try:
            study = optuna.create_study(
                storage=storage, direction="maximize", sampler=sampler_of(sampler, 0)
            )
            loop = PlainLoop(trainer, PHOTO_SPACE, 0, weights="random")
            began = time.perf_counter()
            study.optimize(loop, n_trials=trials, n_jobs=jobs)
            return time.perf_counter() - began, gaps(stamps)
        finally:
            storage.engine.dispose()


def _ray() -> dict[str, sharing.Contestant]:
    if find_spec("ray") is None:
        say("Ray Tune is not installed, and left out")
        return {}
    import ray_tune

    return {
        "ray tune, Optuna TPE": partial(ray_tune.search, asha=False),
        "ray tune, Optuna TPE, ASHA by epoch": partial(ray_tune.search, asha=True),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this part's options."""
    sharing.add_arguments(parser)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.2, help="of an epoch, for the gaps")


def run(given: argparse.Namespace) -> tuple[str, Any]:
    """Measure; return the tables and what they were made of."""
    contestants = sharing.WITH_JOBS | _ray()
    runs = sharing.measure(
        sharing.ground_of(given), contestants, given.trials, range(given.repetitions)
    )
    texts, measured = [sharing.table(runs)], {"sharing": [asdict(each) for each in runs]}
    speeds = {
        sampler: optimize(0.0, given.trials, given.jobs, sampler) for sampler in ("random", "tpe")
    }
    cells = [
        [f"optuna, n_jobs={given.jobs}", sampler, str(given.trials),
         f"{1000 * seconds / given.trials:.1f}", f"{1000 * found.training / given.trials:.1f}"]
        for sampler, (seconds, found) in speeds.items()
    ]  # fmt: skip
    header = ("searched by", "sampler", "trials", "ms per trial", "trainer's, of all slots")
    texts.append(markdown(header, cells))
    _, waits = optimize(given.seconds, given.trials, given.jobs, "tpe")
    header = ("searched by", *IDLE_HEADER[1:])
    texts.append(markdown(header, [row(f"optuna, n_jobs={given.jobs}", waits)]))
    measured["seconds"] = {sampler: seconds for sampler, (seconds, _) in speeds.items()}
    measured["gaps"] = asdict(waits)
    return "\n\n".join(texts), measured
