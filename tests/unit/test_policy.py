"""What comes next: what was given, exploration up to the total, then the finalists' seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from study.halving import is_halved

from storage.records import Role, State, Trial
from study.config import StudyConfig
from study.policy import (
    PLACE_WORTH,
    Action,
    Branch,
    Explore,
    Repeat,
    RunGiven,
    SearchPolicy,
    SeedsPolicy,
    Standing,
    finalists,
    fresh_seed,
    may_enter,
)
from study.racing import Gains
from study.settings import load_config, settings_of
from study.tree import StageTree
from tests.lab import schedule, stage
from trainers.metrics import Metric
from trainers.schedule import Schedule, Stage, Train


def trial(
    number: int,
    size: int = 32,
    score: float | None = 0.5,
    *,
    role: Role = Role.EXPLORE,
    state: State = State.COMPLETE,
    seed: int = 0,
    loss: float | None = 0.7,
) -> Trial:
    """Make a trial whose schedule is known by its image size."""
    return Trial(
        id=number + 1,
        study_id=1,
        number=number,
        schedule_json=sized(size).to_json(),
        seed=seed,
        role=role,
        state=state,
        score=score,
        loss=loss,
        started_at=datetime.now(UTC),
    )


def sized(size: int) -> Schedule:
    """Make the schedule that is known by an image size."""
    return schedule(stage(size))


def config(**settings: Any) -> StudyConfig:
    """Make a config of the command line's flags."""
    return load_config(settings_of(**({"trials": 3, "strategy": "independent"} | settings)))


def standing(trials: Sequence[Trial], outcomes: Mapping[str, Sequence[Gains]] = {}) -> Standing:
    """Make what has been run, without a tree."""
    return Standing(trials, StageTree(), outcomes)


def next_action(
    trials: Sequence[Trial], asked: StudyConfig, given: Sequence[Schedule] = ()
) -> Action | None:
    """Say what a search does next."""
    return SearchPolicy(asked, given).next_action(standing(trials))


def to_go(
    trials: Sequence[Trial], asked: StudyConfig, given: Sequence[Schedule] = ()
) -> int | None:
    """Count what is still to end in a search."""
    return SearchPolicy(asked, given).to_go(standing(trials))


def test_the_preset_comes_first_and_once() -> None:
    """It counts in the total; whatever came of it, it is not tried again."""
    asked, given = config(preset="quick", trials=2), [sized(48)]
    assert next_action([], asked, given) == RunGiven(sized(48))
    for state in State:
        done = [trial(0, 48, role=Role.PRESET, state=state)]
        assert next_action(done, asked, given) == Explore()
    assert next_action([trial(0, 48, role=Role.PRESET), trial(1)], asked, given) is None


def test_a_suggestion_is_not_taken_for_what_was_given() -> None:
    """Should the sampler have come upon the same schedule, the user's own is still trained."""
    assert next_action([trial(0, 48)], config(), [sized(48)]) == RunGiven(sized(48))


def test_a_grid_is_run_in_its_order_and_no_further() -> None:
    """Its length is the total; a schedule listed twice is run twice, one that failed once."""
    asked, given = (
        config(strategy="grid", grid="g.toml", trials=9),
        [sized(n) for n in (64, 32, 64)],
    )
    trials: list[Trial] = []
    assert to_go(trials, asked, given) == 3
    for number, size in enumerate((64, 32, 64)):
        assert next_action(trials, asked, given) == RunGiven(sized(size))
        trials.append(trial(number, size, role=Role.PRESET, state=State.FAILED))
    assert next_action(trials, asked, given) is None
    assert to_go(trials, asked, given) == 0


def test_exploration_goes_on_up_to_the_total() -> None:
    """Running, failed and pruned trials count as spent, repeats do not."""
    done = [trial(0, state=State.FAILED), trial(1, state=State.PRUNED)]
    assert next_action(done, config()) == Explore()
    assert next_action([*done, trial(2, role=Role.REPEAT)], config()) == Explore()
    assert next_action([*done, trial(2, state=State.RUNNING)], config()) is None
    assert next_action([*done, trial(2)], config()) is None
    assert next_action([*done, trial(2)], config(trials=4)) == Explore()


