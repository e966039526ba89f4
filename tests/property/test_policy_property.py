"""A whole search in the head: whatever the config and the outcomes, the plan is kept."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from storage.records import Role, State, Trial
from study.config import StudyConfig
from study.policy import (
    Action,
    Branch,
    Explore,
    Repeat,
    RunGiven,
    SearchPolicy,
    Standing,
    fresh_seed,
)
from study.settings import load_config, settings_of
from study.tree import StageTree
from trainers.metrics import Metric
from trainers.schedule import Schedule, Stage

NOW = datetime.now(UTC)
ENDS = st.sampled_from([State.COMPLETE, State.COMPLETE, State.PRUNED, State.FAILED])
CONFIGS = st.builds(
    lambda **flags: load_config(settings_of(strategy="independent", **flags)),
    trials=st.integers(1, 6),
    repeats=st.integers(0, 3),
    finalists=st.integers(1, 4),
    preset=st.sampled_from([None, "quick"]),
    metric=st.sampled_from(list(Metric)),
    seed=st.integers(0, 3),
)


def sized(size: int) -> Schedule:
    """Make the schedule that is known by an image size."""
    return Schedule(backbone="net", stages=(Stage(image_size=size, batch_size=8),))


class Imagined:
    """A search whose suggestions and outcomes are drawn."""

    def __init__(
        self, config: StudyConfig, data: st.DataObject, slots: int, suggest: Callable[[], int]
    ) -> None:
        self.config, self.data, self.slots, self.suggest = config, data, slots, suggest
        self.trials: list[Trial] = []

    @property
    def policy(self) -> SearchPolicy:
        """Give what decides."""
        return SearchPolicy(self.config, [sized(4096)] if self.config.preset else [])

    @property
    def standing(self) -> Standing:
        """Give what has been run; nothing is known of single photos."""
        return Standing(self.trials, StageTree(), {})

    @property
    def to_go(self) -> int:
        """Count the trials that are still to end."""
        return self.policy.to_go(self.standing)

    @property
    def running(self) -> list[Trial]:
        """Give the trials in training."""
        return [trial for trial in self.trials if trial.state is State.RUNNING]

    def fill(self) -> None:
        """Begin trials as long as there are slots and something to begin."""
        while len(self.running) < self.slots:
            action = self.policy.next_action(self.standing)
            if action is None:
                return
            self._begin(action)

    def _begin(self, action: Action) -> None:
        match action:
            case RunGiven(given_schedule):
                schedule, role = given_schedule, Role.PRESET
            case Branch():
                raise AssertionError("an independent search does not branch")
            case Explore(free):
                assert not free
                schedule, role = sized(self.suggest()), Role.EXPLORE
            case Repeat(of):
                assert of.state is State.COMPLETE
                schedule, role = of.schedule, Role.REPEAT
        number = len(self.trials)
        self.trials.append(
            Trial(
                id=number,
                study_id=1,
                number=number,
                schedule_json=schedule.to_json(),
                seed=fresh_seed(self.trials, schedule, self.config.seeds.first),
                role=role,
                state=State.RUNNING,
                started_at=NOW,
            )
        )

    @property
    def ended(self) -> int:
        """Count the trials that are over."""
        return len(self.trials) - len(self.running)

    def end_one(self, state: State) -> None:
        """End one of the running trials."""
        one = self.data.draw(st.sampled_from(self.running))
        number = st.none() | st.floats(0, 1)
        outcome = {"state": state, "score": self.data.draw(number), "loss": self.data.draw(number)}
        self.trials[one.number] = replace(one, **outcome)


@settings(deadline=None, max_examples=200)
@given(CONFIGS, st.data(), st.integers(1, 3), st.sampled_from([2, 1000]))
def test_a_search_ends_as_planned(
    config: StudyConfig, data: st.DataObject, slots: int, variety: int
) -> None:
    """No seed twice, the total kept, repeats fair, and `to_go` never too few."""
    search = Imagined(config, data, slots, lambda: data.draw(st.integers(8, 8 + variety)))
    foretold = []
    search.fill()
    while search.running:
        foretold.append(search.ended + search.to_go)
        search.end_one(data.draw(ENDS))
        search.fill()
    trials = search.trials
    assert search.to_go == 0
    assert all(total >= search.ended for total in foretold)

    exploring = [trial for trial in trials if trial.role is not Role.REPEAT]
    assert len(exploring) == config.budget.trials
    assert trials[: len(exploring)] == exploring
    presets = [trial.number for trial in trials if trial.role is Role.PRESET]
    assert presets == ([0] if config.preset else [])
    assert len({(trial.schedule_digest, trial.seed) for trial in trials}) == len(trials)
    repeats = [trial.schedule_digest for trial in trials if trial.role is Role.REPEAT]
    counts = {digest: repeats.count(digest) for digest in repeats}
    assert set(counts.values()) <= {config.seeds.repeats}
    complete = {t.schedule_digest for t in exploring if t.state is State.COMPLETE}
    wanted = min(config.seeds.finalists, len(complete)) if config.seeds.repeats else 0
    assert len(counts) == wanted


@settings(deadline=None, max_examples=150)
@given(CONFIGS, CONFIGS, st.data(), st.integers(1, 3), st.integers(0, 30))
def test_to_go_is_exact_once_exploration_is_over(
    config: StudyConfig, later: StudyConfig, data: st.DataObject, slots: int, steps: int
) -> None:
    """From any state without an undecided schedule, exactly so many trials are still to end.

    Also if the command is given again with another total, other repeats, or a preset.
    """
    search = Imagined(config, data, slots, lambda: data.draw(st.integers(8, 11)))
    search.fill()
    for _ in range(steps):
        if search.running:
            search.end_one(data.draw(ENDS))
            search.fill()
    search.config = later
    foretold, before = search.to_go, search.ended
    coming = search.policy.next_action(search.standing)
    decided = not isinstance(coming, Explore | RunGiven) and not any(
        trial.role is not Role.REPEAT for trial in search.running
    )
    search.fill()
    while search.running:
        search.end_one(data.draw(ENDS))
        search.fill()
    assert search.ended - before <= foretold
    assert search.ended - before == foretold or not decided


@settings(deadline=None, max_examples=100)
@given(CONFIGS, st.data(), st.integers(1, 3))
def test_to_go_is_exact_from_the_start_if_all_goes_well(
    config: StudyConfig, data: st.DataObject, slots: int
) -> None:
    """If no trial fails and no schedule is suggested twice, ended and to go always add up."""
    sizes = iter(range(8, 4000))
    search = Imagined(config, data, slots, lambda: next(sizes))
    total = search.to_go
    search.fill()
    while search.running:
        assert search.ended + search.to_go == total
        search.end_one(State.COMPLETE)
        search.fill()
    assert search.ended == total
