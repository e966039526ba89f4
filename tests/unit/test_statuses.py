"""What trials and stage runs are said to be doing: training now, or waiting."""

from collections.abc import Callable
from typing import Any

from storage.records import Role, State
from study.dashboard.artifacts import Exhibits
from study.history.tree import show_tree
from study.history.trials import list_trials, show_trial
from study.report.contents import read_contents
from study.report.tables import frames
from study.searching.statuses import Status, Statuses
from tests.lab import Lab, schedule, stage
from trainers.data.manifest import Manifest

TWO = [schedule(stage(64), stage(96, lr=rate)) for rate in (1e-3, 2e-3)]


def test_what_has_not_ended_waits_unless_a_living_search_trains_it() -> None:
    """Three cases: no search, a search that trains another trial, one that trains this."""
    other, mine = Statuses(searched=True, in_training=frozenset([1])), frozenset([0])
    assert set(Status) == {*map(Status, State), Status.WAITING}
    trial: Any = type("Trial", (), {"number": 0, "state": State.RUNNING})
    assert Statuses(searched=False, in_training=frozenset()).of_trial(trial) is Status.WAITING
    assert Statuses(searched=False, in_training=frozenset()).of_stage_run(trial) is Status.WAITING
    assert other.of_trial(trial) is Status.WAITING
    assert other.of_stage_run(trial) is Status.RUNNING
    assert Statuses(searched=True, in_training=mine).of_trial(trial) is Status.RUNNING
    trial.state = State.PRUNED
    assert Statuses(searched=True, in_training=mine).of_trial(trial) is Status.PRUNED


def test_all_that_shows_trials_agrees_while_the_search_runs_and_after(
    make_lab: Callable[..., Lab], photos: Manifest
) -> None:
    """Of two trials that were begun one is trained: the other waits, and both once it has left."""
    lab = make_lab(*TWO, manifest=photos)
    with lab.bench() as bench:
        trials = [bench.store.add_trial(bench.study.id, n, TWO[n], n, Role.EXPLORE) for n in (0, 1)]
        bench.store.begin_stage_run(trials[1], "k" * 64, 0)
        assert _shown(lab) == (["waiting", "running"], ["running"])
    assert _shown(lab) == (["waiting", "waiting"], ["waiting"])


def _shown(lab: Lab) -> tuple[list[str], list[str]]:
    """Return what all agree on of trials, and of stage runs."""
    found = read_contents(storage=lab.url)
    trials = [str(line.state) for line in list_trials(storage=lab.url).trials]
    assert trials == [show_trial(number, storage=lab.url).line.state for number in (0, 1)]
    assert trials == frames(found)["trials"]["state"].tolist()
    exhibits = Exhibits(lab.url)
    waiting = {number for number, state in enumerate(trials) if state == "waiting"}
    assert exhibits.waiting(found.study) == waiting
    exhibits.close()
    runs = [str(node.state) for node in show_tree(storage=lab.url).roots]
    assert runs == [stage.state for stage in show_trial(1, storage=lab.url).stages]
    assert runs == frames(found)["stages"]["state"].tolist()
    return trials, runs
