"""A whole search with everything real but the training: SQLite, vault, Optuna, engine."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from storage.records import Role, State
from study.config.portfolio import TYPICAL, portfolio, probes, space_for
from study.config.schema import Sampler
from study.errors import TooManyFailures
from study.events import EpochFinished, Notice, Progress, StageStarted, TrialFinished
from study.formatting import weights_name
from study.searching.optuna_study import _sampler
from tests.crashes import is_step
from tests.lab import LABELS, SECONDS, Lab, Noting, optuna_study, schedule, stage
from trainers.base import StageTask
from trainers.metrics import EpochMetrics, Metric

MakeLab = Callable[..., Lab]

ROOT = stage(64, epochs=2)
BAD = schedule(stage(64, 50.0))
"""A learning rate at which the synthetic trainer diverges."""

SCRIPT = (
    schedule(ROOT, stage(96, epochs=2)),
    schedule(ROOT, stage(128)),
    BAD,
    schedule(ROOT, stage(128), stage(160)),
)


def ended(told: list[Progress]) -> list[TrialFinished]:
    """Return the ends of trials."""
    return [news for news in told if isinstance(news, TrialFinished)]


def test_all_trials_end_and_each_is_told_once(make_lab: MakeLab) -> None:
    """In order: each stage's start, its epochs counted through the trial, the trial's end."""
    lab = make_lab(*SCRIPT)
    told = lab.search()
    assert [news.trial.number for news in ended(told)] == [0, 1, 2, 3]
    assert [news.to_go for news in ended(told)] == [3, 2, 1, 0]
    assert [news.epochs for news in ended(told)] == [4, 3, 0, 4]
    states = [State.COMPLETE, State.COMPLETE, State.FAILED, State.COMPLETE]
    assert [news.trial.state for news in ended(told)] == states
    starts = [news for news in told if isinstance(news, StageStarted)]
    assert [(news.number, news.position, news.epochs_before) for news in starts] == [
        (0, 0, 0),
        (0, 1, 2),
        (1, 1, 2),
        (2, 0, 0),
        (3, 1, 2),  # the last weights of this stage were not kept: no trial went on from it
        (3, 2, 3),
    ]
    steps = [(news.number, news.step) for news in told if isinstance(news, EpochFinished)]
    assert steps == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 3), (3, 3), (3, 4)]
    lab.check_order()


def test_each_deletion_is_told_and_the_best_weights_stay(make_lab: MakeLab) -> None:
    """Each file that goes is counted in a line, however little room `--max-disk` leaves."""
    lab = make_lab(*(schedule(stage(32 + 8 * n)) for n in range(12)), max_disk="1kB")
    notices = [news.text for news in lab.search() if isinstance(news, Notice)]
    counts = [re.match(r"deleting (\d+) weights files? \(.+\): ", text) for text in notices]
    with lab.reading() as (store, study, vault):
        gone = len(store.deletions(study.id))
        best = store.ranking(study)[0].checkpoint
    assert gone == sum(int(found[1]) for found in counts if found)
    assert gone > 10
    assert any("the weights exceed 1.0" in text for text in notices)
    assert best is not None
    assert vault.verify(best.path, best.sha256)


def test_a_search_whose_budget_is_spent_does_nothing(make_lab: MakeLab) -> None:
    """The same command again trains nothing, tells nothing and changes nothing."""
    lab = make_lab(*SCRIPT)
    lab.search()
    before, trained = lab.outcome(), list(lab.trainer.trained)
    assert lab.search() == []
    assert lab.outcome() == before
    assert lab.trainer.trained == trained


def test_optuna_and_our_rows_agree(make_lab: MakeLab) -> None:
    """Number, state, value, attributes and one intermediate value an epoch, shared ones too."""
    lab = make_lab(*SCRIPT, repeats=1, finalists=1)
    lab.search()
    kinds = {State.COMPLETE: "COMPLETE", State.PRUNED: "PRUNED", State.FAILED: "FAIL"}
    theirs = {trial.number: trial for trial in optuna_study(lab.url).trials}
    with lab.reading() as (store, study, _):
        ours = store.trials(study.id)
        assert [trial.number for trial in ours] == sorted(theirs) == [0, 1, 2, 3, 4]
        files = {r.trial.number: r.checkpoint.path for r in store.ranking(study) if r.checkpoint}
        for trial in ours:
            their = theirs[trial.number]
            assert their.state.name == kinds[trial.state]
            assert their.value == trial.score
            told = {
                "seed": trial.seed,
                "schedule": trial.schedule_digest,
                "role": trial.role.value,
                "seconds": trial.seconds,
            }
            if trial.state is State.FAILED:
                assert their.user_attrs == told | {"failure": trial.failure}
            else:
                assert their.user_attrs == told | {"weights": files[trial.number]}
            scores = [epoch.accuracy for epoch in store.epochs_of_trial(trial.id)]
            assert their.intermediate_values == dict(enumerate(scores, 1))


def test_scores_are_those_of_the_best_epoch_of_all_stages(make_lab: MakeLab) -> None:
    """A trial's seconds and score cover the stages it shares, as if it had trained them."""
    lab = make_lab(*SCRIPT)
    lab.search()
    with lab.reading() as (store, study, _):
        for trial in store.trials(study.id):
            epochs = store.epochs_of_trial(trial.id)
            assert trial.seconds == SECONDS * len(epochs)
            if epochs:
                best = min(epochs, key=lambda epoch: epoch.rank(study.metric))
                assert (trial.score, trial.loss) == (best.accuracy, best.valid_loss)
                assert (trial.best_stage_run, trial.best_epoch) == (best.stage_run_id, best.epoch)
        for run in store.stage_runs(study.id):
            assert run.seconds == SECONDS * len(store.epochs(run.id))


