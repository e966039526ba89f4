"""What a search plans, in the head: whatever the config and the outcomes, it is kept."""

from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from storage.records import Role, State
from study.config.loading import load_config, settings_of
from study.config.schema import StudyConfig
from tests.examples import examples
from tests.imagined import ImaginedSearch
from trainers.schedule import Schedule, Stage

GIVEN = Schedule(backbone="net", weights="random", stages=(Stage(image_size=4096, batch_size=8),))
SCORES = st.none() | st.floats(0, 1)
"""What comes of a trial: a score, or None for a failure."""


def config(rates: int, **flags: Any) -> StudyConfig:
    """Make a config of the command line's flags, over a space of so many schedules."""
    space = {
        "backbone": ["net"],
        "n_stages": [1],
        "image_size": [32],
        "batch_size": [8],
        "lrs": [rate / 1e4 for rate in range(1, rates + 1)],
    }
    return load_config(settings_of(strategy="independent", space=space, **flags))


def configs(*rates: int) -> st.SearchStrategy[StudyConfig]:
    """Draw settings of searches of a few trials."""
    return st.builds(
        config,
        st.sampled_from(rates),
        trials=st.integers(1, 6),
        repeats=st.integers(0, 3),
        finalists=st.integers(1, 4),
        seed=st.integers(0, 3),
    )


CONFIGS = configs(2, 4, 1000)


def ended(search: ImaginedSearch) -> int:
    """Count the trials that are over."""
    return len(search.trials) - len(search.running)


def end_one(search: ImaginedSearch, data: st.DataObject) -> None:
    """End one of the stage runs in training, which are whole trials here."""
    key = data.draw(st.sampled_from(sorted(search.training)))
    search.end(key, data.draw(SCORES))


@settings(deadline=None, max_examples=examples(80))
@given(CONFIGS, st.booleans(), st.data(), st.integers(1, 3))
def test_a_search_ends_as_planned(
    config: StudyConfig, preset: bool, data: st.DataObject, slots: int
) -> None:
    """No seed twice, the total kept, each finalist repeated as often, `to_go` never too few."""
    search = ImaginedSearch(config, [GIVEN] * preset, slots=slots)
    foretold = []
    while search.running:
        foretold.append(ended(search) + search.to_go)
        end_one(search, data)
    trials, exploring = search.trials, search.exploring
    assert search.to_go == 0
    assert all(total >= ended(search) for total in foretold)

    assert len(exploring) == config.budget.trials
    assert trials[: len(exploring)] == exploring
    presets = [trial.number for trial in trials if trial.role is Role.PRESET]
    assert presets == [0] * preset
    assert len({(trial.schedule_digest, trial.seed) for trial in trials}) == len(trials)
    repeats = [trial.schedule_digest for trial in trials if trial.role is Role.REPEAT]
    counts = {digest: repeats.count(digest) for digest in repeats}
    assert set(counts.values()) <= {config.seeds.repeats}
    complete = {t.schedule_digest for t in exploring if t.state is State.COMPLETE}
    wanted = min(config.seeds.finalists, len(complete)) if config.seeds.repeats else 0
    assert len(counts) == wanted


@settings(deadline=None, max_examples=examples(60))
@given(CONFIGS, CONFIGS, st.booleans(), st.data(), st.integers(1, 3), st.integers(0, 30))
def test_to_go_is_exact_once_exploration_is_over(
    config: StudyConfig,
    later: StudyConfig,
    preset: bool,
    data: st.DataObject,
    slots: int,
    steps: int,
) -> None:
    """From any state without an undecided schedule, exactly so many trials are still to end.

    Also if the command is given again with another total, other repeats, or a preset.
    """
    search = ImaginedSearch(config, slots=slots)
    for _ in range(steps):
        if search.running:
            end_one(search, data)
    search.given = [GIVEN] * preset
    search.begin_again(later)
    foretold, before = search.to_go, ended(search)
    explored = len(search.exploring) >= later.budget.trials
    decided = explored and all(trial.role is Role.REPEAT for trial in search.running)
    while search.running:
        end_one(search, data)
    assert ended(search) - before <= foretold
    assert ended(search) - before == foretold or not decided


@settings(deadline=None, max_examples=examples(50))
@given(configs(1000), st.booleans(), st.data(), st.integers(1, 3))
def test_to_go_is_exact_from_the_start_if_all_goes_well(
    config: StudyConfig, preset: bool, data: st.DataObject, slots: int
) -> None:
    """If no trial fails and no schedule is suggested twice, ended and to go always add up."""
    search = ImaginedSearch(config, [GIVEN] * preset, slots=slots)
    totals = [search.to_go]
    while search.running:
        key = data.draw(st.sampled_from(sorted(search.training)))
        search.end(key, data.draw(st.floats(0, 1)))
        totals.append(ended(search) + search.to_go)
    schedules = {trial.schedule_digest for trial in search.exploring}
    assume(len(schedules) == len(search.exploring))
    assert totals == [len(search.trials)] * len(totals)
