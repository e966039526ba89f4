"""Encore's search of the digits, for the part `wall`: prints its best so far after each epoch."""

import argparse
import json
import tempfile
import time
from pathlib import Path

from wiring import METRIC

from study.config.space import DIGITS_SPACE
from study.events import EpochFinished, Progress
from study.searching.search import search


class Told:
    """Prints (seconds since `began`, best score so far)."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._best = 0.0

    def __call__(self, progress: Progress) -> None:
        """Listen."""
        if isinstance(progress, EpochFinished):
            self._best = max(self._best, progress.metrics.score(METRIC))
            print(json.dumps([time.time() - self._began, self._best]), flush=True)


def main() -> None:
    """Search."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder {train,val}/CLASS/*")
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--began", type=float, default=time.time(), help="seconds of the epoch")
    parser.add_argument("--strategy", default="forecast")
    parser.add_argument("--devices", default="cpu:2")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="encore-bench-") as folder:
        search(
            data=str(given.data),
            storage=f"sqlite:///{folder}/encore.db",
            space=DIGITS_SPACE,
            portfolio=False,  # as without --data, where the digits are given no probes
            trials=given.trials,
            seed=given.seed,
            strategy=given.strategy,
            devices=given.devices,
            listener=Told(given.began),
        )


if __name__ == "__main__":
    main()
