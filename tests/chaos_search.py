"""A search in its own process: `python -m tests.chaos_search FOLDER TRIALS`.

All is real but the training: SQLite, Optuna, vault, coordinator, four worker processes.
"""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from study.slots import Slot
from trainers.base import Trainer
from trainers.synthetic import SyntheticTrainer

if TYPE_CHECKING:
    from tests.lab import Lab  # Optuna, which each worker would import with this module

WORKERS = 4
RETRIES = 1000
"""More than there are kills, so that none costs a trial."""


def build(_slot: Slot, *, seconds: float) -> Trainer:
    """Make the trainer of a worker."""
    return SyntheticTrainer(np.repeat(np.arange(3), 20), 3, seconds_per_epoch=seconds)


def make_lab(folder: Path, trials: int) -> "Lab":
    """Give the study in a folder."""
    from study.engines.processes import ProcessEngine
    from study.slots import slots_of
    from tests.chaos_search import build  # workers do not know this module as `__main__`
    from tests.lab import Lab

    lab = Lab(folder, strategy="tree", sampler="tpe", trials=trials, repeats=1, finalists=4)
    slots = slots_of(f"cpu:{WORKERS}")
    made = partial(build, seconds=0.03)
    lab.make_engine = lambda _: ProcessEngine(made, slots, max_retries=RETRIES)
    return lab


if __name__ == "__main__":
    make_lab(Path(sys.argv[1]), int(sys.argv[2])).search()