def test_no_repeat_begins_while_exploration_runs() -> None:
    """The finalists are not known before the last of it has ended."""
    asked = config(trials=2, repeats=1)
    assert next_action([trial(0), trial(1, state=State.RUNNING)], asked) is None
    assert next_action([trial(0), trial(1, 64)], asked) == Repeat(trial_like(0))


def trial_like(number: int) -> Any:
    """Equal any trial of that number."""

    class Like:
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Trial) and other.number == number

        __hash__ = None  # type: ignore[assignment]

    return Like()


def test_finalists_are_repeated_in_turn() -> None:
    """Each gets its first fresh seed before any gets its second, the best one first."""
    asked = config(trials=3, repeats=2, finalists=2)
    trials = [trial(0, 32, 0.7), trial(1, 64, 0.9), trial(2, 96, 0.5)]
    order = []
    while action := next_action(trials, asked):
        assert isinstance(action, Repeat)
        order.append(action.of.number)
        trials.append(
            trial(len(trials), action.of.schedule.stages[0].image_size, 0.1, role=Role.REPEAT)
        )
    assert order == [1, 0, 1, 0]


def test_finalists_are_those_of_the_exploration_alone() -> None:
    """A repeat that disappoints does not hand its place to another schedule."""
    explored = [trial(0, 32, 0.9), trial(1, 64, 0.8), trial(2, 96, 0.85)]
    asked = config(repeats=3, finalists=1)
    after = [*explored, trial(3, 32, 0.1, role=Role.REPEAT, seed=1)]
    assert next_action(after, asked) == Repeat(trial_like(0))


def test_a_failed_repeat_is_spent() -> None:
    """A schedule that fails under a seed gets no extra one."""
    asked = config(trials=1, repeats=2)
    failed = [trial(n, role=Role.REPEAT, state=State.FAILED, seed=n) for n in (1, 2)]
    assert next_action([trial(0), failed[0]], asked) == Repeat(trial_like(0))
    assert next_action([trial(0), *failed], asked) is None


@pytest.mark.parametrize(
    ("metric", "order"), [(Metric.ACCURACY, [2, 0, 3]), (Metric.LOG_LOSS, [3, 0, 2])]
)
def test_finalists_are_ranked_by_their_mean(metric: Metric, order: list[int]) -> None:
    """One trial stands for each schedule; failed and pruned ones are not in it."""
    explored = [
        trial(0, 32, 0.9, seed=0),
        trial(1, 32, 0.3, seed=1),  # with the one before: 0.6 on average
        trial(2, 64, 0.7),
        trial(3, 96, 0.5),
        trial(4, 128, 0.99, state=State.PRUNED),
        trial(5, 160, 0.99, state=State.FAILED),
    ]
    assert [found.number for found in finalists(explored, metric, 9)] == order
    assert [found.number for found in finalists(explored, metric, 2)] == order[:2]
    assert finalists([], metric, 2) == []


def test_equal_means_are_ranked_by_loss() -> None:
    """As everywhere, the loss decides between equal scores."""
    explored = [trial(0, 32, 0.9, loss=0.4), trial(1, 64, 0.9, loss=0.3)]
    assert finalists(explored, Metric.ACCURACY, 1)[0].number == 1


def test_a_score_that_is_no_number_is_last() -> None:
    """The store gives None for it; that ends no search."""
    explored = [trial(0, 32, None, loss=None), trial(1, 64, 0.1), trial(2, 96, 0.2, loss=None)]
    assert [found.number for found in finalists(explored, Metric.ACCURACY, 3)] == [2, 1, 0]
    assert [found.number for found in finalists(explored, Metric.LOG_LOSS, 3)][-1] == 0


