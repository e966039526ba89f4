"""Several slots: trials that need a stage run which is in training wait for it, and share it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from storage.records import State
from study.errors import TooManyFailures
from study.events import EpochFinished, StageStarted, TrialFinished
from tests.crashes import check_end, chosen, crash_in, crashes, dies_at, is_step
from tests.engines import Interleaved
from tests.lab import SECONDS, Bench, Lab, schedule, stage
from trainers.schedule import Schedule

MakeLab = Callable[..., Lab]

ROOT = stage(64, epochs=3)
OTHER = stage(72, epochs=2)
BAD = stage(64, 50.0)
"""A learning rate at which the synthetic trainer diverges."""

PAIR = (schedule(ROOT, stage(96)), schedule(ROOT, stage(128)))
SCRIPT = (
    PAIR[0],
    schedule(OTHER, stage(96)),
    PAIR[1],
    schedule(BAD, stage(96)),
    schedule(BAD, stage(128)),
    schedule(ROOT, stage(96), stage(128)),
    schedule(OTHER, stage(128)),
)

PICKS: list[Callable[[list[str]], str]] = [
    lambda keys: keys[0],
    lambda keys: keys[-1],
    min,
    max,
]
"""Each slot in its turn, one slot to its end, and two orders that have nothing to do with time."""


@pytest.fixture
def make_shared(make_lab: MakeLab) -> MakeLab:
    """Return what makes a lab with several slots."""

    def make(*script: Schedule, slots: int = 2, pick: object = PICKS[0], **settings: object) -> Lab:
        lab = make_lab(*script, **settings)
        lab.make_engine = partial(Interleaved, slots=slots, pick=pick)  # type: ignore[arg-type]
        return lab

    return make


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Lab:
    """Search by the script with one slot."""
    lab = Lab(tmp_path_factory.mktemp("alone"), SCRIPT, template=template)
    lab.search()
    return lab


def states(lab: Lab) -> list[State]:
    """Return the states of all trials."""
    with lab.reading() as (store, study, _):
        return [trial.state for trial in store.trials(study.id)]


@pytest.mark.parametrize(
    "pick", [0, *(pytest.param(pick, marks=pytest.mark.long) for pick in range(1, len(PICKS)))]
)
@pytest.mark.parametrize("slots", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_whatever_the_order_the_end_is_that_of_one_slot(
    alone: Lab, make_shared: MakeLab, slots: int, pick: int
) -> None:
    """The same trials, scores and stage runs; a beginning that many share is trained once."""
    lab = make_shared(*SCRIPT, slots=slots, pick=PICKS[pick])
    lab.search()
    lab.check_order()
    found, expected = lab.outcome(), alone.outcome()
    assert found["runs"].keys() == expected["runs"].keys()
    assert found["trials"] == expected["trials"]
    runs = found["runs"].items()
    roots = [key for key, (state, position, *_) in runs if position == 0 and state != State.FAILED]
    assert [lab.trainer.trained.count(key[:16]) for key in roots] == [1, 1]


def test_two_trials_wait_for_one_stage_run_and_both_go_on(make_shared: MakeLab) -> None:
    """It is trained once, told for both, and each goes on to its own next stage."""
    lab = make_shared(*PAIR)
    told = lab.search()
    lab.check_order()
    assert states(lab) == [State.COMPLETE] * 2
    assert len(lab.trainer.trained) == len(set(lab.trainer.trained)) == 3
    steps = [(news.number, news.step) for news in told if isinstance(news, EpochFinished)]
    assert steps[:6] == [(0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3)]
    assert sorted(steps[6:]) == [(0, 4), (1, 4)]
    starts = [(news.number, news.position) for news in told if isinstance(news, StageStarted)]
    assert starts == [(0, 0), (1, 0), (0, 1), (1, 1)]
    with lab.reading() as (store, study, _):
        assert [trial.seconds for trial in store.trials(study.id)] == [4 * SECONDS] * 2
        assert store.seconds_of_epochs(study.id) == 5 * SECONDS


def test_a_trial_that_comes_later_learns_the_epochs_before_it(make_shared: MakeLab) -> None:
    """It enters a stage run in mid-training and has all its epochs in the end."""
    lab = make_shared(schedule(stage(32)), *PAIR, pick=max, slots=2)
    lab.search()
    lab.check_order()
    for number in (1, 2):
        assert list(lab.optuna_trials()[number].reported) == [1, 2, 3, 4]
    assert len(lab.trainer.trained) == len(set(lab.trainer.trained)) == 4


def test_if_it_fails_both_fail_and_it_counts_once(make_shared: MakeLab) -> None:
    """Two trials with one cause are no two failures in a row, but a second cause is."""
    bad = (schedule(BAD, stage(96)), schedule(BAD, stage(128)))
    lab = make_shared(*bad, *PAIR, max_failures=2)
    lab.search()
    lab.check_order()
    assert states(lab) == [State.FAILED] * 2 + [State.COMPLETE] * 2
    assert len(set(lab.trainer.trained)) == len(lab.trainer.trained) == 4

    lab = make_shared(*bad, schedule(stage(72, 60.0)), max_failures=2)
    with pytest.raises(TooManyFailures, match=r"^2 trials in a row"):
        lab.search()
    lab.check_order()


def test_not_too_many_wait(make_shared: MakeLab) -> None:
    """With every trial sharing one beginning, no more than twice the slots are begun at once."""
    lab = make_shared(*(schedule(ROOT, stage(64 + 8 * n)) for n in range(1, 9)), slots=2)
    told = lab.search()
    lab.check_order()
    open_now, most = 0, 0
    begun: set[int] = set()
    for news in told:
        if isinstance(news, StageStarted) and news.number not in begun:
            begun.add(news.number)
            open_now += 1
        open_now -= isinstance(news, TrialFinished)
        most = max(most, open_now)
    assert most == 4
    assert states(lab) == [State.COMPLETE] * 8


@pytest.mark.long
def test_killed_at_any_event_with_several_slots_the_end_is_the_same(
    make_shared: MakeLab, every: bool
) -> None:
    """Trials that waited wait again; nothing fails twice, nothing is left over."""
    short = stage(64, epochs=2)
    script = (schedule(short, stage(96)), schedule(BAD), schedule(short))
    calm = make_shared(*script)
    events = sum(map(is_step, calm.search()))
    for event in chosen(events, every=every):
        lab = make_shared(*script)
        assert crashes(lab, dies_at(event))
        check_end(lab, calm.outcome(), f"after a crash at event {event}")


@pytest.mark.parametrize(
    ("when", "method"),
    [
        ("after", "finish_trial"),
        *(
            pytest.param(when, method, marks=pytest.mark.long)
            for when, method in (
                *(("before", "fail_stage_run"), ("before", "seal_stage_run")),
                ("before", "finish_trial"),
                *(("after", "seal_stage_run"), ("after", "fail_stage_run")),
            )
        ),
    ],
)
def test_killed_around_every_end_with_several_slots_the_end_is_the_same(
    make_shared: MakeLab, method: str, when: str, every: bool
) -> None:
    """Also between the ends of two trials that shared what failed or what was trained."""
    script = (*PAIR, schedule(BAD, stage(96)), schedule(BAD, stage(128)))
    calm = make_shared(*script)
    calm.search()
    expected, call = calm.outcome(), 1 if every else 2

    def prepare(bench: Bench) -> None:
        crash_in(bench, "store", method, call, after=when == "after")

    while crashes(lab := make_shared(*script), prepare):
        check_end(lab, expected, f"{when} call {call} of {method}")
        call += 1
        if not every:
            break
    assert call > 2


def test_epochs_told_again_are_not_counted_again(make_shared: MakeLab) -> None:
    """The time of the budget is that of the epochs, however often they were told."""
    lab = make_shared(*PAIR)
    assert crashes(lab, dies_at(7))
    with lab.bench() as bench:
        bench.coordinator.run()
        spent = bench.coordinator.device_time.seconds
        assert spent == bench.store.seconds_of_epochs(bench.study.id)
