"""What stage runs are expected to take."""

from study.searching.stage_costs import UNKNOWN, StageCosts
from tests.lab import schedule, stage
from trainers.schedule import Schedule, Stage, Train

PROBE = Schedule(backbone="net", hidden=(), stages=(Stage(image_size=64, train=Train.PROBE),))


def test_before_anything_is_measured_all_are_alike() -> None:
    """So that what promises most is chosen."""
    costs = StageCosts(100, [])
    assert costs.seconds(schedule(stage(64))) == costs.seconds(schedule(stage(512))) == UNKNOWN


def test_what_was_measured_is_expected_again() -> None:
    """The median of an epoch, for as many epochs; whatever else the stage has."""
    measured = [(schedule(stage(64, epochs=2)), seconds) for seconds in (2.0, 4.0, 40.0)]
    costs = StageCosts(100, measured)
    assert costs.seconds(schedule(stage(64))) == 2.0
    assert costs.seconds(schedule(stage(64, 1e-5, epochs=3, dropout=0.5))) == 6.0


def test_other_sizes_cost_by_their_pixels() -> None:
    """Twice the side is four times the pixels; a stage of more steps takes more."""
    costs = StageCosts(100, [(schedule(stage(64)), 2.0)])
    assert costs.seconds(schedule(stage(128))) == 8.0
    assert costs.seconds(schedule(stage(64, min_steps=26))) == 4.0


def test_a_probe_is_not_priced_by_training() -> None:
    """Nor training by probes, which pass each photo once."""
    costs = StageCosts(100, [(PROBE, 5.0), (schedule(stage(64)), 20.0)])
    assert costs.seconds(PROBE) == 5.0
    assert costs.seconds(schedule(stage(64))) == 20.0
    assert StageCosts(100, [(PROBE, 5.0)]).seconds(schedule(stage(64))) == UNKNOWN


def test_roughly_a_probe_prices_training() -> None:
    """Where nothing was trained yet: it passes photos forward so often that it costs as much."""
    costs = StageCosts(100, [(PROBE, 5.0)])
    assert costs.rough(schedule(stage(64, epochs=2))) == 10.0
    assert costs.rough(PROBE) == 5.0
    known = StageCosts(100, [(PROBE, 5.0), (schedule(stage(64)), 20.0)])
    assert known.rough(schedule(stage(64))) == 20.0


def test_only_the_last_stage_is_meant() -> None:
    """What came before it was paid, or is priced for itself."""
    costs = StageCosts(100, [(schedule(stage(128), stage(64)), 2.0)])
    assert costs.seconds(schedule(stage(512), stage(64))) == 2.0
