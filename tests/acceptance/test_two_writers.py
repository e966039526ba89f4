"""Searches that are stopped, taken over and continued, and clocks that differ: one writer only."""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.records import State
from tests.chaos_search import check_weights, make_lab
from tests.engines import until

ROOT = Path(__file__).parents[2]
TRIALS = 40
OTHER = "other.db"

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def folder(tmp_path: Path, template: Path) -> Path:
    """Give a folder with two databases."""
    for name in ("encore.db", OTHER):
        shutil.copy(template, tmp_path / name)
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Give what begins a search, of which nothing is left in the end."""
    begun: list[subprocess.Popen[str]] = []

    def begin(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.chaos_search", str(folder), str(TRIALS), *options]
        begun.append(subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True))
        return begun[-1]

    yield begin
    for search in begun:
        with search:
            search.kill()


def said(search: subprocess.Popen[str]) -> str:
    """Wait for a search that may not go on; give the sentence that says why."""
    _, text = search.communicate(timeout=120)
    assert search.returncode == 1, text
    return text.strip().splitlines()[-1]


def owner_is(folder: Path, pid: int) -> bool:
    """Tell whether a process owns the study."""
    found = make_lab(folder, TRIALS).sql("SELECT pid FROM encore_owners")
    return found == [(pid,)]


def epochs(folder: Path) -> int:
    """Count the epochs that have been recorded."""
    ((count,),) = make_lab(folder, TRIALS).sql("SELECT count(*) FROM encore_epochs")
    return int(count)


def check_study(folder: Path, database: str = "encore.db") -> None:
    """Check that all trials ended once, here as in Optuna, and that each file is what it says."""
    lab = make_lab(folder, TRIALS, database)
    with lab.reading() as (store, study, _):
        trials, runs = store.trials(study.id), store.stage_runs(study.id)
        assert {trial.state for trial in trials} <= {State.COMPLETE, State.PRUNED}
        assert {run.state for run in runs} == {State.COMPLETE}
        assert len({run.key for run in runs}) == len(runs)
        assert store.running_trials(study.id) == []
        kept = store.checkpoints(study.id)
        for run in runs:
            assert [e.epoch for e in store.epochs(run.id)] == list(range(1, run.epochs + 1))
    lab.check_order(over=False)
    ours = Counter(trial.state.value.upper() for trial in trials)
    theirs = Counter(trial.state for trial in lab.optuna_trials().values())
    assert theirs.pop("FAIL", 0) >= 0
    assert theirs == ours
    assert check_weights(lab) == len(kept) > 0


def test_a_stopped_search_is_never_taken_over_on_its_own_machine(
    folder: Path, start: Start
) -> None:
    """Ctrl-Z, for however long: the same command is refused with a sentence, and `fg` goes on."""
    first = start("--host", "here", "--stale", "0.5")
    until(lambda: owner_is(folder, first.pid) and epochs(folder) > 3, 60)
    for _ in range(3):
        first.send_signal(signal.SIGSTOP)
        time.sleep(1)
        text = said(start("--host", "here", "--stale", "0.5"))
        assert f"process {first.pid} on here" in text
        assert "which is stopped; continue it with `fg`" in text
        before = epochs(folder)
        first.send_signal(signal.SIGCONT)
        until(lambda: epochs(folder) > before or first.poll() is not None, 30)  # noqa: B023
    _, complaints = first.communicate(timeout=120)
    assert (first.returncode, complaints) == (0, "")
    check_study(folder)


def test_a_search_that_was_taken_over_while_it_slept_writes_nothing_more(
    folder: Path, start: Start
) -> None:
    """A machine is paused at any moment, another one takes over, the first wakes up: ten times."""
    dice = random.Random(3)  # noqa: S311 - no secret
    hosts = ["a", "b"]
    awake, taken = start("--host", hosts[0], "--stale", "1"), 0
    for _ in range(10):
        until(lambda: owner_is(folder, awake.pid) or awake.poll() is not None, 60)  # noqa: B023
        before = epochs(folder)
        until(lambda: epochs(folder) > before or awake.poll() is not None, 60)  # noqa: B023
        time.sleep(dice.uniform(0, 0.2))
        awake.send_signal(signal.SIGSTOP)
        if awake.poll() is not None:
            break
        hosts.reverse()
        asleep, awake = awake, start("--host", hosts[0], "--stale", "1")
        until(lambda: owner_is(folder, awake.pid) or awake.poll() is not None, 60)  # noqa: B023
        if awake.poll() is not None:  # it was stopped amid a transaction: nobody else can write
            asleep.send_signal(signal.SIGCONT)
            awake = asleep
            continue
        time.sleep(dice.uniform(0, 0.3))
        asleep.send_signal(signal.SIGCONT)
        assert f"process {awake.pid} on {hosts[0]}" in said(asleep)
        taken += 1
    awake.send_signal(signal.SIGCONT)
    assert awake.wait(180) == 0
    assert taken >= 5, "the search was over too early for this test to say anything"
    check_study(folder)


def test_clocks_two_minutes_apart_cost_nobody_the_study(folder: Path, start: Start) -> None:
    """The one whose clock is ahead, or behind, is refused for as long as the other one lives."""
    first = start("--host", "a")
    until(lambda: owner_is(folder, first.pid), 60)
    rivals = [start("--host", "b", "--clock", ahead, "--stale", "60") for ahead in ("120", "-120")]
    for rival in rivals:
        assert f"process {first.pid} on a" in said(rival)
    _, complaints = first.communicate(timeout=180)
    assert (first.returncode, complaints) == (0, "")
    check_study(folder)


def test_two_databases_search_in_one_folder_at_once(folder: Path, start: Start) -> None:
    """Killed and begun again while the other one trains, neither takes anything from the other."""
    searches = {name: start("--database", name) for name in ("encore.db", OTHER)}
    dice = random.Random(4)  # noqa: S311 - no secret
    for _ in range(6):
        time.sleep(dice.uniform(2, 4))
        name = dice.choice(sorted(searches))
        searches[name].kill()
        searches[name].communicate()
        searches[name] = start("--database", name)
    for search in searches.values():
        _, complaints = search.communicate(timeout=240)
        assert search.returncode == 0, complaints
    for name in searches:
        check_study(folder, name)
