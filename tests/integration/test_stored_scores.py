"""What a choice is made by, read from the store: leading epochs, their predictions, looks."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from storage.records import Look
from tests.lab import Lab
from trainers.metrics import Metric


def test_the_leading_epochs_come_best_first(finished: Lab) -> None:
    """Of all trials that have ended, by the study's metric, ties by loss, up to a limit."""
    with finished.reading() as (store, study, _):
        epochs = [e for run in store.stage_runs(study.id) for e in store.epochs(run.id)]
        ranked = sorted(epochs, key=lambda e: (*e.rank(Metric.ACCURACY), e.stage_run_id, e.epoch))
        order = [(epoch.stage_run_id, epoch.epoch) for epoch in ranked]
        assert len(order) > 10
        assert store.leading_epochs(study, 999) == order
        assert store.leading_epochs(study, 4) == order[:4]
        by_loss = replace(study, metric=Metric.LOG_LOSS)
        least = min(epochs, key=lambda epoch: epoch.valid_loss)
        assert store.leading_epochs(by_loss, 1) == [(least.stage_run_id, least.epoch)]


@pytest.mark.parametrize("chunk", [1, 3, 400])
def test_predictions_come_as_they_were_asked_for(
    finished: Lab, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """Whatever goes into one query: in order, each the same as alone; a missing one is named."""
    monkeypatch.setattr("storage.store.CHUNK", chunk)
    labels = finished.trainer.labels
    with finished.reading() as (store, study, _):
        wanted = store.leading_epochs(study, 7)[::-1]
        found = store.predictions_of(wanted, labels)
        assert len(found) == len(wanted) == 7
        for (run, epoch), each in zip(wanted, found, strict=True):
            alone = store.predictions(run, epoch, labels)
            np.testing.assert_array_equal(each.predicted, alone.predicted)
            np.testing.assert_array_equal(each.true_probability, alone.true_probability)
            assert each.probabilities is not None
        lean = store.predictions_of(wanted, labels, whole=False)
        assert [each.probabilities for each in lean] == [None] * 7
        np.testing.assert_array_equal(lean[3].predicted, found[3].predicted)
        assert store.predictions_of([], labels) == []
        with pytest.raises(LookupError, match="stage run 99 has no predictions of epoch 7"):
            store.predictions_of([*wanted, (99, 7)], labels)


def test_looks_are_kept_in_order(finished: Lab) -> None:
    """Each with all that it saw, for its own study alone."""
    with finished.reading() as (store, study, _):
        other = store.create_study("other", Metric.F1, study.manifest_digest, {}, {})
        one = Look(
            study_id=study.id,
            trial=3,
            sha256="f" * 64,
            criterion="log_loss",
            score=0.1 + 0.2,
            errors=4,
            photos=309,
            looked_at=datetime(2026, 3, 1, 12, 3, tzinfo=UTC),
        )
        again = replace(one, trial=1, errors=5)
        for look in (one, again, replace(one, study_id=other.id)):
            store.record_look(look)
        assert store.looks(study.id) == [one, again]
        assert [look.study_id for look in store.looks(other.id)] == [other.id]