def test_a_fresh_seed_is_the_first_unused_one() -> None:
    """Only trials of that schedule count, whatever came of them."""
    trials = [
        trial(0, 32, seed=5),
        trial(1, 32, seed=6, state=State.FAILED),
        trial(2, 64, seed=7),
        trial(3, 32, seed=8, role=Role.REPEAT),
    ]
    assert fresh_seed(trials, sized(32), 5) == 7
    assert fresh_seed(trials, sized(32), 0) == 0
    assert fresh_seed(trials, sized(96), 5) == 5


def test_to_go_counts_what_runs_and_what_is_to_begin() -> None:
    """At first as if all went well; once exploration is over, exactly."""
    asked = config(trials=3, repeats=2, finalists=2)
    assert to_go([], asked) == 3 + 4
    assert to_go([trial(0, state=State.RUNNING)], asked) == 7
    assert to_go([trial(0), trial(1, 64)], asked) == 1 + 4
    explored = [trial(0), trial(1, 64), trial(2, 96)]
    assert to_go(explored, asked) == 4
    begun = [*explored, trial(3, role=Role.REPEAT, state=State.RUNNING)]
    assert to_go(begun, asked) == 4
    assert to_go([trial(0)], config(trials=1)) == 0


def test_to_go_does_not_wait_for_finalists_that_are_not() -> None:
    """Failed trials and schedules tried twice leave fewer to repeat: the end is 0 to go."""
    asked = config(trials=4, repeats=3, finalists=4)
    explored = [
        trial(0, 32),
        trial(1, 32, seed=1),
        trial(2, 64, state=State.FAILED),
        trial(3, 96, state=State.PRUNED),
    ]
    assert to_go(explored, asked) == 3
    repeats = [trial(4 + n, 32, seed=2 + n, role=Role.REPEAT) for n in range(3)]
    assert to_go([*explored, *repeats], asked) == 0
    assert next_action([*explored, *repeats], asked) is None


def test_to_go_follows_a_changed_mind() -> None:
    """A preset waits for room in the total; a smaller total, more repeats for new finalists."""
    done = [trial(0), trial(1, 64)]
    assert to_go(done, config(trials=2, preset="quick"), [sized(48)]) == 0
    assert to_go(done, config(trials=1)) == 0
    repeated = [*done, trial(2, 32, role=Role.REPEAT, seed=1)]
    assert to_go(repeated, config(trials=2, repeats=1, finalists=1)) == 0
    better = [*repeated, trial(3, 96, 0.9)]
    assert to_go(better, config(trials=3, repeats=1, finalists=1)) == 1


def test_device_time_alone_sets_no_number_of_trials() -> None:
    """What is given still comes first; exploration never ends by itself; a grid does."""
    asked, given = config(trials=None, budget="2h"), [sized(48)]
    assert SearchPolicy(asked).compute == 7200.0
    assert next_action([], asked, given) == RunGiven(sized(48))
    many = [trial(number, 8 + 8 * number) for number in range(99)]
    assert next_action(many, asked) == Explore()
    assert to_go(many, asked) is None
    grid = config(trials=None, budget="2h", strategy="grid", grid="g.toml")
    assert to_go([], grid, given) == 1
    assert next_action([trial(0, 48, role=Role.PRESET)], grid, given) is None


GOOD, BAD = np.ones(300), np.tile([0.0, 0.0, 1.0], 100)


