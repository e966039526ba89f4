"""Whole searches in the head: whatever is suggested, comes out, fails or is killed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from storage.records import Role, State
from study.config.loading import load_config
from study.config.schema import Strategy, StudyConfig
from study.config.space import Space, StageChoices
from study.searching.policy import Begin, GoOn, Stop
from tests.examples import examples
from tests.imagined import ImaginedSearch
from trainers.schedule import Schedule, Stage

Event = tuple[int, float | None, bool]
"""Which of the stage runs in training ends, by what score or a failure, and is that the end?"""

EXAMPLES = {Strategy.FORECAST: 25, Strategy.ASHA: 50, Strategy.INDEPENDENT: 30}
TRIALS = {Strategy.FORECAST: 7, Strategy.ASHA: 25, Strategy.INDEPENDENT: 12}
"""A forecast takes its time."""

PHASES = {strategy: set(Phase) for strategy in EXAMPLES}
PHASES[Strategy.FORECAST] -= {Phase.shrink, Phase.explain}

ENOUGH = 500
"""So many events end any of these searches."""

SPACES = st.builds(
    lambda n_stages, first: Space(
        backbone=("net",),
        hidden=((),),
        n_stages=n_stages,
        image_size=(32, 64),
        batch_size=(8,),
        lrs=(1e-3, 1e-2),
        stages=(StageChoices(**{"image_size": (32,)} | first),),
    ),
    st.sampled_from([(1,), (2,), (2, 3), (1, 2, 3)]),
    st.sampled_from(
        [
            {"lrs": (1e-3,)},
            {"lrs": tuple(rate / 100 for rate in range(1, 9))},
            {"train": ("probe", "network")},
            {"train": ("probe",), "image_size": (32, 64)},
        ]
    ),
)
SCORES = st.integers(0, 8).map(lambda eighths: eighths / 8)
EVENTS = st.lists(st.tuples(st.integers(0, 3), st.none() | SCORES, st.booleans()), max_size=30)
GIVEN = st.lists(st.sampled_from([32, 48]), max_size=2)
"""The user's own schedules lie inside the space or outside of it; one may be there twice."""


def configs(strategy: Strategy) -> st.SearchStrategy[StudyConfig]:
    """Draw settings of small searches."""
    sections = {
        "space": SPACES.map(lambda space: space.model_dump(exclude_none=True)),
        "strategy": st.just(strategy),
        "budget": st.fixed_dictionaries({"trials": st.integers(1, TRIALS[strategy])}),
        "seeds": st.fixed_dictionaries(
            {
                "first": st.integers(0, 2),
                "repeats": st.integers(0, 3),
                "finalists": st.integers(1, 3),
            }
        ),
        "halving": st.fixed_dictionaries({"eta": st.integers(2, 4)}),
    }
    return st.fixed_dictionaries(sections).map(load_config)


def sized(size: int) -> Schedule:
    """Make a schedule of two stages of that size."""
    stages = (Stage(image_size=size, batch_size=8, lrs=1e-3),) * 2
    return Schedule(backbone="net", hidden=(), weights="random", stages=stages)


def played(search: ImaginedSearch, events: Sequence[Event]) -> Iterator[ImaginedSearch]:
    """Let these events come, then let all that is left come out well; yield it at each step."""
    yield search
    for place, score, killed in chain(events, ((0, 0.5, False) for _ in range(ENOUGH))):
        if not search.training:
            break
        keys = sorted(search.training)
        search.end(keys[place % len(keys)], score, killed=killed)
        yield search
    assert not search.training


def check(search: ImaginedSearch) -> None:
    """Check what holds at any moment."""
    check_trials(search)
    check_tree(search)
    check_budget(search)


def check_trials(search: ImaginedSearch) -> None:
    """None is lost, none is stopped that may not be, and ended ones went as far as they say."""
    lists = search.training.values()
    assert sorted([*search.waiting, *chain(*lists)]) == [t.number for t in search.running]
    for trial in search.trials:
        entered = search.tree.has_entered(trial.number, len(trial.schedule.stages) - 1)
        if trial.number in search.waiting:
            assert search.config.strategy is Strategy.FORECAST
            assert search.tree.last_trained(trial.number) is not None
        if trial.number in search.waiting or trial.state is State.PRUNED:
            assert trial.role is Role.EXPLORE
            assert not entered
        assert entered or trial.state is not State.COMPLETE


def check_tree(search: ImaginedSearch) -> None:
    """Each key is trained once, after its parent, which has the same seed and one stage less."""
    assert set(search.completed.values()) <= {1}
    assert not search.completed.keys() & search.training.keys()
    seen: set[str] = set()
    for node in search.tree:
        seen.add(node.key)
        if node.parent is None:
            assert node in search.tree.roots
            assert node.position == 0
            continue
        assert node.parent.key in seen
        assert node in node.parent.children
        assert node.parent.trained
        assert (node.parent.seed, node.parent.position) == (node.seed, node.position - 1)
        assert node.parent.prefix == node.prefix.prefixes()[node.position - 1]
        assert set(node.trials) <= set(node.parent.trials)


