"""What every store promises of studies, trials and transactions."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import inspect, text

from storage import schema_version
from storage.database import open_database, writing
from storage.errors import StudyInUse, StudyNotFound
from storage.records import Kind, ManifestRecord, Role, State, StudyRecord
from storage.store import Store
from tests.contract.conftest import begin, checkpoint, claim, epoch, finish, schedule
from trainers.metrics import Metric


class TestStoreContract:
    """Run over every way to get a store."""

    # studies and manifests

    def test_study_comes_back_as_it_was_created(self, store: Store, study: StudyRecord) -> None:
        """All fields survive, times are aware and in UTC."""
        back = store.study("planes")
        assert back == study
        assert back.metric is Metric.ACCURACY
        assert (back.config, back.space) == ({"trials": 5}, {"v": 1})
        assert back.created_at.tzinfo is UTC
        assert abs(datetime.now(UTC) - back.created_at) < timedelta(minutes=1)

    def test_unknown_study_names_the_place_and_the_others(self, store: Store) -> None:
        """The error says where it looked and what is there, or what to do first."""
        with pytest.raises(StudyNotFound, match=r"no study 'x' in .+; run a search first"):
            store.study("x")
        for name in ("a", "b"):
            store.create_study(name, Metric.F1, "m", {}, {})
        with pytest.raises(StudyNotFound, match=r"there are b, a$"):
            store.study("x")

    def test_second_study_of_a_name_is_refused(self, store: Store, study: StudyRecord) -> None:
        """The process that was overtaken by another one is told in a sentence."""
        with pytest.raises(StudyInUse, match="'planes' has just been created"):
            store.create_study("planes", Metric.F1, "n", {}, {})
        assert store.studies() == [study]

    def test_what_searches_share_may_be_written_by_all_at_once(self, url: str) -> None:
        """Of eight that start together none fails: one makes the row, the others find it."""
        manifest = ManifestRecord(digest="d" * 64, root="/a", document="{}")
        stores = [Store(open_database(url)) for _ in range(8)]

        def create(store: Store) -> bool:
            try:
                store.create_study("planes", Metric.F1, manifest.digest, {}, {})
            except StudyInUse:
                return False
            return True

        with ThreadPoolExecutor(len(stores)) as pool:
            list(pool.map(lambda store: store.save_manifest(manifest), stores))
            list(pool.map(lambda store: store.save_check(manifest.digest, "{}"), stores))
            assert sum(pool.map(create, stores)) == 1
        assert stores[0].manifest(manifest.digest) == manifest
        assert stores[0].check(manifest.digest) == {}
        assert [study.name for study in stores[0].studies()] == ["planes"]
        for store in stores:
            store.close()

    def test_most_recently_used_study_comes_first(self, store: Store) -> None:
        """Creating, configuring and claiming a study are use; looking at it is not."""
        first, second = (store.create_study(n, Metric.F1, "m", {}, {}) for n in ("a", "b"))
        store.study("a")
        assert [study.name for study in store.studies()] == ["b", "a"]
        store.update_config(first.id, {"trials": 9})
        assert [study.name for study in store.studies()] == ["a", "b"]
        assert store.study("a").config == {"trials": 9}
        claim(store, second, "t", now=datetime.now(UTC) + timedelta(seconds=1))
        assert [study.name for study in store.studies()] == ["b", "a"]

    def test_manifest_is_kept_once_and_may_move(self, store: Store) -> None:
        """Saving again changes nothing but the folder."""
        manifest = ManifestRecord(digest="d" * 64, root="/a", document='{"files": ["ü"]}')
        store.save_manifest(manifest)
        store.save_manifest(manifest)
        assert store.manifest("d" * 64) == manifest
        store.save_manifest(ManifestRecord(digest="d" * 64, root="/b", document="ignored"))
        assert store.manifest("d" * 64).root == "/b"
        assert store.manifest("d" * 64).document == manifest.document
        with pytest.raises(LookupError, match="no manifest"):
            store.manifest("e" * 64)

    def test_changing_what_is_not_there_is_a_lookup_error(self, store: Store) -> None:
        """No change is lost in silence."""
        with pytest.raises(LookupError, match="no study with id 99"):
            store.update_config(99, {})
        with pytest.raises(LookupError, match="no stage run with id 99"):
            store.seal_stage_run(99, State.COMPLETE, 1.0, [])
        with pytest.raises(LookupError, match="no trial with id 99"):
            store.finish_trial(
                99,
                State.COMPLETE,
                score=None,
                loss=None,
                best_stage_run=None,
                best_epoch=None,
                failure=None,
                seconds=0,
            )

    # trials and their ranking

    def test_trial_lives_from_running_to_finished(self, store: Store, study: StudyRecord) -> None:
        """A trial is running until its result is written, and then holds all of it."""
        trial = store.add_trial(study.id, 7, schedule(64, 96), 2**40, Role.REPEAT)
        assert trial.state is State.RUNNING
        assert trial.schedule == schedule(64, 96)
        assert store.trial(study.id, 7) == trial
        assert store.running_trials(study.id) == [trial]
        run = store.begin_stage_run(trial, "a" * 64, 0)
        finish(store, trial, score=0.9, loss=0.3, run=run)
        done = store.trial(study.id, 7)
        assert (done.state, done.score, done.loss) == (State.COMPLETE, 0.9, 0.3)
        assert (done.best_stage_run, done.best_epoch, done.seconds) == (run.id, 1, 3.5)
        assert (done.seed, done.role) == (2**40, Role.REPEAT)
        assert done.finished_at is not None
        assert store.running_trials(study.id) == []

    def test_failed_trial_says_why(self, store: Store, study: StudyRecord) -> None:
        """A failure's sentence is kept, a score that is no number is not."""
        trial = store.add_trial(study.id, 0, schedule(64), 0, Role.PRESET)
        finish(store, trial, State.FAILED, score=float("nan"), loss=float("nan"))
        failed = store.trial(study.id, 0)
        assert (failed.score, failed.loss, failed.failure) == (None, None, "it burnt down")

    def test_trials_come_in_number_order(self, store: Store, study: StudyRecord) -> None:
        """Order is by number, whatever order they were added in, and each study has its own."""
        other = store.create_study("other", Metric.F1, "m", {}, {})
        for number in (2, 0, 1):
            store.add_trial(study.id, number, schedule(64), 0, Role.EXPLORE)
        store.add_trial(other.id, 0, schedule(64), 0, Role.EXPLORE)
        assert [trial.number for trial in store.trials(study.id)] == [0, 1, 2]

    def test_trial_may_be_begun_again(self, store: Store, study: StudyRecord) -> None:
        """If the answer is lost, asking again returns the trial that was begun."""
        trial = store.add_trial(study.id, 0, schedule(64), 0, Role.EXPLORE)
        assert store.add_trial(study.id, 0, schedule(64), 0, Role.EXPLORE) == trial
        assert store.trials(study.id) == [trial]
        for other in (schedule(96), 0, Role.EXPLORE), (schedule(64), 0, Role.REPEAT):
            with pytest.raises(ValueError, match="new to the study, got 0"):
                store.add_trial(study.id, 0, *other)
        finish(store, trial, score=0.5, loss=0.5)
        with pytest.raises(ValueError, match="new to the study, got 0"):
            store.add_trial(study.id, 0, schedule(64), 0, Role.EXPLORE)

    def test_trial_number_is_unique(self, store: Store, study: StudyRecord) -> None:
        """A second trial of a number is refused, a missing one is a LookupError."""
        store.add_trial(study.id, 0, schedule(64), 0, Role.EXPLORE)
        with pytest.raises(ValueError, match="new to the study, got 0"):
            store.add_trial(study.id, 0, schedule(64), 1, Role.EXPLORE)
        with pytest.raises(LookupError, match="no trial 5"):
            store.trial(study.id, 5)

    @pytest.mark.parametrize("metric", [Metric.ACCURACY, Metric.LOG_LOSS])
    def test_ranking_is_best_first_with_weights(self, store: Store, metric: Metric) -> None:
        """Complete trials, and pruned ones with weights, sorted as the metric says; NaN last."""
        study = store.create_study(metric, metric, "m", {}, {})
        results = [
            (State.COMPLETE, 0.5, 0.9, True),
            (State.COMPLETE, 0.7, 0.8, True),
            (State.COMPLETE, 0.7, 0.6, False),
            (State.COMPLETE, float("nan"), float("nan"), False),
            (State.PRUNED, 0.6, 0.5, True),
            (State.PRUNED, 0.65, 0.5, False),
            (State.FAILED, 0.99, 0.1, True),
        ]
        for number, (state, score, loss, kept) in enumerate(results):
            run = begin(store, study, number, f"{number:064}")
            files = [checkpoint(run, kind, f"{number}-{kind}.safetensors") for kind in Kind]
            store.seal_stage_run(run.id, State.COMPLETE, 1.0, files if kept else [])
            finish(store, store.trial(study.id, number), state, score=score, loss=loss, run=run)
        store.add_trial(study.id, 99, schedule(64), 0, Role.EXPLORE)

        ranking = store.ranking(study)
        order = [2, 1, 4, 0, 3] if metric.higher_is_better else [0, 4, 2, 1, 3]
        assert [ranked.trial.number for ranked in ranking] == order
        paths = {r.trial.number: r.checkpoint and r.checkpoint.path for r in ranking}
        assert paths[0] == "0-best.safetensors"
        assert paths[2] is None
        best = ranking[order.index(0)].checkpoint
        assert best is not None
        assert (best.size, best.sha256, best.score) == (5_000_000_000, "f" * 64, 0.9)
        assert ranking[0].trial == store.trial(study.id, order[0])

    def test_ranking_gives_no_weights_of_another_epoch(
        self, store: Store, study: StudyRecord
    ) -> None:
        """A later trial may train a shared stage further: those weights are not this trial's."""
        run = begin(store, study)
        finish(store, store.trial(study.id, 0), State.PRUNED, score=0.5, loss=0.5, run=run)
        store.seal_stage_run(run.id, State.PRUNED, 1.0, [checkpoint(run)])
        assert [ranked.checkpoint for ranked in store.ranking(study)] == [checkpoint(run)]
        later = replace(checkpoint(run), epoch=2)
        store.seal_stage_run(run.id, State.COMPLETE, 1.0, [later])
        assert store.ranking(study) == []

    # transactions

    def test_an_exception_undoes_everything(self, store: Store, study: StudyRecord) -> None:
        """What was written before the exception in the same transaction is gone."""

        def stumble() -> None:
            with writing(store._engine) as connection:
                connection.execute(text("DELETE FROM encore_studies"))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stumble()
        assert store.studies() == [study]

    def test_rows_of_a_study_go_with_it(self, store: Store, study: StudyRecord) -> None:
        """Foreign keys are enforced, and cascade."""
        run = begin(store, study)
        store.record_epoch(run.id, epoch())
        store.seal_stage_run(run.id, State.COMPLETE, 1.0, [checkpoint(run)])
        finish(store, store.trial(study.id, 0), score=0.5, loss=0.5, run=run)
        claim(store, study, "one")
        with writing(store._engine) as connection:
            connection.execute(text("DELETE FROM encore_studies"))
            for table in inspect(connection).get_table_names():
                if table.startswith("encore_") and table != schema_version.VERSION_TABLE:
                    count = connection.execute(text(f"SELECT count(*) FROM {table}"))  # noqa: S608
                    assert count.scalar() == 0, table
