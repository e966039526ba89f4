"""Whole searches by each strategy: real Optuna, real database; only the training is arithmetic."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.records import Kind, Role, State, stage_run_key
from study.config.schema import Strategy
from study.config.space import PHOTO_SPACE
from study.events import TrialFinished
from tests.crashes import check_end, chosen, crashes, dies_at, is_step
from tests.lab import Lab, optuna_study, schedule, stage
from trainers.schedule import Schedule

MakeLab = Callable[..., Lab]
SPACE: dict[str, Any] = {
    "n_stages": [1, 2, 3],
    "image_size": [32, 64],
    "batch_size": [8],
    "lrs": [1e-3, 3e-3, 1e-2],
    "stages": [{"image_size": [32]}],
}
EXPLORING = [
    Strategy.FORECAST,
    *(pytest.param(each, marks=pytest.mark.long) for each in (Strategy.ASHA, Strategy.INDEPENDENT)),
]


TRIALS = 20


@pytest.fixture(scope="module")
def forecasted(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Lab:
    """Search a small space by forecasts."""
    return by(Strategy.FORECAST, tmp_path_factory.mktemp("searched"), template)


def by(strategy: Strategy, folder: Path, template: Path) -> Lab:
    """Search a small space."""
    settings: dict[str, Any] = {"trials": TRIALS, "space": SPACE, "sampler": "random", "keep": 100}
    lab = Lab(folder, template=template, strategy=strategy, **settings)
    lab.search()
    return lab


@pytest.fixture(
    scope="module",
    params=[Strategy.FORECAST, pytest.param(Strategy.ASHA, marks=pytest.mark.long)],
)
def searched(
    tmp_path_factory: pytest.TempPathFactory, template: Path, request: pytest.FixtureRequest
) -> Lab:
    """Search a small space, by the strategies that do not train everything to its end."""
    if request.param is Strategy.FORECAST:
        lab: Lab = request.getfixturevalue("forecasted")
        return lab
    return by(request.param, tmp_path_factory.mktemp("searched"), template)


def test_each_stage_run_is_trained_once_after_its_parent(searched: Lab) -> None:
    """No key is trained again, and much is shared."""
    trained = searched.trainer.trained
    assert len(trained) == len(set(trained))
    with searched.reading() as (store, study, _):
        trials, keys = store.trials(study.id), {r.key for r in store.stage_runs(study.id)}
        for trial in trials:
            used = [run.key for run in store.stage_runs_of(trial.id)]
            prefixes = trial.schedule.prefixes()[: len(used)]
            assert used == [stage_run_key(searched.digest, p, trial.seed) for p in prefixes]
        assert {key[:16] for key in keys} == set(trained)
        assert len(trials) == TRIALS
        assert sum(len(store.stage_runs_of(trial.id)) for trial in trials) > len(keys)
    searched.check_order()


def test_who_went_to_the_end_and_who_did_not(searched: Lab) -> None:
    """Some trials end between two stages, here as in Optuna; each has its own parameters there."""
    with searched.reading() as (store, study, _):
        trials = store.trials(study.id)
        entered = {trial.number: len(store.stage_runs_of(trial.id)) for trial in trials}
    assert {trial.state for trial in trials} == {State.COMPLETE, State.PRUNED}
    theirs = {trial.number: trial for trial in optuna_study(searched.url).trials}
    for trial in trials:
        stages = len(trial.schedule.stages)
        whole = trial.state is State.COMPLETE
        assert (entered[trial.number] == stages) == whole
        assert theirs[trial.number].state.name == trial.state.name
        assert theirs[trial.number].params["n_stages"] == stages


def test_a_stopped_trial_keeps_its_weights(searched: Lab) -> None:
    """Those of the best of its stages are there, whole, and can be chosen, unless deleted before.

    A trial that continued from them to better ones has no use for them.
    """
    with searched.reading() as (store, study, vault):
        ranked = {each.trial.number: each.checkpoint for each in store.ranking(study)}
        deleted = {(gone.stage_run_id, gone.kind) for gone in store.deletions(study.id)}
        stopped = [t for t in store.trials(study.id) if t.state is State.PRUNED]
        assert any(trial.number in ranked for trial in stopped)
        for trial in stopped:
            if trial.number not in ranked:
                assert (trial.best_stage_run, Kind.BEST) in deleted
                continue
            file = ranked[trial.number]
            assert file is not None
            assert (file.kind, file.epoch) == (Kind.BEST, trial.best_epoch)
            assert vault.verify(file.path, file.sha256)


@pytest.mark.long
def test_no_trial_waits_for_what_is_trained(make_lab: MakeLab) -> None:
    """Once another trial has trained its next stage, it has that one, too, as after a restart."""
    space = SPACE | {"n_stages": [2, 3], "image_size": [32], "lrs": [1e-3, 1e-2]}
    lab, waited = make_lab(trials=12, strategy="forecast", space=space, sampler="random"), set()

    def look() -> bool:
        now = bench.coordinator.standing
        for number in now.waiting:
            after, trial = now.tree.last_trained(number), now.trials[number]
            assert after is not None
            prefix = trial.schedule.prefixes()[after.position + 1]
            onward = now.tree.find(stage_run_key(lab.digest, prefix, trial.seed))
            assert onward is None or onward.trained is None
            waited.add(number)
        return False

    with lab.bench(look) as bench:
        bench.coordinator.run()
    assert waited


def test_optuna_learns_the_score_of_the_last_stage(make_lab: MakeLab) -> None:
    """Trials that share a good beginning do not tie; the weights may still be the beginning's."""
    root = stage(64, epochs=3)
    lab = make_lab(schedule(root, stage(64, 1e-5)), schedule(root, stage(96)))
    lab.search()
    with lab.reading() as (store, study, _):
        metric = study.metric
        for trial in store.trials(study.id):
            last = store.stage_runs_of(trial.id)[-1]
            own = max(epoch.score(metric) for epoch in store.epochs(last.id))
            assert optuna_study(lab.url).trials[trial.number].value == own
            assert trial.score == max(
                epoch.score(metric)
                for run in store.stage_runs_of(trial.id)
                for epoch in store.epochs(run.id)
            )


