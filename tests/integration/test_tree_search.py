"""A whole search as a tree: real Optuna, real database; only the training is arithmetic."""

from collections.abc import Callable
from typing import Any

import pytest

from storage.records import Role, State, stage_run_key
from study.choices import PHOTO_SPACE
from study.config import Strategy
from study.drafts import running
from study.policy import Explore
from study.progress import TrialFinished
from study.space import params_of
from tests.crashes import check_end, crashes, dies_at
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


@pytest.fixture
def searched(make_lab: MakeLab) -> Lab:
    """Search a small space as a tree."""
    lab = make_lab(trials=40, strategy="tree", space=SPACE, sampler="random", keep=100, seed=1)
    lab.search()
    return lab


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
        assert len(trials) == 40
        assert sum(len(store.stage_runs_of(trial.id)) for trial in trials) > 1.3 * len(keys)
    searched.check_order()


def test_who_is_stopped_and_who_is_not(searched: Lab) -> None:
    """Branches are made, some trials are stopped at a boundary, the free ones never."""
    with searched.reading() as (store, study, _):
        trials = store.trials(study.id)
    roles = [trial.role for trial in trials]
    assert [role is Role.FREE for role in roles] == [n % 5 == 4 for n in range(40)]
    assert roles.count(Role.BRANCH) > 5
    assert {t.state for t in trials if t.role is Role.FREE} == {State.COMPLETE}
    assert State.PRUNED in {t.state for t in trials if t.role is not Role.FREE}
    theirs = optuna_study(searched.url)
    by_number = {trial.number: trial for trial in theirs.trials}
    for trial in trials:
        expected = "PRUNED" if trial.state is State.PRUNED else "COMPLETE"
        assert by_number[trial.number].state.name == expected
        stages = len(trial.schedule.stages)
        assert by_number[trial.number].params["n_stages"] == stages


def test_a_branch_begins_as_a_promising_trial(searched: Lab) -> None:
    """Its first stage was trained before by another trial, and is not trained again for it."""
    with searched.reading() as (store, study, _):
        for trial in store.trials(study.id):
            if trial.role is Role.BRANCH and trial.seed == 0:
                first = store.stage_runs_of(trial.id)[0]
                assert first.trial_number < trial.number


@pytest.mark.parametrize("strategy", [Strategy.TREE, Strategy.ASHA])
def test_the_hopeless_are_not_begun(make_lab: MakeLab, strategy: Strategy) -> None:
    """With few beginnings the sampler soon repeats a weak one; nothing is left of that."""
    lab = make_lab(trials=12, strategy=strategy, space=SPACE | {"n_stages": [2]}, sampler="random")
    told = lab.search()
    finished = [news.trial for news in told if isinstance(news, TrialFinished)]
    assert len(finished) == 12
    assert all(trial.seconds > 0 for trial in finished)
    theirs = optuna_study(lab.url).trials
    assert [trial.number for trial in theirs] == list(range(12))
    assert {trial.state.name for trial in theirs} <= {"COMPLETE", "PRUNED"}
    with lab.reading() as (store, study, _):
        assert [trial.number for trial in store.trials(study.id)] == list(range(12))


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "cmaes", "qmc"])
def test_what_is_asked_again_is_written_down_once(make_lab: MakeLab, sampler: str) -> None:
    """Any sampler can be asked for the same trial thrice; Optuna has the last answer alone."""
    lab = make_lab(trials=4, strategy=Strategy.INDEPENDENT, space=SPACE, sampler=sampler)
    with lab.bench() as bench:
        for number in range(14):
            asked: list[Schedule] = []

            def third(schedule: Schedule, asked: list[Schedule] = asked) -> bool:
                asked.append(schedule)
                return len(asked) == 3

            space = lab.config.resolved_space
            got, found = bench.suggestions.ask(space, "random", None, third)
            assert (got, found) == (number, asked[2])
            bench.suggestions.tell(got, State.COMPLETE, 0.5)
    theirs = optuna_study(lab.url).trials
    assert [trial.number for trial in theirs] == list(range(14))
    params = params_of(found, lab.config.resolved_space)
    assert params is not None
    last = running(params, {})
    assert theirs[-1].params == last.params
    assert theirs[-1].distributions == last.distributions


def test_killed_at_every_event_the_tree_is_the_same(make_lab: MakeLab) -> None:
    """Decisions at boundaries are not taken anew, whatever was trained before the crash."""
    roots = [stage(32, lr, epochs=2) for lr in (1e-3, 3e-3, 1e-2, 1e-4)]
    script = tuple(schedule(root, stage(64, lr)) for lr in (1e-3, 1e-2) for root in roots)
    calm = make_lab(*script, strategy="asha")
    calm.search()
    expected, event = calm.outcome(), 0
    assert {trial[3] for trial in expected["trials"]} == {State.COMPLETE, State.PRUNED}
    while crashes(lab := make_lab(*script, strategy="asha"), dies_at(event)):
        check_end(lab, expected, f"after a crash at event {event}")
        event += 3
    assert event > 15


def test_what_was_enqueued_by_a_dead_search_is_not_asked_again(make_lab: MakeLab) -> None:
    """A crash between enqueueing a branch and asking for it leaves nothing for others to get."""
    lab = make_lab(trials=3, strategy="tree", space=SPACE)
    lab.search()
    study = optuna_study(lab.url)
    study.enqueue_trial({"n_stages": 3})
    lab.configure((), trials=4)
    lab.search()
    states = [trial.state.name for trial in optuna_study(lab.url).trials]
    assert "WAITING" not in states
    lab.check_order()


def test_the_default_space_is_searched(make_lab: MakeLab) -> None:
    """The photos' own space, whose first stage has but three choices, keeps the policy going."""
    lab = make_lab(trials=30, strategy="tree", space=PHOTO_SPACE.model_dump(exclude_none=True))
    lab.search()
    lab.check_order()
    with lab.bench() as bench:
        standing = bench.coordinator.standing
        assert bench.coordinator.policy.to_go(standing) == 0
        assert bench.coordinator.policy.next_action(standing) is None
        roots = [node for node in standing.tree.roots if node.seed == 0]
        assert len(roots) == 3
        more = bench.coordinator.policy.config.model_copy(
            update={"budget": lab.config.budget.model_copy(update={"trials": 31})}
        )
        policy = type(bench.coordinator.policy)(more)
        assert policy.next_action(standing) != Explore()


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
    """Give the seeds under which a schedule was trained."""
    with lab.reading() as (store, study, _):
        return [t.seed for t in store.trials(study.id) if t.schedule_digest == mine.digest]


def test_a_suggestion_that_was_run_becomes_a_seed(make_lab: MakeLab) -> None:
    """Whatever the strategy: it is never a wasted trial."""
    mine = schedule(stage(64), stage(96))
    for strategy in ("tree", "asha", "independent"):
        lab = make_lab(mine, mine, mine, strategy=strategy)
        lab.search()
        assert seeds_of(lab, mine) == [0, 1, 2]
