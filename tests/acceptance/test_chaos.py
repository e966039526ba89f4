"""A search whose processes are killed again and again ends as it should."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from storage.records import Role, State
from tests.chaos_search import make_lab
from tests.engines import all_dead, lives, until

ROOT = Path(__file__).parents[2]
TRIALS = 60
KILLS = ["worker"] * 15 + ["coordinator"] * 5


def start(folder: Path) -> subprocess.Popen[str]:
    """Begin the search, or take it up."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.chaos_search", str(folder), str(TRIALS)],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def children(pid: int) -> list[int]:
    """Give the processes that a process has started."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    return []


def workers_of(search: subprocess.Popen[str]) -> list[int]:
    """Give the processes of the workers, but not multiprocessing's own tracker."""
    found = []
    for pid in children(search.pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes() and lives(pid):
                found.append(pid)
    return found


def check_ended(search: subprocess.Popen[str], *, killed: bool) -> None:
    """Check that a search has ended as it may."""
    _, complaints = search.communicate(timeout=120)
    assert search.returncode in ((0, -signal.SIGKILL) if killed else (0,)), complaints
    # A worker that was being started as its coordinator died may complain.
    assert killed or complaints == ""


def test_twenty_kills_cost_nothing_but_time(tmp_path: Path, template: Path) -> None:
    """Workers and the coordinator die at random, and the same command is given until it ends.

    All trials end, none twice; each stage run is complete, once, with all its epochs; no row, file
    or process is left over.
    """
    folder = tmp_path / "chaos"
    folder.mkdir()
    shutil.copy(template, folder / "encore.db")
    dice = random.Random(5)  # noqa: S311 - no secret
    plan = dice.sample(KILLS, len(KILLS))
    done: Counter[str] = Counter()
    seen: set[int] = set()
    search = start(folder)
    for victim in plan:
        # Not before there is something to kill: to start takes longer than most trials.
        until(lambda: workers_of(search) or search.poll() is not None, 60)  # noqa: B023
        time.sleep(dice.uniform(0, 0.5))
        seen |= set(alive := workers_of(search))
        if search.poll() is not None:
            break
        if victim == "coordinator":
            search.kill()
            check_ended(search, killed=True)
            search = start(folder)
        elif alive:
            with suppress(ProcessLookupError):
                os.kill(dice.choice(alive), signal.SIGKILL)
        done[victim] += 1
    check_ended(search, killed=False)
    assert done == Counter(KILLS), "the search was over too early for this test to say anything"
    until(lambda: all_dead(seen), 5)

    lab = make_lab(folder, TRIALS)
    lab.check_order()
    with lab.reading() as (store, study, vault):
        trials, runs = store.trials(study.id), store.stage_runs(study.id)
        states = Counter(trial.state for trial in trials)
        assert states.keys() <= {State.COMPLETE, State.PRUNED}
        roles = Counter(trial.role for trial in trials)
        assert roles.total() - roles[Role.REPEAT] == TRIALS
        assert roles[Role.REPEAT] <= 4
        # A repeat may go on under a seed that halving had stopped; nobody else shares one.
        complete = [t for t in trials if t.state is State.COMPLETE]
        assert len({(trial.schedule_digest, trial.seed) for trial in complete}) == len(complete)
        assert len({trial.number for trial in trials}) == len(trials)
        assert len({run.key for run in runs}) == len(runs)
        assert {run.state for run in runs} == {State.COMPLETE}
        for run in runs:
            epochs = [epoch.epoch for epoch in store.epochs(run.id)]
            assert epochs == list(range(1, run.epochs + 1))
        assert list((vault.root / "stages").glob("*/*")) == []
    theirs = Counter(trial.state for trial in lab.optuna_trials().values())
    assert theirs["COMPLETE"] == states[State.COMPLETE]
    assert theirs["PRUNED"] == states[State.PRUNED]
    assert theirs.keys() <= {"COMPLETE", "PRUNED", "FAIL"}