def test_a_forecast_is_told_to_the_dashboard_and_to_the_user(forecasted: Lab) -> None:
    """What was expected stands beside the trial, and each ended one says what to expect next."""
    attributes = [trial.user_attrs for trial in optuna_study(forecasted.url).trials]
    expected = [each for each in attributes if "expected shortfall" in each]
    assert len(expected) >= 6
    for each in expected:
        low, high = each["interval"]
        assert low < each["expected shortfall"] < high
        assert each["seconds to go"] >= 0
    outlooks = [news.outlook for news in forecasted.told if isinstance(news, TrialFinished)]
    found = [outlook for outlook in outlooks if outlook is not None]
    assert found
    assert all(each.low < each.score < each.high and each.gain >= 0 for each in found)


def test_a_search_ends_where_nothing_is_to_be_gained(make_lab: MakeLab) -> None:
    """With `until_flat`, well before all trials are spent: else it would be of all 40."""
    space = SPACE | {"n_stages": [1], "image_size": [32], "lrs": [1e-3, 3e-3]}
    lab = make_lab(trials=40, strategy="forecast", space=space, until_flat=True)
    lab.search()
    lab.check_order()
    with lab.reading() as (store, study, _):
        assert len(store.trials(study.id)) < 40


@pytest.mark.long
@pytest.mark.parametrize("strategy", [Strategy.FORECAST, Strategy.ASHA, Strategy.INDEPENDENT])
def test_killed_at_any_event_the_end_is_the_same(
    make_lab: MakeLab, strategy: Strategy, every: bool
) -> None:
    """Decisions come from rows alone: those between two stages as well as what is begun."""
    roots = [stage(32, lr, epochs=2) for lr in (1e-3, 3e-3, 1e-2, 1e-4)]
    script = tuple(schedule(root, stage(64, lr)) for lr in (1e-3, 1e-2) for root in roots)
    settings: dict[str, Any] = {"strategy": strategy}
    if strategy is Strategy.FORECAST:
        script, settings = (), settings | {"trials": 5, "space": SPACE, "sampler": "tpe"}
    calm = make_lab(*script, **settings)
    events = sum(map(is_step, calm.search()))
    assert events > 15
    for event in chosen(events, every=every):
        lab = make_lab(*script, **settings)
        assert crashes(lab, dies_at(event))
        check_end(lab, calm.outcome(), f"after a crash at event {event}")


def test_what_was_enqueued_by_a_dead_search_is_not_asked_again(make_lab: MakeLab) -> None:
    """A trial that was enqueued in Optuna by any program is never taken."""
    lab = make_lab(trials=3, strategy="forecast", space=SPACE)
    lab.search()
    study = optuna_study(lab.url)
    study.enqueue_trial({"n_stages": 3})
    lab.configure((), trials=4)
    lab.search()
    states = [trial.state.name for trial in optuna_study(lab.url).trials]
    assert "WAITING" not in states
    lab.check_order()


@pytest.mark.parametrize("strategy", EXPLORING)
def test_the_default_space_is_searched(make_lab: MakeLab, strategy: Strategy) -> None:
    """The space for a trainer of one's own keeps the policy going up to the last trial."""
    space = PHOTO_SPACE.model_dump(exclude_none=True)
    lab = make_lab(trials=12, strategy=strategy, space=space)
    lab.search()
    lab.check_order()
    with lab.bench() as bench:
        standing = bench.coordinator.standing
        assert bench.coordinator.policy.to_go(standing) == 0
        assert bench.coordinator.policy.next_action(standing) is None
        assert len(standing.trials) == 12


def test_races_stop_the_beaten(make_lab: MakeLab) -> None:
    """Of two finalists, the clearly worse one gets two fresh seeds, the better one all five."""
    good, weak = schedule(stage(64, 1e-3, 3)), schedule(stage(32, 1e-5, 1))
    lab = make_lab(good, weak, repeats=5, finalists=2)
    lab.search()
    with lab.reading() as (store, study, _):
        repeats: dict[str, int] = {}
        for trial in store.trials(study.id):
            if trial.role is Role.REPEAT:
                repeats[trial.schedule_digest] = repeats.get(trial.schedule_digest, 0) + 1
    assert repeats == {good.digest: 5, weak.digest: 2}


def seeds_of(lab: Lab, mine: Schedule) -> list[int]:
    """Return the seeds under which a schedule was trained."""
    with lab.reading() as (store, study, _):
        return [t.seed for t in store.trials(study.id) if t.schedule_digest == mine.digest]


@pytest.mark.parametrize(
    "strategy", [pytest.param(Strategy.ASHA, marks=pytest.mark.long), Strategy.INDEPENDENT]
)
def test_a_suggestion_that_was_run_becomes_a_seed(make_lab: MakeLab, strategy: Strategy) -> None:
    """Whatever the strategy: it is never a wasted trial."""
    mine = schedule(stage(64), stage(96))
    lab = make_lab(mine, mine, mine, strategy=strategy)
    lab.search()
    assert seeds_of(lab, mine) == [0, 1, 2]
