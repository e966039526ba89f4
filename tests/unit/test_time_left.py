"""How long a search still takes, by what its epochs took."""

import time
from typing import Any

import pytest

from storage.records import Role, State, Trial
from study.budget import DeviceTime
from study.config.loading import load_config
from study.searching.policy import Standing
from study.searching.time_left import SETTLED, TimeLeft
from study.stage_tree import StageTree, Trained
from tests.lab import schedule, stage, trial_of
from trainers.metrics import Metric
from trainers.schedule import Schedule, Stage, Train

SPENT = DeviceTime(0.0)
TWO = schedule(stage(64, epochs=2), stage(64, epochs=4))


class Ran:
    """What has been run."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []
        self.tree = StageTree()
        self.waiting: list[int] = []

    def begin(
        self, of: Schedule, *, state: State = State.RUNNING, trained: float = 0.0, **others: Any
    ) -> str:
        """Add a trial in its first stage, which took `trained` seconds if it is; return the key."""
        number = len(self.trials)
        trial = trial_of(of, number, seed=number, state=state, **others)
        self.trials.append(trial)
        self.tree.enter(trial, 0, f"k{number}")
        if trained:
            self.tree.finish(f"k{number}", Trained((0.0, 0.0), None, trained))
        return f"k{number}"

    @property
    def standing(self) -> Standing:
        """Return it as a policy gets it."""
        return Standing(self.trials, self.tree, {}, self.waiting)


def left(
    strategy: str = "independent", slots: int = 1, repeats: int = 0, **others: Any
) -> TimeLeft:
    """Make what estimates."""
    seeds = {"repeats": repeats, "finalists": 1}
    config = load_config({"strategy": strategy, "weights": "random", "seeds": seeds})
    return TimeLeft(config, 100, slots, **others)


def test_nothing_is_said_before_the_first_epoch() -> None:
    """Unless a budget of time bounds the search: then it is what is left of that."""
    ran, found = Ran(), left()
    ran.begin(TWO)
    assert found.seconds(ran.standing, 5, SPENT) is None
    assert found.seconds(ran.standing, None, SPENT) is None
    assert found.seconds(ran.standing, None, DeviceTime(40.0, 100.0)) == 60.0
    assert left(slots=3).seconds(ran.standing, None, DeviceTime(40.0, 100.0)) == 20.0
    bounded = left(deadline=time.monotonic() - 1).seconds(ran.standing, 5, SPENT)
    assert bounded == 0.0


def test_a_budget_that_is_used_up_leaves_the_stages_in_training() -> None:
    """They are trained to their end, and no other is begun."""
    ran, found = Ran(), left()
    found.learn(ran.begin(schedule(stage(64, epochs=4), stage(64))), 10.0)
    for spent in (10.0, 99.0, 200.0):
        assert found.seconds(ran.standing, 5, DeviceTime(spent, 100.0)) == max(100 - spent, 30.0)


def test_after_one_epoch_it_is_the_rest_of_the_trial_and_the_trials_to_come() -> None:
    """Epochs at hand are those that are missing; each slot takes its part."""
    ran, found = Ran(), left()
    found.learn(ran.begin(TWO), 10.0)
    assert found.seconds(ran.standing, 1, SPENT) == pytest.approx(50.0)
    assert found.seconds(ran.standing, 3, SPENT) == pytest.approx(50.0 + 2 * 60.0)
    ran, found = Ran(), left(slots=2)
    found.learn(ran.begin(TWO), 10.0)
    assert found.seconds(ran.standing, 3, SPENT) == pytest.approx(85.0)


def test_under_the_forecast_trials_to_come_take_what_those_begun_have_taken() -> None:
    """Most of them wait after their first stage, for good."""
    ran, found = Ran(), left("forecast")
    for _ in range(3):
        ran.begin(TWO, trained=20.0)
    ran.waiting = [0, 1, 2]
    found.learn(ran.begin(TWO), 10.0)
    assert found.seconds(ran.standing, 6, SPENT) == pytest.approx(10.0 + 2 * 20.0)


def test_repeats_are_of_whole_schedules() -> None:
    """However few stages the trials that explore have come through."""
    ran, found = Ran(), left("forecast", repeats=2)
    ran.begin(TWO, state=State.COMPLETE, trained=20.0, seconds=60.0)
    ran.begin(TWO, trained=20.0)
    ran.waiting = [1]
    assert found.seconds(ran.standing, 1 + 3, SPENT) == pytest.approx(20.0 + 2 * 60.0)


def test_what_is_given_is_expected_to_be_trained() -> None:
    """So that a first trial that is small does not say that all will be."""
    big = schedule(stage(128, epochs=6))
    ran, found = Ran(), left(given=[TWO, big])
    found.learn(ran.begin(TWO), 10.0)
    assert found.seconds(ran.standing, 2, SPENT) == pytest.approx(50.0 + (60.0 + 6 * 40.0) / 2)


def test_a_stage_run_that_two_wait_for_is_counted_once() -> None:
    """The trial that shares it adds only what it trains by itself."""
    ran, found = Ran(), left()
    key = ran.begin(TWO)
    found.learn(key, 10.0)
    ran.trials.append(trial_of(TWO, 1))
    ran.tree.enter(ran.trials[1], 0, key)
    assert ran.tree.shared_with(0) is None
    assert ran.tree.shared_with(1) == (1, 0)
    assert found.seconds(ran.standing, 2, SPENT) == pytest.approx(50.0 + 40.0)


def test_what_is_given_goes_on_under_the_forecast_and_so_does_a_probe() -> None:
    """A trial that explores stops after its first stage that trains, and after no probe."""
    probe = Stage(image_size=64, train=Train.PROBE)
    stages = (probe, stage(64, epochs=2), stage(64, epochs=4))
    deep = Schedule(backbone="net", hidden=(), stages=stages, weights="random")
    for role, epochs in ((Role.EXPLORE, 2), (Role.PRESET, 6)):
        ran, found = Ran(), left("forecast")
        found.learn(ran.begin(schedule(stage(64))), 10.0)
        ran.begin(deep, role=role)
        found.learn("k1", 3.0)
        assert found.seconds(ran.standing, 2, SPENT) == pytest.approx(epochs * 10.0), role


def test_what_passes_between_epochs_counts_once_there_are_some() -> None:
    """Weights are written and decisions made: if that takes as long again, so does the rest."""
    now = [0.0]
    ran, found = Ran(), left(clock=lambda: now[0])
    key = ran.begin(schedule(stage(64, epochs=10)))
    for epoch in range(SETTLED):
        now[0] = 10.0 + 20.0 * epoch
        found.learn(key, 10.0)
    factor = 70.0 / 40.0
    assert found.seconds(ran.standing, 1, SPENT) == pytest.approx(6 * 10.0 * factor)


def test_the_tree_is_walked_over_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each epoch only what trains is looked at, however much was trained before."""
    ran, found, walks = Ran(), left(), []
    ran.begin(TWO, state=State.COMPLETE, trained=20.0, seconds=60.0)
    key = ran.begin(TWO)
    real = StageTree.__iter__
    monkeypatch.setattr(StageTree, "__iter__", lambda tree: walks.append(1) or real(tree))
    for epoch in range(2):
        found.learn(key, 10.0)
        assert found.seconds(ran.standing, 1, SPENT) == pytest.approx(50.0 - 10.0 * epoch)
    assert len(walks) == 1


def test_epochs_of_the_first_folds_are_parts_of_those_of_all() -> None:
    """They say what whole ones take, and are counted once, whether the others follow or not."""
    ran, found = Ran(), left()
    key = ran.begin(schedule(stage(64, epochs=4)))
    for _ in range(4):
        found.learn(key, 20.0, 0.4)
    assert found.seconds(ran.standing, 1, SPENT) == pytest.approx(4 * 50.0 * 0.6)
    for _ in range(3):
        found.learn(key, 50.0)
    assert found.seconds(ran.standing, 1, SPENT) == pytest.approx(50.0 * 0.6)
    assert found.seconds(ran.standing, 2, SPENT) == pytest.approx(30.0 + 200.0)
    ran, found = Ran(), left()
    key = ran.begin(TWO, state=State.PRUNED)
    ran.tree.stop(key, Metric.ACCURACY, 0.5, 1.0, 40.0)
    found.learn(ran.begin(TWO), 30.0)
    average = (40.0 + 6 * 30.0) / 2
    assert found.seconds(ran.standing, 2, SPENT) == pytest.approx(5 * 30.0 + average)
