"""What comes next: what was given, exploration up to the total, then the finalists' seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from storage.records import Role, State, Trial
from study.config.loading import load_config, settings_of
from study.config.schema import StudyConfig
from study.events import Outlook
from study.searching.policy import (
    Action,
    Begin,
    Explorer,
    GoOn,
    Halving,
    Independent,
    SearchPolicy,
    SeedsPolicy,
    Standing,
    Stop,
    Verdict,
    finalists,
    fresh_seed,
)
from study.stage_tree import Node, StageTree, Trained
from study.statistics.significance import Gains
from tests.lab import schedule, stage, trial_of
from trainers.metrics import Metric
from trainers.schedule import Schedule, Stage, Train

SUGGESTED = schedule(stage(4096))
"""What the sampler always suggests."""


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
    return trial_of(sized(size), number, seed=seed, role=role, state=state, score=score, loss=loss)


def sized(size: int) -> Schedule:
    """Make the schedule that is known by an image size."""
    return schedule(stage(size))


def config(**settings: Any) -> StudyConfig:
    """Make a config of the command line's flags."""
    return load_config(settings_of(**({"trials": 3, "strategy": "independent"} | settings)))


def standing(
    trials: Sequence[Trial],
    outcomes: Mapping[str, Sequence[Gains]] = {},
    waiting: Sequence[int] = (),
) -> Standing:
    """Make what has been run, without a tree."""
    return Standing(trials, StageTree(), outcomes, waiting, lambda: SUGGESTED)


def policy(
    asked: StudyConfig, given: Sequence[Schedule] = (), explorer: Explorer | None = None
) -> SearchPolicy:
    """Make what decides in a search."""
    return SearchPolicy(asked, explorer or Independent(asked), given)


def next_action(
    trials: Sequence[Trial], asked: StudyConfig, given: Sequence[Schedule] = ()
) -> Action | None:
    """Say what a search does next."""
    return policy(asked, given).next_action(standing(trials))


def to_go(
    trials: Sequence[Trial], asked: StudyConfig, given: Sequence[Schedule] = ()
) -> int | None:
    """Count what is still to end in a search."""
    return policy(asked, given).to_go(standing(trials))


def given_one(size: int, seed: int = 0) -> Begin:
    """Begin what was given."""
    return Begin(sized(size), seed, Role.PRESET)


def suggested(seed: int = 0) -> Begin:
    """Begin what the sampler suggests."""
    return Begin(SUGGESTED, seed, Role.EXPLORE)


def repeat(size: int, seed: int) -> Begin:
    """Begin a finalist under a fresh seed."""
    return Begin(sized(size), seed, Role.REPEAT)


def test_the_preset_comes_first_and_once() -> None:
    """It counts in the total; whatever came of it, it is not tried again."""
    asked, given = config(preset="quick", trials=2), [sized(48)]
    assert next_action([], asked, given) == given_one(48)
    for state in State:
        done = [trial(0, 48, role=Role.PRESET, state=state)]
        assert next_action(done, asked, given) == suggested()
    assert next_action([trial(0, 48, role=Role.PRESET), trial(1)], asked, given) is None


def test_a_suggestion_is_not_taken_for_what_was_given() -> None:
    """Should the sampler have come upon the same schedule, the user's gets another seed."""
    assert next_action([trial(0, 48)], config(), [sized(48)]) == given_one(48, seed=1)


def test_a_suggestion_that_was_run_becomes_a_seed() -> None:
    """Whatever came of it: no trial is the same as another one."""
    same = replace(trial(0), schedule_json=SUGGESTED.to_json())
    assert next_action([same], config()) == suggested(seed=1)
    failed = replace(same, number=1, seed=1, state=State.FAILED)
    assert next_action([same, failed], config()) == suggested(seed=2)
    assert next_action([], config(seed=7)) == suggested(seed=7)


