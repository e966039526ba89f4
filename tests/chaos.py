"""Searches as processes that tests disturb: begun, killed, stopped, rivalled, and looked at."""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from storage.records import State
from tests.chaos_search import check_weights, make_lab
from tests.engines import lives

ROOT = Path(__file__).parents[1]
OTHER = "other.db"

Search = subprocess.Popen[str]


@dataclass
class Searches:
    """Begins searches over the databases in a folder."""

    folder: Path
    begun: list[Search] = field(default_factory=list)

    def start(self, trials: int, *options: str) -> Search:
        """Begin a search, or take it up."""
        words = [sys.executable, "-m", "tests.chaos_search", str(self.folder), str(trials)]
        self.begun.append(
            subprocess.Popen([*words, *options], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        )
        return self.begun[-1]

    def close(self) -> None:
        """Leave nothing behind."""
        for search in self.begun:
            with search:
                search.kill()

    def owner_is(self, search: Search) -> bool:
        """Return whether a process owns the study."""
        found = make_lab(self.folder, 1).sql("SELECT pid FROM encore_owners")
        return found == [(search.pid,)]

    def count(self, table: str, database: str = "encore.db") -> int:
        """Count a table's rows."""
        lab = make_lab(self.folder, 1, database)
        ((count,),) = lab.sql(f"SELECT count(*) FROM encore_{table}")  # noqa: S608 - our own
        return int(count)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    return []


def workers_of(search: Search) -> list[int]:
    """Return the processes of the workers, but not multiprocessing's own tracker."""
    found = []
    for pid in children(search.pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes() and lives(pid):
                found.append(pid)
    return found


def kill_one(pids: list[int], rng: random.Random) -> None:
    """Kill one of some processes, if it still lives."""
    with suppress(ProcessLookupError):
        os.kill(rng.choice(pids), signal.SIGKILL)


def said(search: Search) -> str:
    """Wait for a search that may not go on; return the sentence that says why."""
    _, text = search.communicate(timeout=120)
    assert search.returncode == 1, text
    return text.strip().splitlines()[-1]


def check_ended(search: Search, *, killed: bool = False) -> None:
    """Check that a search has ended as it may."""
    _, complaints = search.communicate(timeout=240)
    assert search.returncode in ((0, -signal.SIGKILL) if killed else (0,)), complaints
    # A worker that was being started as its coordinator died may complain.
    assert killed or complaints == ""


def check_study(folder: Path, database: str = "encore.db", *, over: bool = True) -> None:
    """Check that all trials ended once, here as in Optuna, and that each file is what it says.

    That is, to the last bit, what it would be without disturbance. With `over`, nothing
    else may be left in the study's folder.
    """
    lab = make_lab(folder, 1, database)
    with lab.reading() as (store, study, _):
        trials, runs = store.trials(study.id), store.stage_runs(study.id)
        assert {trial.state for trial in trials} <= {State.COMPLETE, State.PRUNED}
        assert len({trial.number for trial in trials}) == len(trials)
        # A repeat may go on under a seed that halving had stopped; no other trial shares one.
        complete = [trial for trial in trials if trial.state is State.COMPLETE]
        assert len({(trial.schedule_digest, trial.seed) for trial in complete}) == len(complete)
        assert {run.state for run in runs} == {State.COMPLETE}
        assert len({run.key for run in runs}) == len(runs)
        assert store.running_trials(study.id) == []
        kept = store.checkpoints(study.id)
        for run in runs:
            assert [e.epoch for e in store.epochs(run.id)] == list(range(1, run.epochs + 1))
    lab.check_order(over=over)
    ours = Counter(trial.state.value.upper() for trial in trials)
    theirs = Counter(trial.state for trial in lab.optuna_trials().values())
    assert theirs.keys() <= ours.keys() | {"FAIL"}  # asked of Optuna as the search was killed
    assert {state: theirs[state] for state in ours} == ours
    assert check_weights(lab) == len(kept) > 0
