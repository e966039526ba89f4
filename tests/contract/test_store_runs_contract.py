"""What every store promises of stage runs, their epochs and files, and of owners."""

from dataclasses import replace

import numpy as np
import pytest

from storage.records import Kind, Pending, Role, State, StudyRecord
from storage.store import Store
from tests.contract.conftest import (
    LABELS,
    begin,
    checkpoint,
    epoch,
    schedule,
)
from trainers.metrics import Metric


class TestStoreRunsContract:
    """Run over every way to get a store."""

    # stage runs, epochs, predictions, checkpoints

    def test_stage_run_is_shared_by_key(self, store: Store, study: StudyRecord) -> None:
        """The second trial with the same beginning gets the first one's stage run."""
        first = store.add_trial(study.id, 0, schedule(64, 96), 1, Role.EXPLORE)
        second = store.add_trial(study.id, 1, schedule(64, 128), 1, Role.EXPLORE)
        root = store.begin_stage_run(first, "a" * 64, 0)
        assert store.begin_stage_run(first, "a" * 64, 0) == root
        assert store.begin_stage_run(second, "a" * 64, 0) == root
        leaf = store.begin_stage_run(first, "b" * 64, 1)
        assert (root.position, root.seed, root.image_size, root.epochs) == (0, 1, 64, 1)
        assert (root.trial_number, root.state, leaf.position) == (0, State.RUNNING, 1)
        assert store.stage_run(study.id, "a" * 64) == root
        assert store.stage_run(study.id, "c" * 64) is None
        assert store.stage_runs(study.id) == [root, leaf]
        assert store.stage_runs_of(first.id) == [root, leaf]
        assert store.stage_runs_of(second.id) == [root]

    def test_key_belongs_to_its_study(self, store: Store, study: StudyRecord) -> None:
        """Two studies never share a stage run, for each has its own vault."""
        other = store.create_study("other", Metric.F1, "m", {}, {})
        assert begin(store, study).id != begin(store, other).id
        assert store.stage_run(other.id, "a" * 64) in store.stage_runs(other.id)

    def test_epoch_comes_back_as_recorded(self, store: Store, study: StudyRecord) -> None:
        """The numbers are exact, the predictions decide as they did."""
        run = begin(store, study)
        metrics = epoch()
        store.record_epoch(run.id, metrics)
        (record,) = store.epochs(run.id)
        expected = {k: v for k, v in vars(metrics).items() if k != "evaluation"}
        assert vars(record) == {"stage_run_id": run.id, **expected}
        back = store.predictions(run.id, 1, LABELS)
        assert back.predicted.tolist() == [0, 1, 0]
        np.testing.assert_allclose(back.true_probability, [0.9, 0.7, 0.4], rtol=1e-3)
        with pytest.raises(LookupError, match="no predictions of epoch 2"):
            store.predictions(run.id, 2, LABELS)

    def test_how_an_epoch_ran_comes_back(self, store: Store, study: StudyRecord) -> None:
        """The share of waiting and the parts of a batch, also where they are not known."""
        run = begin(store, study)
        store.record_epoch(run.id, replace(epoch(1), data_wait=0.125, micro_batch=16))
        store.record_epoch(run.id, replace(epoch(2), data_wait=0.0))
        store.record_epoch(run.id, epoch(3))
        told = [(e.data_wait, e.micro_batch) for e in store.epochs(run.id)]
        assert told == [(0.125, 16), (0.0, None), (None, None)]

    def test_the_calibrated_loss_of_each_best_epoch(self, store: Store, study: StudyRecord) -> None:
        """Of the study's own stage runs, where it was worked out, to the last bit."""
        run, bare, other = (begin(store, study, at, 64 * key) for at, key in enumerate("abc"))
        elsewhere = begin(store, store.create_study("other", Metric.F1, "m", {}, {}))
        losses: list[float | None] = [None, 0.1 + 0.2, 0.3, 0.7]
        for number, loss in enumerate(losses, start=1):
            for one in (run, elsewhere):
                found = epoch(number, hit=0.2 if number == 4 else 0.9, loss=0.5 - number / 10)
                store.record_epoch(one.id, replace(found, calibrated_loss=loss))
        store.record_epoch(bare.id, epoch())
        store.record_epoch(other.id, replace(epoch(), calibrated_loss=0.1 + 0.2))
        assert [each.calibrated_loss for each in store.epochs(run.id)] == losses
        assert store.calibrated_losses(study) == {run.id: 0.3, other.id: 0.1 + 0.2}

    def test_recording_an_epoch_again_replaces_it(self, store: Store, study: StudyRecord) -> None:
        """After a crash the trainer repeats what it knows: nothing is doubled, the last holds."""
        run = begin(store, study)
        for metrics in (epoch(1), epoch(2), epoch(2, hit=0.2, loss=0.7)):
            store.record_epoch(run.id, metrics)
        assert [(e.epoch, e.valid_loss) for e in store.epochs(run.id)] == [(1, 0.2), (2, 0.7)]
        assert store.predictions(run.id, 1, LABELS).predicted.tolist() == [0, 1, 0]
        assert store.predictions(run.id, 2, LABELS).predicted.tolist() == [1, 1, 0]

    def test_recording_an_earlier_epoch_forgets_later_ones(
        self, store: Store, study: StudyRecord
    ) -> None:
        """A stage resumed from before them trains them again; other stage runs keep theirs."""
        run, other = begin(store, study), begin(store, study, 1, "b" * 64)
        for one in (run, other):
            for number in (1, 2, 3, 4):
                store.record_epoch(one.id, epoch(number))
        store.record_epoch(run.id, epoch(2, hit=0.2, loss=0.7))
        assert [(e.epoch, e.valid_loss) for e in store.epochs(run.id)] == [(1, 0.2), (2, 0.7)]
        assert [e.epoch for e in store.epochs(other.id)] == [1, 2, 3, 4]
        assert len(store.epochs_of_study(study.id)) == 6
        for number in (3, 4):
            with pytest.raises(LookupError, match=f"no predictions of epoch {number}"):
                store.predictions(run.id, number, LABELS)
            assert store.predictions(other.id, number, LABELS).predicted.tolist() == [0, 1, 0]
        store.record_epoch(run.id, epoch(3))
        assert [e.epoch for e in store.epochs(run.id)] == [1, 2, 3]

    @pytest.mark.parametrize("state", [State.COMPLETE, State.PRUNED])
    def test_a_sealed_stage_run_keeps_later_epochs(
        self, store: Store, study: StudyRecord, state: State
    ) -> None:
        """Trained again for a file that another trial needs, it still is what trials point to."""
        run = begin(store, study)
        for number in (1, 2, 3):
            store.record_epoch(run.id, epoch(number))
        store.seal_stage_run(run.id, state, 1.0, [checkpoint(run)])
        store.record_epoch(run.id, epoch(1, hit=0.2, loss=0.7))
        assert [(e.epoch, e.valid_loss) for e in store.epochs(run.id)] == [
            (1, 0.7),
            (2, 0.2),
            (3, 0.2),
        ]
        assert store.predictions(run.id, 3, LABELS).predicted.tolist() == [0, 1, 0]

    def test_loss_that_is_no_number_comes_back_as_such(
        self, store: Store, study: StudyRecord
    ) -> None:
        """A diverged epoch is recorded, and ranks last."""
        run = begin(store, study)
        store.record_epoch(run.id, epoch(1, loss=float("nan")))
        store.record_epoch(run.id, epoch(2, loss=float("inf")))
        diverged, exploded = store.epochs(run.id)
        assert np.isnan(diverged.valid_loss)
        assert np.isinf(exploded.valid_loss)
        assert diverged.rank(Metric.LOG_LOSS) == (np.inf, np.inf)

    def test_epochs_of_a_trial_come_in_training_order(
        self, store: Store, study: StudyRecord
    ) -> None:
        """Stage by stage, epoch by epoch, also where the first stage was another trial's."""
        first = store.add_trial(study.id, 0, schedule(64), 1, Role.EXPLORE)
        second = store.add_trial(study.id, 1, schedule(64, 96), 1, Role.EXPLORE)
        leaf = store.begin_stage_run(second, "b" * 64, 1)
        root = store.begin_stage_run(first, "a" * 64, 0)
        store.begin_stage_run(second, "a" * 64, 0)
        for run, number in ((leaf, 1), (root, 1), (root, 2)):
            store.record_epoch(run.id, epoch(number))
        order = [(e.stage, e.epoch) for e in store.epochs_of_trial(second.id)]
        assert order == [(0, 1), (0, 2), (1, 1)]
        assert len(store.epochs_of_trial(first.id)) == 2
        assert len(store.epochs_of_study(study.id)) == 3

    def test_sealing_keeps_the_checkpoints_given(self, store: Store, study: StudyRecord) -> None:
        """A sealed stage run has exactly the weights it was sealed with, even when sealed again."""
        run = begin(store, study)
        kept = [checkpoint(run, Kind.BEST, "a"), checkpoint(run, Kind.LAST, "b")]
        for _ in range(2):
            store.seal_stage_run(run.id, State.COMPLETE, 12.5, kept)
        sealed = store.stage_run(study.id, run.key)
        assert sealed is not None
        assert (sealed.state, sealed.seconds) == (State.COMPLETE, 12.5)
        assert sealed.finished_at is not None
        assert store.checkpoints_of(run.id) == kept
        assert store.checkpoints(study.id) == kept
        assert store.known_paths(study.id) == {"a", "b"}
        store.delete_checkpoint(run.id, Kind.LAST)
        store.delete_checkpoint(run.id, Kind.LAST)
        assert store.known_paths(study.id) == {"a"}

    def test_sealing_with_anothers_checkpoint_changes_nothing(
        self, store: Store, study: StudyRecord
    ) -> None:
        """A mistake in one checkpoint leaves the stage run as it was."""
        run, other = begin(store, study), begin(store, study, 1, "b" * 64)
        with pytest.raises(ValueError, match="checkpoints must be of stage run"):
            store.seal_stage_run(run.id, State.COMPLETE, 1.0, [checkpoint(other)])
        assert store.stage_run(study.id, run.key) == run

    def test_failed_stage_run_says_so(self, store: Store, study: StudyRecord) -> None:
        """A stage run that could not be trained is found as failed."""
        run = begin(store, study)
        store.fail_stage_run(run.id, 2.0)
        failed = store.stage_run(study.id, run.key)
        assert failed is not None
        assert failed.state is State.FAILED

    # names

    def test_a_name_is_given_once(self, store: Store, study: StudyRecord) -> None:
        """It stays given when its file is sealed, retired and gone; only an answer may be lost."""
        run = begin(store, study)
        assert store.note_name(study.id, "a.safetensors", "f" * 64)
        assert store.note_name(study.id, "a.safetensors", "f" * 64)  # the very same note
        assert not store.note_name(study.id, "a.safetensors", "e" * 64)
        assert store.pending(study.id) == [Pending("a.safetensors", "f" * 64)]
        store.seal_stage_run(run.id, State.COMPLETE, 1.0, [checkpoint(run)])
        assert store.pending(study.id) == []
        assert not store.note_name(study.id, "a.safetensors", "f" * 64)
        store.retire_checkpoint(checkpoint(run), "weak")
        assert store.pending(study.id) == [Pending("a.safetensors", "f" * 64)]
        assert not store.note_name(study.id, "a.safetensors", "f" * 64)
        store.settle_names(study.id, ["a.safetensors"])
        assert store.pending(study.id) == []
        assert not store.note_name(study.id, "a.safetensors", "e" * 64)