def test_a_grid_is_run_in_its_order_and_no_further() -> None:
    """Its length is the total; a schedule listed twice is run twice, one that failed once."""
    asked, given = (
        config(strategy="grid", grid="g.toml", trials=9),
        [sized(n) for n in (64, 32, 64)],
    )
    trials: list[Trial] = []
    assert to_go(trials, asked, given) == 3
    for number, (size, seed) in enumerate(((64, 0), (32, 0), (64, 1))):
        assert next_action(trials, asked, given) == given_one(size, seed)
        trials.append(trial(number, size, role=Role.PRESET, state=State.FAILED, seed=seed))
    assert next_action(trials, asked, given) is None
    assert to_go(trials, asked, given) == 0


def test_another_grid_on_the_same_study_is_run_too() -> None:
    """Schedules of a new file are trained, whatever the study has explored before."""
    asked = config(strategy="grid", grid="g.toml")
    done = [trial(0, 32, role=Role.PRESET), trial(1, 64)]
    assert next_action(done, asked, [sized(96), sized(128)]) == given_one(96)


def test_exploration_goes_on_up_to_the_total() -> None:
    """Running, failed and pruned trials count as spent, repeats do not."""
    done = [trial(0, state=State.FAILED), trial(1, state=State.PRUNED)]
    assert next_action(done, config()) == suggested()
    assert next_action([*done, trial(2, role=Role.REPEAT)], config()) == suggested()
    assert next_action([*done, trial(2, state=State.RUNNING)], config()) is None
    assert next_action([*done, trial(2)], config()) is None
    assert next_action([*done, trial(2)], config(trials=4)) == suggested()


def test_no_repeat_begins_while_exploration_runs() -> None:
    """The finalists are not known before the last of it has ended."""
    asked = config(trials=2, repeats=1)
    assert next_action([trial(0), trial(1, state=State.RUNNING)], asked) is None
    assert next_action([trial(0), trial(1, 64)], asked) == repeat(32, 1)


def test_finalists_are_repeated_in_turn() -> None:
    """Each gets its first fresh seed before any gets its second, the best one first."""
    asked = config(trials=3, repeats=2, finalists=2)
    trials = [trial(0, 32, 0.7), trial(1, 64, 0.9), trial(2, 96, 0.5)]
    order = []
    while action := next_action(trials, asked):
        assert isinstance(action, Begin)
        size = action.schedule.stages[0].image_size
        order.append((size, action.seed))
        trials.append(trial(len(trials), size, 0.1, role=Role.REPEAT, seed=action.seed))
    assert order == [(64, 1), (32, 1), (64, 2), (32, 2)]


def test_finalists_are_those_of_the_exploration_alone() -> None:
    """A repeat that disappoints does not hand its place to another schedule."""
    explored = [trial(0, 32, 0.9), trial(1, 64, 0.8), trial(2, 96, 0.85)]
    asked = config(repeats=3, finalists=1)
    after = [*explored, trial(3, 32, 0.1, role=Role.REPEAT, seed=1)]
    assert next_action(after, asked) == repeat(32, 2)


def test_a_failed_repeat_is_spent() -> None:
    """A schedule that fails under a seed gets no extra one."""
    asked = config(trials=1, repeats=2)
    failed = [trial(n, role=Role.REPEAT, state=State.FAILED, seed=n) for n in (1, 2)]
    assert next_action([trial(0), failed[0]], asked) == repeat(32, 2)
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
    assert policy(asked).compute == 7200.0
    assert next_action([], asked, given) == given_one(48)
    many = [trial(number, 8 + 8 * number) for number in range(99)]
    assert next_action(many, asked) == suggested()
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
    assert policy(asked).to_go(standing(trials)) == 4
    raced = standing(trials, {sized(32).digest: [BAD, BAD], sized(64).digest: [GOOD, GOOD]})
    assert policy(asked).next_action(raced) == repeat(64, 3)
    assert policy(asked).to_go(raced) == 2