def test_a_beaten_finalist_gets_no_more_seeds() -> None:
    """Once two seeds each tell them apart, only the better one is repeated to the end."""
    asked = config(trials=2, repeats=4, finalists=2)
    trials = [trial(0, 32, 0.9), trial(1, 64, 0.8)]
    trials += [trial(2 + n, 32 + 32 * (n % 2), role=Role.REPEAT, seed=1 + n // 2) for n in range(4)]
    policy, undecided = SearchPolicy(asked), standing(trials)
    assert policy.to_go(undecided) == 4
    raced = standing(trials, {sized(32).digest: [BAD, BAD], sized(64).digest: [GOOD, GOOD]})
    assert policy.next_action(raced) == Repeat(trial_like(1))
    assert policy.to_go(raced) == 2


def test_seeds_policy_counts_every_seed_that_did_not_fail() -> None:
    """`repeat` tops up to so many seeds, of whatever role; other schedules are none of it."""
    policy = SeedsPolicy(trial(0), 3)
    assert policy.compute is None
    trials = [trial(0), trial(1, 64), trial(2, role=Role.REPEAT, seed=1, state=State.FAILED)]
    assert policy.next_action(standing(trials)) == Repeat(trial_like(0))
    assert policy.to_go(standing(trials)) == 2
    trials.append(trial(3, role=Role.REPEAT, seed=2, state=State.RUNNING))
    assert policy.to_go(standing(trials)) == 2
    trials.append(trial(4, role=Role.REPEAT, seed=3))
    assert policy.next_action(standing(trials)) is None
    assert policy.to_go(standing(trials)) == 1


def test_a_seed_that_halving_stopped_is_still_to_be_trained() -> None:
    """Else the mean over seeds would leave out the weak ones."""
    policy = SeedsPolicy(trial(0), 2)
    trials = [trial(0), trial(1, seed=1, state=State.PRUNED)]
    assert policy.next_action(standing(trials)) == Repeat(trial_like(0))


@pytest.mark.parametrize("strategy", ["tree", "asha", "independent"])
def test_only_suggestions_are_halved(strategy: str) -> None:
    """Given, free and repeated trials always go on; without halving, all do."""
    asked = config(strategy=strategy)
    halved = {role for role in Role if is_halved(trial(0, role=role), asked)}
    assert halved == (set() if strategy == "independent" else {Role.EXPLORE, Role.BRANCH})


@pytest.mark.parametrize(("strategy", "free_every"), [("tree", 2), ("asha", 2), ("independent", 2)])
def test_only_the_tree_frees_suggestions(strategy: str, free_every: int) -> None:
    """Each so many suggestions one is free; given trials and repeats do not count as such."""
    asked = load_config(
        {"strategy": strategy, "halving": {"free_every": free_every}, "budget": {"trials": 9}}
    )
    begun = [trial(0, role=Role.PRESET), trial(1)]
    assert next_action(begun[:1], asked) == Explore()
    assert next_action(begun, asked) == Explore(free=strategy == "tree")
    assert next_action([*begun, trial(2, role=Role.FREE)], asked) == Explore()


TREE = {
    "strategy": "tree",
    "budget": {"trials": 99},
    "halving": {"free_every": 99},
    "space": {
        "backbone": ["net"],
        "image_size": [32, 64],
        "batch_size": [8],
        "n_stages": [1, 2, 3],
        "stages": [{"image_size": [32], "lrs": [n / 1000 for n in range(1, 13)]}],
    },
}


PLAIN = schedule(stage(32), stage(32)).to_json()


def grown(*scores: float, position: int = 0) -> Standing:
    """Make trials that each begin in their own way, all trained up to the stage at `position`."""
    tree = StageTree()
    begun = schedule(*[stage(32)] * (position + 1)).to_json()
    trials = [
        Trial(**{**vars(trial(number, 32, score)), "schedule_json": begun})
        for number, score in enumerate(scores)
    ]
    for each in trials:
        for at in range(position + 1):
            tree.enter(each, at, f"{each.number}-{at}")
            tree.finish(f"{each.number}-{at}", (-(each.score or 0), 1.0))
    return Standing(trials, tree, {})


def longer(of: Trial) -> Trial:
    """Return a trial with more stages, whose stage runs a branch of it would use."""
    return replace(of, schedule_json=schedule(*[stage(32)] * 3).to_json())


def test_probes_are_no_rungs() -> None:
    """However weak its probe, a trial goes on, and no probe's rank makes anybody branch."""
    asked = load_config(settings_of(strategy="tree", trials=9))
    tree, trials = StageTree(), []
    for number in range(6):
        of = Schedule(
            backbone="net",
            hidden=(),
            stages=(Stage(image_size=32 + number, train=Train.PROBE), stage(64)),
        )
        trials.append(Trial(**{**vars(trial(number, 32, 0.5)), "schedule_json": of.to_json()}))
        tree.enter(trials[-1], 0, f"{number}")
        tree.finish(f"{number}", (-number / 10, 1.0))
    assert tree.reached(0) == []
    assert all(may_enter(each, 1, "next", tree, asked) for each in trials)
    assert SearchPolicy(asked).next_action(Standing(trials, tree, {})) == Explore(free=False)
    # Nor does another trial's stage at the same place, better than all of them, stop anybody.
    tree.enter(Trial(**{**vars(trials[0]), "number": 9, "schedule_json": PLAIN}), 0, "plain")
    tree.finish("plain", (-1.0, 0.1))
    assert [node.key for node in tree.reached(0)] == ["plain"]
    assert all(may_enter(each, 1, "next", tree, asked) for each in trials)


def test_the_best_third_of_beginnings_is_gone_on_with() -> None:
    """With too few there is none; then the best gets both its children before the next gets any."""
    policy = SearchPolicy(load_config(TREE))
    assert policy.next_action(grown(0.9, 0.8)) == Explore()
    now = grown(0.1, 0.9, 0.2, 0.8, 0.3, 0.4)
    assert policy.next_action(now) == Branch(trial_like(1), 1, 2)
    for child in range(PLACE_WORTH):
        assert policy.next_action(now) == Branch(trial_like(1), 1, 2 + child % 2)
        now.tree.enter(longer(now.trials[1]), 1, f"child {child}")
    assert policy.next_action(now) == Branch(trial_like(3), 1, 2)


def test_the_deeper_of_equally_new_beginnings_comes_first() -> None:
    """A promising second stage is gone on with at once, with what is left of the stages."""
    now = grown(0.1, 0.9, 0.2, position=1)
    assert SearchPolicy(load_config(TREE)).next_action(now) == Branch(trial_like(1), 2, 3)


def test_each_child_of_a_beginning_has_another_length_in_turn() -> None:
    """A second branch is longer than the first; known beginnings leave nothing new to ask for."""
    asked = load_config(TREE | {"space": TREE["space"] | {"stages": [{"image_size": [32]}]}})
    now = grown(0.1, 0.9, 0.2)
    assert SearchPolicy(asked).next_action(now) == Branch(trial_like(1), 1, 2)
    now.tree.enter(longer(now.trials[1]), 1, "child")
    assert SearchPolicy(asked).next_action(now) == Branch(trial_like(1), 1, 3)
    now.tree.enter(longer(now.trials[1]), 1, "another")
    assert SearchPolicy(asked).next_action(now) == Explore()


def test_only_suggestions_under_the_common_seed_are_gone_on_from() -> None:
    """What only the user gave has no parameters to go on from, however good it is."""
    now = grown(0.1, 0.9, 0.2)
    given = [Trial(**{**vars(each), "role": Role.PRESET}) for each in now.trials]
    policy = SearchPolicy(load_config(TREE))
    assert policy.next_action(Standing(given, now.tree, {})) == Explore()
    seeded = SearchPolicy(load_config(TREE | {"seeds": {"first": 1}}))
    assert seeded.next_action(now) == Explore()


def test_another_grid_on_the_same_study_is_run_too() -> None:
    """Schedules of a new file are trained, whatever the study has explored before."""
    asked = config(strategy="grid", grid="g.toml")
    done = [trial(0, 32, role=Role.PRESET), trial(1, 64)]
    assert next_action(done, asked, [sized(96), sized(128)]) == RunGiven(sized(96))
