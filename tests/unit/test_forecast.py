"""What is expected of stage runs, from what came of others."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from study.forecast import (
    MOST,
    Forecast,
    expected_improvement,
    point_of,
    shortfall,
    shortfall_of,
    to_model,
)
from study.stage_tree import Node, Trained
from tests.lab import schedule, stage
from trainers.metrics import Metric
from trainers.schedule import Schedule, Stage, Train

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


def tuned(rate: float = 1e-3, size: int = 64, stages: int = 1) -> Schedule:
    """Make a schedule of equal stages."""
    return schedule(*[stage(size, rate)] * stages)


def forecast(known: dict[tuple[Schedule, int], float]) -> Forecast:
    """Forecast from shortfalls by schedule and seed."""
    return Forecast([point_of(*each) for each in known], list(known.values()))


def at(found: Forecast, *asked: tuple[Schedule, int]) -> tuple[list[float], list[float]]:
    """Return means and standard deviations of schedules under seeds."""
    mean, sd = found.at([point_of(*each) for each in asked])
    return mean.tolist(), sd.tolist()


def known_by_rate(*shortfalls: float) -> dict[tuple[Schedule, int], float]:
    """Return each rate a shortfall."""
    return {(tuned(rate), 0): found for rate, found in zip(RATES, shortfalls, strict=False)}


def test_what_is_alike_is_expected_alike() -> None:
    """Between two rates that did well, another will; far from all, the mean is all there is."""
    found = forecast(known_by_rate(-1.0, -1.4, -1.5, -1.4, -1.0))
    (near, edge, far), (sure, _, unsure) = at(
        found, (tuned(1.5e-3), 0), (tuned(8e-5), 0), (tuned(1e-3, size=512), 0)
    )
    assert near < edge
    assert abs(near + 1.45) < 0.15
    assert sure < unsure
    assert abs(near + 1.45) < abs(far + 1.45)


def test_another_seed_is_as_good_but_less_known() -> None:
    """It has its own luck: less sure than the run itself, surer than a stranger."""
    found = forecast(known_by_rate(-1.0, -1.4, -1.5, -1.4, -1.0))
    (same, fresh, _), sds = at(
        found, (tuned(1e-3), 0), (tuned(1e-3), 1), (tuned(1e-3, size=256), 0)
    )
    assert abs(same - fresh) < 0.1
    assert sds == sorted(sds)
    assert len(set(sds)) == 3


def test_luck_is_handed_on_along_a_path() -> None:
    """After a lucky first stage, going on promises more than the same under an unlucky seed."""
    spread = {(tuned(rate), seed): -1.0 for rate in RATES for seed in (2, 3)}
    found = forecast(spread | {(tuned(), 0): -1.25, (tuned(), 1): -0.75})
    (lucky, unlucky), _ = at(found, (tuned(stages=2), 0), (tuned(stages=2), 1))
    assert lucky < unlucky


def test_a_probe_has_no_luck_to_hand_on() -> None:
    """It is fitted: trials that begin with the same probe share none, under any seed."""
    probed = Schedule(
        backbone="net", hidden=(), stages=(Stage(image_size=64, train=Train.PROBE), stage(64))
    )
    assert len(point_of(probed, 0).path) == 1
    assert point_of(probed.prefixes()[0], 0).path == ()


def test_what_is_in_training_promises_less_around_it() -> None:
    """Its neighbours are known better, as if it had come out as expected: no mean changes."""
    found = forecast(known_by_rate(-1.0, -1.4, -1.5))
    asked = [point_of(tuned(rate), 0) for rate in (2e-3, 1e-2)]
    mean, sd = found.at(asked)
    same, less = found.at(asked, [point_of(tuned(3e-3), 0)])
    assert same == pytest.approx(mean)
    assert (less < sd).all()


def test_a_known_run_is_weighed_with_what_is_like_it() -> None:
    """An outlier is treated as luck in part: the mean is between it and what others say."""
    found = forecast(known_by_rate(-1.0, -1.0, -1.4, -1.0, -1.0))
    assert -1.4 < found.known[2] < -1.0
    assert found.known.argmin() == 2


def test_the_scale_of_losses_does_not_matter() -> None:
    """On other data all losses are, say, halved: what is expected is halved."""
    shortfalls = (-1.0, -1.4, -1.5, -1.3, -1.1)
    here, there = (
        forecast(known_by_rate(*[x + by for x in shortfalls])) for by in (0.0, math.log(2))
    )
    asked = ((tuned(2e-3), 0), (tuned(1e-3), 1))
    (mean, sd), (other, same_sd) = at(here, *asked), at(there, *asked)
    assert np.subtract(other, mean) == pytest.approx(math.log(2))
    assert same_sd == pytest.approx(sd)


def test_the_order_in_which_runs_came_does_not_matter() -> None:
    """As long as there are no more than are modelled."""
    known = known_by_rate(-1.0, -1.4, -1.5, -1.3, -1.1)
    back = dict(reversed(known.items()))
    asked = ((tuned(2e-3), 0), (tuned(1e-3), 1))
    assert np.array(at(forecast(known), *asked)) == pytest.approx(
        np.array(at(forecast(back), *asked))
    )


def test_of_many_the_best_and_the_newest_are_modelled() -> None:
    """Half of each, in the order they came."""
    shortfalls = [-float(n % 1000) for n in range(3 * MOST)]
    chosen = to_model(shortfalls)
    assert len(chosen) == MOST
    assert chosen == sorted(chosen)
    assert chosen[-MOST // 2 :] == list(range(3 * MOST - MOST // 2, 3 * MOST))
    older = sorted(range(3 * MOST - MOST // 2), key=lambda place: shortfalls[place])
    assert set(chosen[: MOST // 2]) == set(older[: MOST // 2])
    assert to_model([-1.0, -2.0]) == [0, 1]
    assert to_model([]) == []


def test_expected_improvement_is_what_draws_improve() -> None:
    """On average, how far below the best so far a draw falls; none that falls short counts."""
    mean, sd, best = np.array([-1.0, -1.2, -0.5]), np.array([0.1, 0.01, 0.4]), -1.1
    drawn = mean + sd * np.random.default_rng(0).standard_normal((200_000, 3))
    gained = np.maximum(best - drawn, 0).mean(axis=0)
    assert expected_improvement(mean, sd, best) == pytest.approx(gained, abs=2e-3)


def test_what_validation_cannot_show_promises_little() -> None:
    """Where its noise is small beside what is unknown, it takes nothing; else most of it."""
    found = forecast(known_by_rate(-1.0, -1.4, -1.5))
    best, noise = float(found.known.min()), found.seen_noise
    mean, sd = np.full(3, best), noise * np.array([0.1, 1, 100])
    shown = found.improvement(mean, sd) / expected_improvement(mean, sd, best)
    assert shown == pytest.approx([0.1, 0.5**0.5, 1], rel=0.01)


def test_the_best_of_several_improves_more_than_the_best_alone() -> None:
    """But less than all their improvements together, since one of them counts."""
    found = forecast(known_by_rate(-1.0, -1.4, -1.5))
    points = [point_of(tuned(rate), seed) for rate in (2e-3, 5e-3) for seed in (0, 1)]
    alone = expected_improvement(*found.at(points), float(found.known.min()))
    together = found.least_of(points)
    assert alone.max() < together < alone.sum()


@pytest.mark.parametrize("metric", [Metric.ACCURACY, Metric.F1, Metric.BALANCED_ACCURACY])
def test_the_shortfall_has_two_parts(metric: Metric) -> None:
    """Half of it is the loss, half what is missing of the score; a thousandth is never known."""
    both = shortfall(metric, np.array([0.9, 1.0]), np.array([0.3, 0.3]))
    assert both[0] == pytest.approx((math.log(0.3) + math.log(0.101)) / 2)
    assert both[1] == pytest.approx((math.log(0.3) + math.log(0.001)) / 2)


def test_under_log_loss_the_loss_is_all() -> None:
    """A score that is a loss is no share."""
    found = shortfall(Metric.LOG_LOSS, np.array([3.0]), np.array([0.3]))
    assert found == pytest.approx(math.log(0.3))


def stage_run(trained: Trained | None) -> float:
    """Return the shortfall of a stage run."""
    return shortfall_of(Metric.ACCURACY, Node("key", tuned(), 0, None, trained=trained))


def test_what_tells_nothing_falls_infinitely_short() -> None:
    """A stage run in training, without a calibrated loss, or whose score is no number."""
    told = Trained((-0.9, 0.4), 0.3, 1.0)
    assert stage_run(told) == pytest.approx((math.log(0.3) + math.log(0.101)) / 2)
    for nothing in (None, replace(told, loss=None), replace(told, rank=(math.inf, math.inf))):
        assert stage_run(nothing) == math.inf


def every(points: Sequence[Schedule]) -> Forecast:
    """Forecast from nothing but equal shortfalls."""
    return Forecast([point_of(each, 0) for each in points], [-1.0] * len(points))


def test_a_single_run_is_enough_to_forecast() -> None:
    """And none at all leaves the prior."""
    one = every([tuned()])
    assert one.known == pytest.approx([-1.0])
    mean, sd = every([]).at([point_of(tuned(), 0)])
    assert (mean[0], sd[0] > 0.5) == (0.0, True)