def in_a_race(name: str) -> tuple[Trial, Standing]:
    """Make a repeat and what is known as it trains: both finalists were raced under a seed."""
    trials = [trial(0, 32, 0.9), trial(1, 64, 0.8), trial(2, 96, 0.1)]
    trials += [trial(3, 32, role=Role.REPEAT, seed=1), trial(4, 64, role=Role.REPEAT, seed=1)]
    known = standing(trials, {sized(32).digest: [GOOD], sized(64).digest: [BAD]})
    first = {size.digest: [gained[:120]] for size, gained in ((sized(32), GOOD), (sized(64), BAD))}
    return trial(5, int(name), role=Role.REPEAT, seed=2), replace(known, on_first=first)


def test_a_repeat_may_lose_its_race_on_first_folds() -> None:
    """From its second seed on, as long as another races; not in `repeat`, nor exploring."""
    asked = config(trials=3, repeats=3, finalists=2)
    repeated, known = in_a_race("64")
    race = policy(asked).race(repeated, known)
    assert race is not None
    assert (race.name, race.schedules, race.rounds) == (sized(64).digest, 2, 3)
    assert race.gains == known.on_first
    assert SeedsPolicy(trial(0), 3, asked).race(repeated, known) is None
    assert policy(asked).race(replace(repeated, role=Role.EXPLORE), known) is None
    assert policy(asked).race(*in_a_race("96")) is None
    assert policy(config(trials=3, repeats=1, finalists=2)).race(repeated, known) is None
    assert policy(asked).race(repeated, replace(known, stopped={sized(32).digest: 2})) is None
    one = {sized(64).digest: [BAD]}
    assert policy(asked).race(repeated, replace(known, on_first=one)) is None


def test_who_lost_on_first_folds_gets_no_more_seeds() -> None:
    """Nor is one still to go; the other goes on to its end."""
    asked = config(trials=3, repeats=3, finalists=2)
    _, known = in_a_race("64")
    lost = trial(5, 64, role=Role.REPEAT, seed=2, state=State.PRUNED)
    after = replace(known, trials=[*known.trials, lost], stopped={sized(64).digest: 2})
    assert policy(asked).next_action(after) == repeat(32, 2)
    assert policy(asked).to_go(after) == 2


def test_a_repeat_is_trained_though_its_seed_was_stopped() -> None:
    """Without a finalist's weak seeds its mean would flatter."""
    asked = config(trials=2, repeats=1)
    trials = [trial(0), trial(1, seed=1, state=State.PRUNED)]
    assert next_action(trials, asked) == repeat(32, 1)


def test_seeds_policy_counts_every_seed_that_did_not_fail() -> None:
    """`repeat` tops up to so many seeds, of whatever role; other schedules are none of it."""
    seeds = SeedsPolicy(trial(0), 3, config())
    assert seeds.compute is None
    trials = [trial(0), trial(1, 64), trial(2, role=Role.REPEAT, seed=1, state=State.FAILED)]
    assert seeds.next_action(standing(trials)) == repeat(32, 2)
    assert seeds.to_go(standing(trials)) == 2
    trials.append(trial(3, role=Role.REPEAT, seed=2, state=State.RUNNING))
    assert seeds.to_go(standing(trials)) == 2
    trials.append(trial(4, role=Role.REPEAT, seed=3))
    assert seeds.next_action(standing(trials)) is None
    assert seeds.to_go(standing(trials)) == 1


def test_a_seed_that_was_stopped_is_still_to_be_trained() -> None:
    """Else the mean over seeds would leave out the weak ones."""
    seeds = SeedsPolicy(trial(0), 2, config())
    trials = [trial(0), trial(1, seed=1, state=State.PRUNED)]
    assert seeds.next_action(standing(trials)) == repeat(32, 1)


def test_seeds_that_were_asked_for_are_trained_to_their_end() -> None:
    """However weak, and whatever the search that they come from would expect of more."""
    seeds = SeedsPolicy(trial(0), 2, config(strategy="forecast", until_flat=True))
    after = reaching(0.9, 0.1)
    assert seeds.between_stages(trial(0), [*after.tree][-1], after) is Verdict.GO_ON
    assert seeds.outlook(after) is None
    assert not seeds.is_flat(after)