def test_shared_beginnings_are_trained_once(make_lab: MakeLab) -> None:
    """Three schedules with the same first stage train it once."""
    script = [schedule(ROOT, stage(size)) for size in (64, 96, 128)]
    lab = make_lab(*script)
    lab.search()
    assert len(lab.trainer.trained) == len(set(lab.trainer.trained)) == 4
    with lab.reading() as (store, study, _):
        first = {store.stage_runs_of(trial.id)[0].id for trial in store.trials(study.id)}
        assert len(first) == 1
        assert {run.trial_number for run in store.stage_runs(study.id)} == {0, 1, 2}


def test_each_stage_starts_from_the_weights_it_asks_for(make_lab: MakeLab) -> None:
    """Nothing for a first stage, then the last or the best weights of the stage before."""
    lab = make_lab(
        schedule(ROOT, stage(96, start_from="best"), stage(128)),
        schedule(ROOT, stage(96, start_from="last")),
    )
    lab.search()
    none, best, last, other = lab.trainer.starts
    assert none is None
    names = [start.name.split("_")[0][:3] for start in (best, last, other) if start]
    assert names == ["acc", "las", "las"]
    assert best is not None
    assert best.parent == lab.folder / "lab"
    assert "_t0000_" in best.name


def test_files_are_in_order_after_every_event(make_lab: MakeLab) -> None:
    """At any moment each row points to its file, which has its SHA-256 and its name."""
    lab, seen = make_lab(*SCRIPT), []
    with lab.bench() as bench:

        def look(news: Progress) -> None:
            seen.append(news)
            lab.check_order(over=False)

        bench.coordinator.listener = look
        bench.coordinator.run()
    assert sum(map(is_step, seen)) == 17
    lab.check_order()
    with lab.reading() as (store, study, vault):
        names: set[str] = set()
        for trial in store.trials(study.id):
            before = 0
            for run in store.stage_runs_of(trial.id):
                for file in store.checkpoints_of(run.id):
                    epochs, score = before + file.epoch, file.score or 0.0
                    names.add(
                        weights_name(file.kind, trial, run.position, epochs, study.metric, score)
                    )
                before += run.epochs
        assert store.known_paths(study.id) <= names
        assert {path.name for path in vault.root.glob("*.safetensors")} == store.known_paths(
            study.id
        )
        # Only stages that a trial may go on from keep their last weights.
        lasts = [file.stage_run_id for file in store.checkpoints(study.id) if file.kind == "last"]
        assert len(lasts) == 2


def test_a_suggestion_already_run_becomes_a_new_seed(make_lab: MakeLab) -> None:
    """A space of one schedule: Optuna itself can only suggest it again."""
    space = {
        "n_stages": [2],
        "image_size": [64],
        "batch_size": [8],
        "backbone": ["net"],
        "lrs": [1e-3],
    }
    lab = make_lab(space=space, trials=3, seed=5)
    lab.search()
    with lab.reading() as (store, study, _):
        trials = store.trials(study.id)
        assert [trial.seed for trial in trials] == [5, 6, 7]
        assert len({trial.schedule_digest for trial in trials}) == 1
        assert {trial.role for trial in trials} == {Role.EXPLORE}
    assert len(lab.trainer.trained) == 6


