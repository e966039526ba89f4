"""What the strategy `forecast` trains next: what promises most for each second still to be paid."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from storage.records import Role, State, Trial
from study.config.loading import load_config
from study.config.schema import StudyConfig
from study.forecast import point_of
from study.searching.forecasting import FEW, Forecasting
from study.searching.policy import Action, Begin, GoOn, Standing, Stop, Verdict
from study.stage_tree import StageTree, Trained
from tests.lab import schedule, stage, trial_of
from trainers.schedule import Schedule

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
SPACE = {
    "backbone": ["net"],
    "n_stages": [1, 2],
    "image_size": [32, 64],
    "batch_size": [8],
    "lrs": list(RATES),
}
NEVER = schedule(stage(512, 5.0))
"""What the sampler suggests: it lies outside the space, far from all."""


def config(**budget: Any) -> StudyConfig:
    """Make settings."""
    return load_config({"space": SPACE, "weights": "random", "budget": budget or {"trials": 99}})


class Imagined:
    """What has been run, grown trial by trial."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []
        self.tree = StageTree()
        self.waiting: list[int] = []
        self.suggestion = NEVER

    def add(
        self,
        of: Schedule,
        *scores: float,
        seed: int = 0,
        seconds: float = 10.0,
        state: State = State.COMPLETE,
    ) -> Trial:
        """Add a trial whose first stages came out with these scores."""
        number = len(self.trials)
        trial = trial_of(of, number, seed=seed, state=state)
        self.trials.append(trial)
        for position, score in enumerate(scores):
            key = f"{hash(of.prefixes()[position])} {seed}"
            self.tree.enter(trial, position, key)
            loss = 2 * (1 - score)
            self.tree.finish(key, Trained((-score, loss), loss, seconds))
        if state is State.RUNNING and len(scores) < len(of.stages):
            self.waiting.append(number)
        return trial

    @property
    def standing(self) -> Standing:
        """Return it for a policy."""
        return Standing(self.trials, self.tree, {}, tuple(self.waiting), lambda: self.suggestion)

    def asked(
        self,
        given: Sequence[Schedule] = (),
        *,
        may_begin: bool = True,
        config: StudyConfig = config(),  # noqa: B008 - nothing changes it
    ) -> Action | None:
        """Ask what is next."""
        explorer = Forecasting(config, "random", 100)
        return explorer.next_action(self.standing, given, may_begin=may_begin)


def explored() -> Imagined:
    """Make a search that knows the middle rate to be the best."""
    found = Imagined()
    for rate, score in zip(RATES, (0.5, 0.7, 0.9, 0.7, 0.5), strict=True):
        found.add(schedule(stage(64, rate)), score)
    return found


def test_what_is_given_comes_first_in_its_order() -> None:
    """Until there is something to forecast by; where nothing is left of it, the sampler's."""
    found, given = Imagined(), [schedule(stage(32)), schedule(stage(64))]
    assert found.asked(given) == Begin(given[0], 0, Role.PRESET)
    assert found.asked(given[1:]) == Begin(given[1], 0, Role.PRESET)
    assert found.asked() == Begin(NEVER, 0, Role.EXPLORE)
    for rate in RATES[: FEW - 1]:
        found.add(schedule(stage(64, rate)), 0.5)
    assert found.asked(given) == Begin(given[0], 0, Role.PRESET)


def test_then_it_competes() -> None:
    """What is given and looks poor is not begun; what looks best is, as one that was given."""
    found = explored()
    poor, good = schedule(stage(64, 1e-4), stage(64, 1e-4)), schedule(stage(64, 1.2e-3))
    chosen = found.asked([poor])
    assert isinstance(chosen, Begin)
    assert chosen.schedule != poor
    chosen = found.asked([poor, replace(good, stages=(stage(64, 1.2e-3, min_steps=1),))])
    assert isinstance(chosen, Begin)
    assert chosen.schedule != poor