@dataclass
class Scripted:
    """An explorer that says what it is told to, and notes what it was asked."""

    answer: Action | None = None
    expected: Outlook | None = None
    asked: list[tuple[Sequence[Schedule], bool]] = field(default_factory=list)

    def next_action(
        self,
        standing: Standing,  # noqa: ARG002
        given: Sequence[Schedule],
        *,
        may_begin: bool,
    ) -> Action | None:
        """Note it."""
        self.asked.append((given, may_begin))
        return self.answer

    def between_stages(self, after: Node, standing: Standing) -> Verdict:  # noqa: ARG002
        """Have all wait."""
        return Verdict.WAIT

    def outlook(self, standing: Standing) -> Outlook | None:  # noqa: ARG002
        """Expect what was said."""
        return self.expected


def test_an_explorer_is_told_what_is_left_and_whether_it_may_begin() -> None:
    """Once all trials were begun it is asked on, for trials may wait between two stages."""
    asked, given = config(trials=2), [sized(48), sized(64)]
    explorer = Scripted()
    search = policy(asked, given, explorer)
    search.next_action(standing([]))
    search.next_action(standing([trial(0, 48, role=Role.PRESET)]))
    search.next_action(standing([trial(0, 48, role=Role.PRESET), trial(1, state=State.RUNNING)]))
    assert explorer.asked == [(given, True), (given[1:], True), (given[1:], False)]


def test_races_wait_for_the_trials_that_wait() -> None:
    """A trial between two stages is gone on with or ended before any finalist is repeated."""
    asked = config(trials=2, repeats=1)
    waiting = standing([trial(0), trial(1, 64, state=State.RUNNING)], waiting=[1])
    for answer in (GoOn(1), Stop(1), None):
        assert policy(asked, (), Scripted(answer)).next_action(waiting) == answer
    ended = standing([trial(0), trial(1, 64, state=State.PRUNED)])
    assert policy(asked, (), Scripted()).next_action(ended) == repeat(32, 1)


@pytest.mark.parametrize("until_flat", [True, False])
def test_where_little_is_expected_nothing_begins(until_flat: bool) -> None:
    """If that was asked for; what was begun is brought to its end, and finalists are repeated."""
    asked = config(strategy="forecast", trials=9, until_flat=until_flat, repeats=1)
    outlook = Outlook(0.9, 0.8, 1.0, gain=0.01, flat=True)
    explorer = Scripted(expected=outlook)
    search = policy(asked, (), explorer)
    assert search.is_flat(standing([])) == until_flat
    assert search.next_action(standing([trial(0)])) == repeat(32, 1)
    assert explorer.asked == [([], not until_flat)]
    for expected in (None, replace(outlook, flat=False)):
        assert not policy(asked, (), Scripted(expected=expected)).is_flat(standing([]))


def test_only_what_an_explorer_began_itself_is_its_own() -> None:
    """What was given and what is repeated goes on at once, and so does all after a probe."""
    search = policy(config(), (), Scripted())
    after = reaching(0.5)
    (node,) = after.tree
    waiting = {
        role
        for role in Role
        if search.between_stages(trial(0, role=role), node, after) is Verdict.WAIT
    }
    assert waiting == {Role.EXPLORE}
    probed = probing(0.1)
    assert search.between_stages(trial(0), next(iter(probed.tree)), probed) is Verdict.GO_ON


def two_stages(number: int, first: Stage) -> Trial:
    """Make a trial that begins in its own way."""
    of = Schedule(backbone="net", hidden=(), stages=(first, stage(512)))
    return replace(trial(number), schedule_json=of.to_json())


def reaching(*scores: float) -> Standing:
    """Make trials that begin each in their own way, all trained up to the same boundary."""
    return _reaching(scores, [stage(32 + number) for number in range(len(scores))])


def probing(*scores: float) -> Standing:
    """Make such trials that begin with probes."""
    probes = [Stage(image_size=32 + n, train=Train.PROBE) for n in range(len(scores))]
    return _reaching(scores, probes)