@pytest.mark.long
@pytest.mark.parametrize("sampler", Sampler)
def test_given_schedules_are_the_first_trials(make_lab: MakeLab, sampler: Sampler) -> None:
    """One outside the space has no parameters in Optuna, one of it has; all samplers go on."""
    space = space_for(TYPICAL, "net")
    lab = make_lab(trials=12, sampler=sampler, space=space.model_dump(exclude_none=True))
    given = [*probes(TYPICAL, "net", "random"), portfolio(TYPICAL, "net", "random")[0]]
    lab.given = given
    lab.search()
    lab.check_order()
    with lab.reading() as (store, study, _):
        trials = store.trials(study.id)
    assert [trial.schedule for trial in trials[:3]] == given
    assert [trial.role for trial in trials] == [*[Role.PRESET] * 3, *[Role.EXPLORE] * 9]
    assert {trial.state for trial in trials} == {State.COMPLETE}
    # The member starts from the probe that has been fitted; nothing is fitted twice.
    assert len(set(lab.trainer.trained)) == len(lab.trainer.trained)
    theirs = optuna_study(lab.url)
    *outside, member = theirs.trials[:3]
    assert [trial.params for trial in outside] == [{}, {}]
    assert {trial.user_attrs["role"] for trial in (*outside, member)} == {"preset"}
    assert (member.params["s1_late_lr"], member.value) == (
        given[2].stages[1].lrs[1],
        trials[2].score,
    )
    if sampler in (Sampler.TPE, Sampler.RANDOM):
        assert [trial.value for trial in outside] == [trial.score for trial in trials[:2]]
    else:
        assert [trial.user_attrs["score"] for trial in outside] == [t.score for t in trials[:2]]
        model = _sampler(sampler, 0, len(trials))
        learnt = model.infer_relative_search_space(theirs, theirs.trials[-1])
        assert {"s1_lrs", "s1_late_lr"} <= set(learnt)


def test_finalists_are_repeated_under_fresh_seeds(make_lab: MakeLab) -> None:
    """In turn, from their first stage on; Optuna is given their parameters again."""
    lab = make_lab(trials=4, repeats=2, finalists=2, seed=3)
    lab.search()
    lab.check_order()
    theirs = optuna_study(lab.url).trials
    with lab.reading() as (store, study, _):
        trials = store.trials(study.id)
        digests = [trial.schedule_digest for trial in trials[4:]]
        assert digests == digests[:2] * 2
        assert {trial.role for trial in trials[4:]} == {Role.REPEAT}
        assert len({(trial.schedule_digest, trial.seed) for trial in trials}) == len(trials) == 8
        explored = {trial.schedule_digest: trial.number for trial in trials[:4]}
        for trial in trials[4:]:
            assert theirs[trial.number].params == theirs[explored[trial.schedule_digest]].params
            assert {run.seed for run in store.stage_runs_of(trial.id)} == {trial.seed}


def test_a_diverging_trial_fails_and_the_search_goes_on(make_lab: MakeLab) -> None:
    """It leaves a sentence, but no file; what it trained before is kept and shared."""
    lab = make_lab(schedule(ROOT, stage(96, 50.0)), schedule(ROOT, stage(96)))
    lab.search()
    lab.check_order()
    with lab.reading() as (store, study, vault):
        failed, fine = store.trials(study.id)
        assert (failed.state, fine.state) == (State.FAILED, State.COMPLETE)
        assert failed.failure is not None
        assert failed.failure.startswith("diverged: TrainingDiverged: the training loss")
        shared, broken = store.stage_runs_of(failed.id)
        assert (shared.state, broken.state) == (State.COMPLETE, State.FAILED)
        assert broken.seconds == 0.0
        assert failed.seconds == shared.seconds == 2 * SECONDS
        assert store.checkpoints_of(broken.id) == []
        assert [ranked.trial.number for ranked in store.ranking(study)] == [1]
        assert vault.strays(store.known_paths(study.id)) == {}
    assert len(lab.trainer.trained) == 3


def test_a_score_that_is_no_number_does_not_end_the_search(make_lab: MakeLab) -> None:
    """A trainer may let one through: Optuna is told of a failure, and later reads work."""

    class Careless(Noting):
        def train(self, task: StageTask) -> Iterator[EpochMetrics]:
            for metrics in super().train(task):
                yield replace(metrics, valid_loss=math.nan) if task.seed == 0 else metrics

    space = {"n_stages": [1], "image_size": [64], "batch_size": [8], "backbone": ["net"]}
    lab = make_lab(space=space, trials=2, metric="log_loss", repeats=1)
    lab.trainer = Careless(LABELS, 3, metric=Metric.LOG_LOSS)
    lab.search()
    assert lab.search() == []
    with lab.reading() as (store, study, _):
        scores = [trial.score for trial in store.trials(study.id)]
        assert scores[0] is None
        assert None not in scores[1:]
        assert len(scores) == 3
    theirs = lab.optuna_trials()
    assert [trial.state for trial in theirs.values()] == ["FAIL", "COMPLETE", "COMPLETE"]


def test_failures_in_a_row_end_the_search(make_lab: MakeLab) -> None:
    """Others in between start the count anew; the same command again tries on."""
    lab = make_lab(BAD, schedule(ROOT), BAD, BAD, schedule(ROOT), max_failures=2)
    with pytest.raises(TooManyFailures, match=r"2 trials in a row .+ diverged.+--max-failures"):
        lab.search()
    with lab.reading() as (store, study, _):
        states = [trial.state for trial in store.trials(study.id)]
        assert states == [State.FAILED, State.COMPLETE, State.FAILED, State.FAILED]
    lab.check_order()
    lab.search()
    lab.check_order()
    with lab.reading() as (store, study, _):
        assert [trial.seed for trial in store.trials(study.id)] == [0, 0, 1, 2, 1]
