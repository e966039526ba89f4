"""A search in its own process: `python -m tests.chaos_search FOLDER TRIALS`.

All is real but the training: SQLite, Optuna, vault, coordinator, four worker processes. With
`--host` it is on another machine, whose clock goes `--clock` seconds ahead, and which replaces an
owner of whom it heard nothing for `--stale` seconds; `--database` names another file in FOLDER,
`--seconds` how long an epoch takes.
"""

import argparse
import socket
import sys
from datetime import datetime, timedelta, tzinfo
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors

from study.engines.slots import Slot
from trainers.base import Trainer
from trainers.synthetic import SyntheticTrainer, _skill

if TYPE_CHECKING:
    from tests.lab import Lab  # Optuna, which each worker would import with this module

WORKERS = 4
RETRIES = 1000
"""More than there are kills, so that none costs a trial, or ends the search as it starts."""


def build(_slot: Slot, *, seconds: float) -> Trainer:
    """Make the trainer of a worker."""
    return SyntheticTrainer(np.repeat(np.arange(3), 20), 3, seconds_per_epoch=seconds)


def make_lab(
    folder: Path, trials: int, database: str = "encore.db", seconds: float = 0.03
) -> "Lab":
    """Return the study in a folder; an epoch takes so many seconds."""
    from study.engines import processes
    from study.engines.slots import slots_of
    from tests.chaos_search import build  # workers do not know this module as `__main__`
    from tests.lab import Lab

    lab = Lab(
        folder,
        url=f"sqlite:///{folder / database}",
        strategy="forecast",
        sampler="tpe",
        trials=trials,
        repeats=1,
        finalists=4,
    )
    slots = slots_of(f"cpu:{WORKERS}")
    made = partial(build, seconds=seconds)
    processes._TRIES = RETRIES
    lab.make_engine = lambda _: processes.ProcessEngine(made, slots, max_retries=RETRIES)
    return lab


def check_weights(lab: "Lab") -> int:
    """Check that each row's file holds what its schedule leads to, to the last bit; count them."""
    with lab.reading() as (store, study, vault):
        schedules = {
            run.id: trial.schedule.prefixes()[run.position]
            for trial in store.trials(study.id)
            for run in store.stage_runs_of(trial.id)
        }
        kept = store.checkpoints(study.id)
        for file in kept:
            with safetensors.safe_open(vault.path(file.path), framework="np") as weights:
                expected = _skill(schedules[file.stage_run_id], file.epoch)
                assert float(weights.get_tensor("skill")[0]) == expected, file
        return len(kept)


def be_elsewhere(host: str, ahead: float, stale: float) -> None:
    """Have this process be on another machine, with a clock of its own."""
    import storage.database
    from study.searching import ownership

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(seconds=ahead)

    socket.gethostname = lambda: host
    storage.database.datetime = Clock  # type: ignore[misc]
    ownership.STALE_AFTER = timedelta(seconds=stale)
    ownership.HEARTBEAT_SECONDS, ownership.WATCH_SECONDS = 0.2, 1.5


def main() -> None:
    """Search as the command line says; without ownership, say so and end with 1."""
    from storage.errors import StudyInUse

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("trials", type=int)
    parser.add_argument("--database", default="encore.db")
    parser.add_argument("--host", default=socket.gethostname())
    parser.add_argument("--clock", type=float, default=0.0)
    parser.add_argument("--stale", type=float, default=60.0)
    parser.add_argument("--seconds", type=float, default=0.03)
    given = parser.parse_args()
    be_elsewhere(given.host, given.clock, given.stale)
    try:
        make_lab(given.folder, given.trials, given.database, given.seconds).search()
    except StudyInUse as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
