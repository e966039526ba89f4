"""A search whose budget is device time ends with it: to a stage run, and whatever happens."""

from collections.abc import Callable
from functools import partial

import pytest

from storage.records import State
from study.events import EpochFinished, TrialFinished
from study.history.cleanup import clean_weights
from study.studies import plain_config
from tests.crashes import chosen, crashes, dies_at, is_step
from tests.engines import Interleaved
from tests.lab import SECONDS, Lab, schedule, stage

MakeLab = Callable[..., Lab]

ROOT = stage(64, epochs=2)
SCRIPT = (
    schedule(ROOT, stage(96, epochs=2)),
    schedule(ROOT, stage(128)),
    schedule(stage(64, 50.0)),  # it diverges
    schedule(ROOT, stage(136), stage(160, epochs=3)),
    *(schedule(stage(size)) for size in range(200, 280, 8)),
)
RUNS = (2, 2, 1, 1, 3)
"""The epochs of the script's first stage runs, in the order in which one slot trains them."""


@pytest.fixture
def bounded(make_lab: MakeLab) -> MakeLab:
    """Return what makes a lab that is bounded by a number of epochs, not by one of trials."""

    def make(epochs: int, **settings: object) -> Lab:
        return make_lab(*SCRIPT, trials=None, budget=f"{SECONDS * epochs}s", **settings)

    return make


def epochs(lab: Lab) -> int:
    """Count the epochs that a study has recorded."""
    with lab.reading() as (store, study, _):
        return len(store.epochs_of_study(study.id))


SLOW_BUDGETS = [pytest.param(budget, marks=pytest.mark.slow) for budget in (1, 2, 6, 8)]


@pytest.mark.parametrize(
    "budget", [*(pytest.param(budget, marks=pytest.mark.long) for budget in (3, 5)), *SLOW_BUDGETS]
)
def test_what_is_in_training_is_finished_and_nothing_more_is_begun(
    bounded: MakeLab, budget: int
) -> None:
    """The stage run that crosses the budget is the last one; the search goes on from there."""
    lab = bounded(budget)
    told = lab.search()
    ends = [sum(RUNS[: count + 1]) for count in range(len(RUNS))]
    assert epochs(lab) == next(end for end in ends if end >= budget)
    spent = [news.device_time for news in told if isinstance(news, EpochFinished)]
    assert [time.seconds for time in spent] == [SECONDS * n for n in range(1, epochs(lab) + 1)]
    assert {time.budget for time in spent} == {SECONDS * budget}
    assert {news.to_go for news in told if isinstance(news, TrialFinished)} <= {None}
    with lab.reading() as (store, study, _):
        assert {run.state for run in store.stage_runs(study.id)} <= {State.COMPLETE, State.FAILED}
    assert lab.search() == [], "the same command again does nothing"

    lab.configure(SCRIPT, trials=len(SCRIPT), budget="1h")
    lab.search()
    lab.check_order()
    whole = Lab(lab.folder / "whole", SCRIPT)
    whole.search()
    assert lab.outcome() == whole.outcome()


def test_what_is_spent_first_ends_the_search(make_lab: MakeLab) -> None:
    """A number of trials holds beside a larger budget."""
    lab = make_lab(*SCRIPT, trials=2, budget="1h")
    told = lab.search()
    assert [news.to_go for news in told if isinstance(news, TrialFinished)] == [1, 0]


def test_those_that_share_a_device_share_its_time(bounded: MakeLab) -> None:
    """With two workers a device, twice as many epochs are paid."""
    lab = bounded(3, workers_per_device=2)
    lab.search()
    assert epochs(lab) == 2 + 2 + 1 + 1


@pytest.mark.parametrize(
    "slots",
    [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.long)],
)
@pytest.mark.parametrize("budget", [1, pytest.param(4, marks=pytest.mark.slow), 6])
def test_with_several_slots_each_finishes_what_it_trains(
    bounded: MakeLab, slots: int, budget: int
) -> None:
    """At most one stage run a slot exceeds the budget; nothing waits for ever."""
    lab = bounded(budget)
    lab.make_engine = partial(Interleaved, slots=slots, pick=lambda keys: keys[0])
    lab.search()
    longest = max(RUNS)
    assert budget <= epochs(lab) <= budget - 1 + slots * longest
    with lab.reading() as (store, study, _):
        assert {run.state for run in store.stage_runs(study.id)} <= {State.COMPLETE, State.FAILED}


@pytest.mark.parametrize(
    ("budget", "every"),
    [(3, False), *(pytest.param(budget, True, marks=pytest.mark.slow) for budget in (2, 3, 6))],
)
def test_killed_at_any_event_as_much_is_trained(bounded: MakeLab, budget: int, every: bool) -> None:
    """A stage run that was begun is gone on with, and no other is begun in its place."""
    calm = bounded(budget)
    events = sum(map(is_step, calm.search()))
    for event in chosen(events, every=every):
        lab = bounded(budget)
        assert crashes(lab, dies_at(event))
        lab.search()
        assert lab.outcome() == calm.outcome(), f"after a crash at event {event}"


@pytest.mark.parametrize(("budget", "ongoing"), [("20m", True), ("1.5s", False)])
def test_beginnings_are_needed_until_the_budget_is_spent(
    finished: Lab, budget: str, ongoing: bool
) -> None:
    """As with a number of trials: until the search is over, later trials may go on from them."""
    finished.configure((), trials=None, budget=budget, repeats=0)
    with finished.reading() as (store, study, _):
        store.update_config(study.id, plain_config(finished.config))
    reasons = {file.reason for file in clean_weights(storage=finished.url).files}
    assert ("no trial will continue from it" not in reasons) is ongoing