def test_it_looks_around_the_best() -> None:
    """What is begun is another seed of the best, or lies beside it; notes say what is expected."""
    chosen = explored().asked()
    assert isinstance(chosen, Begin)
    assert {each.lrs[-1] for each in chosen.schedule.stages} <= set(RATES[1:4])
    assert chosen.schedule != NEVER
    notes = chosen.notes
    assert notes["interval"][0] < notes["expected shortfall"] < notes["interval"][1]
    assert notes["why"]


def test_another_seed_of_the_best_is_begun() -> None:
    """Where all else is known to be worse, luck is what is left to try."""
    found = Imagined()
    for rate, score in zip(RATES, (0.3, 0.4, 0.9, 0.4, 0.3), strict=True):
        for size in (32, 64):
            for seed in range(3):
                found.add(schedule(stage(size, rate)), score - (size == 32) * 0.2, seed=seed)
    found.suggestion = schedule(stage(32, 1e-4))
    asked = load_config({"space": SPACE | {"n_stages": [1]}, "budget": {"trials": 99}})
    chosen = found.asked(config=asked)
    assert isinstance(chosen, Begin)
    assert (chosen.schedule, chosen.seed) == (schedule(stage(64, 1e-3)), 3)
    assert chosen.notes["why"] == "another seed"


def test_of_equals_the_cheaper_is_begun() -> None:
    """Promise counts by its seconds: half as many pixels for the same promise come first."""
    found = Imagined()
    for size, seconds in ((32, 5.0), (64, 50.0)):
        for rate in (3e-4, 1e-3, 3e-3):
            found.add(schedule(stage(size, rate)), 0.7, seconds=seconds)
    chosen = found.asked()
    assert isinstance(chosen, Begin)
    assert chosen.schedule.stages[0].image_size == 32
    assert chosen.notes["seconds to go"] <= 10


def test_what_is_trained_already_is_not_paid_again() -> None:
    """A trial that begins with trained stages costs the rest."""
    found = explored()
    found.add(schedule(stage(64, 1e-3), stage(64, 1e-3)), 0.9, state=State.RUNNING)
    chosen = found.asked(may_begin=False)
    assert isinstance(chosen, GoOn)
    assert chosen.number == 5
    assert chosen.notes["seconds to go"] == 10


def test_past_the_last_trial_only_what_promises_is_gone_on_with() -> None:
    """What waits is gone on with or stopped, one after the other; then there is nothing to do."""
    found = explored()
    good = found.add(schedule(stage(64, 1e-3), stage(64, 1e-3)), 0.9, state=State.RUNNING)
    weak = found.add(schedule(stage(64, 1e-4), stage(64, 1e-4)), 0.5, state=State.RUNNING)
    assert isinstance(chosen := found.asked(may_begin=False), GoOn)
    assert chosen.number == good.number
    found.waiting.remove(good.number)
    found.trials[good.number] = replace(good, state=State.COMPLETE)
    for seed in range(1, 6):  # sure enough that nothing is to be gained there
        found.add(schedule(stage(64, 1e-4), stage(64, 1e-4)), 0.5, 0.4, seed=seed)
    assert found.asked(may_begin=False) == Stop(weak.number)
    found.waiting.remove(weak.number)
    assert found.asked(may_begin=False) is None


def test_nothing_is_stopped_while_others_train() -> None:
    """What they come to may speak for it."""
    found = explored()
    for seed in range(1, 6):
        found.add(schedule(stage(64, 1e-4), stage(64, 1e-4)), 0.5, 0.4, seed=seed)
    weak = found.add(schedule(stage(64, 1e-4), stage(64, 1e-4)), 0.5, state=State.RUNNING)
    training = found.add(schedule(stage(64, 2e-3)), state=State.RUNNING)
    found.waiting.remove(training.number)
    assert found.asked(may_begin=False) is None
    found.trials[training.number] = replace(training, state=State.FAILED)
    assert found.asked(may_begin=False) == Stop(weak.number)