def _reaching(scores: Sequence[float], stages: Sequence[Stage]) -> Standing:
    tree, trials = StageTree(), []
    for number, (score, first) in enumerate(zip(scores, stages, strict=True)):
        trials.append(two_stages(number, first))
        tree.enter(trials[-1], 0, f"{number}")
        tree.finish(f"{number}", Trained((-score, 1.0), 0.5, 1.0))
    return Standing(trials, tree, {})


def going_on(after: Standing, eta: int = 3) -> list[int]:
    """Return the trials that halving lets on from their first stages."""
    asked = config(strategy="asha", eta=eta)
    search = policy(asked, (), Halving(asked))
    verdicts = [
        search.between_stages(of, node, after)
        for of, node in zip(after.trials, after.tree, strict=True)
    ]
    assert set(verdicts) <= {Verdict.GO_ON, Verdict.STOP}
    return [number for number, verdict in enumerate(verdicts) if verdict is Verdict.GO_ON]


@pytest.mark.parametrize(("size", "going"), [(1, 1), (2, 1), (5, 1), (6, 2), (8, 2), (9, 3)])
def test_the_best_third_goes_on(size: int, going: int) -> None:
    """Of those that came as far, rounded down, but always the best: so the first to come does."""
    rising = reaching(*(number / 10 for number in range(size)))
    assert going_on(rising) == [*range(size - going, size)]


def test_eta_says_how_many_go_on() -> None:
    """A half goes on with eta 2, a quarter with eta 4."""
    after = reaching(0.4, 0.5, 0.6, 0.7)
    assert going_on(after, 2) == [2, 3]
    assert going_on(after, 4) == [3]


def test_equal_ranks_go_on_together() -> None:
    """Only the better ones take places; the loss decides between equal scores."""
    equal = reaching(0.5, 0.5, 0.5)
    assert going_on(equal) == [0, 1, 2]
    equal.tree.finish("1", Trained((-0.5, 0.9), 0.5, 1.0))
    assert going_on(equal) == [1]


def test_each_is_compared_with_those_before_it() -> None:
    """Asynchronously: in a row that improves, each goes on as it comes, the first one as well."""
    asked = config(strategy="asha")
    for count in range(1, 5):
        after = reaching(*(0.1 * number for number in range(count)))
        assert Halving(asked).between_stages([*after.tree][-1], after) is Verdict.GO_ON


def test_what_was_beaten_on_its_first_folds_was_reached() -> None:
    """Without the weak ones that were stopped, a rung would be higher."""
    rising, halving = reaching(0.7, 0.8, 0.9), Halving(config(strategy="asha"))
    weak, good, _ = rising.tree
    assert halving.between_stages(good, rising) is Verdict.STOP
    for number in range(3):
        rising.tree.enter(two_stages(9 + number, stage(512 + number)), 0, f"stopped {number}")
        rising.tree.stop(f"stopped {number}", Metric.ACCURACY, 0.1, 2.0, 1.0)
    assert halving.between_stages(good, rising) is Verdict.GO_ON
    assert halving.between_stages(weak, rising) is Verdict.STOP


def test_probes_are_no_rungs() -> None:
    """However weak its probe, a trial goes on, and none is compared with what a probe reached."""
    probed = probing(*(number / 10 for number in range(6)))
    assert probed.tree.reached(0) == []
    assert going_on(probed) == [*range(6)]
    # Nor does another trial's stage at the same place, better than all of them, stop anybody.
    plain = two_stages(9, stage(32))
    probed.tree.enter(plain, 0, "plain")
    probed.tree.finish("plain", Trained((-1.0, 0.1), 0.1, 1.0))
    assert [node.key for node in probed.tree.reached(0)] == ["plain"]
    assert going_on(Standing([*probed.trials, plain], probed.tree, {})) == [*range(7)]


def test_without_halving_all_go_on() -> None:
    """Under strategies independent and grid no trials are compared."""
    after, asked = reaching(0.9, 0.1, 0.5), config()
    for of, node in zip(after.trials, after.tree, strict=True):
        assert policy(asked).between_stages(of, node, after) is Verdict.GO_ON
    assert policy(asked).outlook(after) is None