def check_budget(search: ImaginedSearch) -> None:
    """No trial is too many or the same as another one; repeats come last, in turn, and no more."""
    seeds, exploring = search.config.seeds, search.exploring
    assert len(exploring) <= search.config.budget.trials
    assert search.trials[: len(exploring)] == exploring
    # A repeat may train what was stopped: without its weak seeds a mean would flatter.
    whole = [t for t in search.trials if t.state is not State.PRUNED]
    for some in (exploring, whole):
        assert len({(trial.schedule_digest, trial.seed) for trial in some}) == len(some)
    repeats = Counter(t.schedule_digest for t in search.trials if t.role is Role.REPEAT)
    assert not repeats or not any(trial.state is State.RUNNING for trial in exploring)
    if repeats:
        complete = {t.schedule_digest for t in exploring if t.state is State.COMPLETE}
        counts = [repeats[digest] for digest in complete if repeats[digest]]
        racing = min(seeds.finalists, len(complete))
        counts += [0] * (racing - len(counts))
        assert len(counts) == racing
        assert max(counts) <= min(counts) + 1 <= seeds.repeats + 1


@pytest.mark.parametrize("strategy", EXAMPLES)
def test_the_plan_is_kept_at_every_step(strategy: Strategy) -> None:
    """Stage runs end, fail and are killed in any order; in the end all was trained and it knows."""

    @settings(deadline=None, max_examples=examples(EXAMPLES[strategy]), phases=PHASES[strategy])
    @given(configs(strategy), GIVEN, st.integers(1, 4), EVENTS)
    def keeps(config: StudyConfig, sizes: list[int], slots: int, events: list[Event]) -> None:
        search = ImaginedSearch(config, [sized(size) for size in sizes], slots=slots)
        for now in played(search, events):
            check(now)
            assert now.to_go >= len(now.running)
        assert not search.running
        assert len(search.exploring) == config.budget.trials
        assert search.to_go == 0
        assert search.policy.next_action(search.standing) is None
        presets = [trial.schedule for trial in search.trials if trial.role is Role.PRESET]
        assert presets == [sized(size) for size in sizes][: config.budget.trials]
        check_waits(search)

    keeps()


def check_waits(search: ImaginedSearch) -> None:
    """Whatever waited was gone on with, or stopped once, after nothing could begin any more."""
    stopped = [action.number for action in search.decisions if isinstance(action, Stop)]
    assert len(stopped) == len(set(stopped))
    if search.config.strategy is Strategy.FORECAST:
        pruned = [t.number for t in search.trials if t.state is State.PRUNED]
        assert sorted(stopped) == pruned
        whole = {t.number for t in search.trials if len(t.schedule.stages) > 1}
        assert {a.number for a in search.decisions if isinstance(a, GoOn)} <= whole
    else:
        assert all(isinstance(action, Begin) for action in search.decisions)


@pytest.mark.parametrize("strategy", EXAMPLES)
def test_killed_at_any_event_it_decides_the_same(strategy: Strategy) -> None:
    """Policy and tree, built anew from rows alone, lead to what they would have led to unkilled.

    Up to the notes: what was forecast is the same to the last bit.
    """

    @settings(deadline=None, max_examples=examples(EXAMPLES[strategy]), phases=PHASES[strategy])
    @given(configs(strategy), GIVEN, st.integers(1, 4), EVENTS)
    def decides(config: StudyConfig, sizes: list[int], slots: int, events: list[Event]) -> None:
        given_first = [sized(size) for size in sizes]
        calm = [(place, score, False) for place, score, _ in events]
        searches = [ImaginedSearch(config, given_first, slots=slots) for _ in range(2)]
        for search, those in zip(searches, (calm, events), strict=True):
            for _ in played(search, those):
                pass
        first, second = searches
        assert second.decisions == first.decisions
        assert second.trials == first.trials
        assert second.runs == first.runs

    decides()


MANY: dict[str, Any] = {
    "backbone": ["net"],
    "n_stages": [1, 2, 3],
    "image_size": [32, 64],
    "batch_size": [8],
    "lrs": [rate / 1e4 for rate in range(1, 500)],
}


@pytest.mark.parametrize(
    ("strategy", "slots", "trials"),
    [
        (Strategy.FORECAST, 8, 24),
        pytest.param(Strategy.ASHA, 256, 600, marks=pytest.mark.long),
        (Strategy.INDEPENDENT, 64, 200),
        pytest.param(Strategy.INDEPENDENT, 256, 600, marks=pytest.mark.long),
    ],
)
def test_no_slot_idles_while_trials_may_be_begun(
    strategy: Strategy, slots: int, trials: int
) -> None:
    """Where first stages are many, so that no trial has to wait for what another one trains."""
    config = load_config({"strategy": strategy, "space": MANY, "budget": {"trials": trials}})
    search, full = ImaginedSearch(config, slots=slots), 0
    scores = [(7 * step % 13, (step % 11) / 11, False) for step in range(4 * trials)]
    for now in played(search, scores):
        if len(now.trials) < trials:
            assert len(now.training) >= slots  # more, where trials part that shared a stage
            full += 1
    assert full >= trials // 2
    assert len(search.trials) == trials
