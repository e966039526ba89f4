"""The keys and records of storage/records.py."""

from dataclasses import replace

import numpy as np
import pytest

from storage.records import EpochRecord, stage_run_key
from tests.lab import trial_of
from trainers.metrics import EpochMetrics, Evaluation, Metric
from trainers.schedule import Schedule, Stage

SCHEDULE = Schedule(
    backbone="resnet18",
    stages=(Stage(image_size=64, batch_size=8), Stage(image_size=96, batch_size=4)),
)


def test_key_is_the_one_it_always_was() -> None:
    """A key is stable across releases: a change here would have every study trained again."""
    key = stage_run_key("m" * 64, SCHEDULE.prefixes()[0], 1)
    assert key == "8046ded79a2de918b327e04e69ad0ef2db33e41ec1646b49dcb986ef629af634"


def test_key_is_shared_by_schedules_that_begin_alike() -> None:
    """Two schedules with the same first stage share its stage run, not that of the second."""
    other = replace(SCHEDULE, stages=(SCHEDULE.stages[0], Stage(image_size=128, batch_size=4)))
    first, second = SCHEDULE.prefixes(), other.prefixes()
    assert stage_run_key("m", first[0], 1) == stage_run_key("m", second[0], 1)
    assert stage_run_key("m", first[1], 1) != stage_run_key("m", second[1], 1)


@pytest.mark.parametrize(
    "changed",
    [
        replace(SCHEDULE, backbone="resnet34"),
        replace(SCHEDULE, weights="random"),
        replace(SCHEDULE, hidden=(256,)),
        replace(SCHEDULE, stages=SCHEDULE.stages[::-1]),
        replace(SCHEDULE, stages=SCHEDULE.stages[:1]),
        replace(SCHEDULE, stages=(SCHEDULE.stages[0], replace(SCHEDULE.stages[1], dropout=0.5))),
    ],
)
def test_key_changes_with_whatever_decides_the_outcome(changed: Schedule) -> None:
    """Another backbone, weights, head or stage is another stage run."""
    assert stage_run_key("m", changed, 1) != stage_run_key("m", SCHEDULE, 1)


def test_key_changes_with_the_seed_and_the_manifest() -> None:
    """The same schedule under another seed or on other photos is another stage run."""
    keys = {stage_run_key(m, SCHEDULE, seed) for m in ("m", "n") for seed in (0, 1)}
    assert len(keys) == 4


def test_trial_gives_its_schedule_and_the_schedules_own_digest() -> None:
    """A trial read from its JSON has the schedule it was made of, under the same identity."""
    trial = trial_of(SCHEDULE, seed=1)
    assert trial.schedule == SCHEDULE
    assert trial.schedule_digest == SCHEDULE.digest


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("loss", [0.3, float("nan")])
def test_epoch_record_scores_as_the_metrics_it_was_made_of(metric: Metric, loss: float) -> None:
    """A stored epoch ranks exactly as the trainer's own epoch did."""
    evaluation = Evaluation(np.array([0, 1]), np.array([[0.9, 0.1], [0.6, 0.4]], np.float32))
    metrics = EpochMetrics.of(
        evaluation,
        stage=0,
        epoch=1,
        cycle=1,
        lrs=(0.1, 0.2, 0.3),
        train_loss=0.5,
        valid_loss=loss,
        seconds=1.0,
        images_per_second=2.0,
    ).calibrated(metric)
    fields = {name: value for name, value in vars(metrics).items() if name != "evaluation"}
    record = EpochRecord(stage_run_id=1, **fields)
    np.testing.assert_equal(record.score(metric), metrics.score(metric))
    np.testing.assert_equal(record.rank(metric), metrics.rank(metric))
