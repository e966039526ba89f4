"""Trials that are stopped early, and what is kept of them."""

from collections.abc import Callable

import pytest

from storage.records import Role, State
from study.progress import TrialFinished
from tests.lab import Lab, optuna_study, schedule, stage

GOOD = [schedule(stage(64, epochs=3), stage(size)) for size in (64, 72, 80, 88, 96)]
"""As many as Optuna's median pruner watches before it prunes anything."""

WEAK = stage(32, 1e-5, epochs=3)
MakeLab = Callable[..., Lab]


def test_a_pruned_trial_keeps_its_weights(make_lab: MakeLab) -> None:
    """It ends at once, here and in Optuna, and its best weights so far are sealed."""
    lab = make_lab(*GOOD, schedule(WEAK, stage(64)), pruner="median")
    told = lab.search()
    lab.check_order()
    last = told[-1]
    assert isinstance(last, TrialFinished)
    assert (last.trial.state, last.epochs) == (State.PRUNED, 1)
    assert last.file is not None
    with lab.reading() as (store, study, vault):
        trial = store.trial(study.id, 5)
        (run,) = store.stage_runs_of(trial.id)
        assert run.state is State.PRUNED
        (file,) = store.checkpoints_of(run.id)
        assert (file.path, file.epoch, file.score) == (last.file, 1, trial.score)
        assert vault.verify(file.path, file.sha256)
        assert [ranked.trial.number for ranked in store.ranking(study)][-1] == 5
    their = optuna_study(lab.url).trials[5]
    assert their.state.name == "PRUNED"
    assert their.value == their.intermediate_values[1] == trial.score
    assert their.user_attrs["weights"] == last.file


def test_a_trial_may_begin_as_the_one_that_was_just_pruned(make_lab: MakeLab) -> None:
    """The stage is taken up anew, be it to be pruned again: no event is taken for another's."""
    lab = make_lab(*GOOD, *(schedule(WEAK, stage(s)) for s in (64, 96, 128)), pruner="median")
    lab.search()
    lab.check_order()
    with lab.reading() as (store, study, _):
        states = [trial.state for trial in store.trials(study.id)]
        assert states == [State.COMPLETE] * 5 + [State.PRUNED] * 3


def test_a_trial_pruned_on_shared_epochs_has_their_weights(make_lab: MakeLab) -> None:
    """Its score is that of the weights that the shared stage left, not of an epoch before."""
    lab = make_lab(schedule(WEAK), *GOOD, schedule(WEAK, stage(64)), pruner="median")
    lab.search()
    lab.check_order()
    with lab.reading() as (store, study, _):
        first, pruned = store.trial(study.id, 0), store.trial(study.id, 6)
        assert (first.state, pruned.state) == (State.COMPLETE, State.PRUNED)
        assert (pruned.score, pruned.best_epoch) == (first.score, first.best_epoch)


def test_what_is_known_to_be_weak_is_not_trained_again(make_lab: MakeLab) -> None:
    """Epochs that an earlier trial has shown are enough for the pruner, though files are missing.

    The first trial ends with its only stage, so the weights to go on from were not kept.
    """
    lab = make_lab(schedule(WEAK), *GOOD, schedule(WEAK, stage(64)), pruner="median")
    lab.search()
    assert len(lab.trainer.trained) == len(set(lab.trainer.trained)) == 7
    their = optuna_study(lab.url).trials[6]
    assert (their.state.name, list(their.intermediate_values)) == ("PRUNED", [1, 2, 3])


def test_a_pruned_trial_does_not_get_the_weights_of_a_later_one(make_lab: MakeLab) -> None:
    """Where another trial trains its stage on to better weights, its own are no longer kept."""
    script = [*GOOD, schedule(WEAK, stage(64)), schedule(WEAK, stage(96))]
    lab = make_lab(*script, pruner="median", trials=6)
    lab.search()
    lab.check_order()
    lab.configure(script, pruner="none")
    lab.search()
    lab.check_order()
    with lab.reading() as (store, study, _):
        states = [trial.state for trial in store.trials(study.id)]
        assert states == [*[State.COMPLETE] * 5, State.PRUNED, State.COMPLETE]
        assert {ranked.trial.number for ranked in store.ranking(study)} == {0, 1, 2, 3, 4, 6}


def test_repeats_are_never_pruned(make_lab: MakeLab) -> None:
    """They are asked for to learn how a schedule ends under another seed, be it the weakest."""
    lab = make_lab(schedule(WEAK), *GOOD, pruner="median", repeats=1, finalists=6)
    lab.search()
    lab.check_order()
    with lab.reading() as (store, study, _):
        trials = store.trials(study.id)
        assert trials[-1].schedule_digest == trials[0].schedule_digest
        assert [trial.role for trial in trials[6:]] == [Role.REPEAT] * 6
        assert {trial.state for trial in trials} == {State.COMPLETE}


@pytest.mark.parametrize("pruner", ["asha", "hyperband"])
def test_every_pruner_lets_the_search_end(make_lab: MakeLab, pruner: str) -> None:
    """Whatever a pruner decides, files and rows stay in order."""
    script = [
        schedule(stage(size, lr, epochs=4), stage(96))
        for size in (32, 64)
        for lr in (1e-3, 1e-4, 1e-5)
    ]
    lab = make_lab(*script, pruner=pruner, repeats=1, finalists=1)
    lab.search()
    lab.check_order()