def test_without_a_forecast_what_waits_goes_on() -> None:
    """With too few trained stages to forecast by, none of them may be stopped."""
    found = Imagined()
    found.add(schedule(stage(64), stage(64)), 0.5, state=State.RUNNING)
    assert found.asked(may_begin=False) == GoOn(0)
    assert Imagined().asked(may_begin=False) is None


def test_what_failed_counts_as_the_worst() -> None:
    """Where training diverges, its neighbours are no better than the worst that was seen."""
    calm, warned = explored(), explored()
    failed = schedule(stage(64, 1e-3), stage(64, 1e-2))
    trial = warned.add(failed, 0.9, state=State.FAILED)
    for position in (0, 1):
        warned.tree.enter(trial, position, f"{hash(failed.prefixes()[position])} 0")
    warned.tree.fail(f"{hash(failed)} 0")
    explorer = Forecasting(config(), "random", 100)
    expected = []
    for found in (calm, warned):
        forecast = explorer._forecast(explorer._known(found.standing))
        near = point_of(schedule(stage(64, 1e-3), stage(64, 1e-2)), 1)
        expected.append(float(forecast.at([near])[0][0]))
    assert expected[0] < expected[1]
    known = explorer._known(warned.standing)
    assert failed not in explorer._best(warned.standing, known, explorer._forecast(known))


def test_several_slots_get_different_trials() -> None:
    """What is in training counts: nothing is begun twice, under no seed."""
    found = explored()
    begun = set()
    for _ in range(6):
        chosen = found.asked()
        assert isinstance(chosen, Begin)
        begun.add((chosen.schedule, chosen.seed))
        found.add(chosen.schedule, seed=chosen.seed, state=State.RUNNING)
        found.waiting.clear()
    assert len(begun) == 6


def test_the_same_is_decided_of_the_same() -> None:
    """However often it is asked: nothing is kept but what can be computed again."""
    found = explored()
    explorer = Forecasting(config(), "random", 100)
    first = explorer.next_action(found.standing, (), may_begin=True)
    assert explorer.next_action(found.standing, (), may_begin=True) == first == found.asked()


def test_its_trials_wait_between_stages() -> None:
    """Each asks for every stage anew."""
    found = explored()
    explorer = Forecasting(config(), "random", 100)
    assert explorer.between_stages(next(iter(found.tree)), found.standing) is Verdict.WAIT


def test_the_outlook_is_told_in_the_metric() -> None:
    """About the best score, less sure than it looks; as much time again brings something."""
    outlook = Forecasting(config(), "random", 100).outlook(explored().standing)
    assert outlook is not None
    assert 0.75 < outlook.low < outlook.score < outlook.high < 1
    assert 0 < outlook.gain < 0.2
    assert not outlook.flat


@pytest.mark.parametrize("runs", [0, 1, 2])
def test_there_is_no_outlook_on_a_few_runs(runs: int) -> None:
    """Nor on scores that are all the same."""
    found = Imagined()
    for rate in RATES[:runs]:
        found.add(schedule(stage(64, rate)), 0.5)
    explorer = Forecasting(config(), "random", 100)
    assert explorer.outlook(found.standing) is None
    for rate in RATES:
        found.add(schedule(stage(32, rate)), 0.5)
    assert explorer.outlook(found.standing) is None


def test_where_all_is_known_the_outlook_is_flat() -> None:
    """Many seeds of all there is in the space, one clearly the best: no more to be expected."""
    found = Imagined()
    found.suggestion = schedule(stage(64, 1e-2))
    asked = load_config(
        {
            "space": SPACE | {"n_stages": [1], "image_size": [64], "lrs": [1e-3, 1e-2]},
            "budget": {"trials": 99, "until_flat": True},
        }
    )
    for seed in range(12):
        found.add(schedule(stage(64, 1e-3)), 0.9 + 0.002 * (seed % 3), seed=seed)
        found.add(schedule(stage(64, 1e-2)), 0.5 + 0.002 * (seed % 3), seed=seed)
    outlook = Forecasting(asked, "random", 100).outlook(found.standing)
    assert outlook is not None
    assert outlook.flat
