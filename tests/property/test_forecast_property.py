"""Whatever schedules a space holds, what is expected of them hangs together."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from study.config.portfolio import TYPICAL, portfolio, space_for
from study.config.space import PHOTO_SPACE, Space
from study.forecast import Forecast, Point, _similarity, point_of
from study.searching.candidates import anywhere
from tests.examples import examples

SPACES = st.sampled_from([PHOTO_SPACE, space_for(TYPICAL)])


def points_of(space: Space, chance: int, count: int) -> list[Point]:
    """Return stage runs of random schedules and of all that they begin with, in some seeds."""
    rng = np.random.default_rng(chance)
    drawn = anywhere(space, "random", rng)
    schedules = [next(drawn) for _ in range(count)] + list(portfolio(TYPICAL, "net", "random"))
    return [
        point_of(prefix, seed)
        for each in schedules
        for prefix in each.prefixes()
        for seed in (0, 1)
    ]


@settings(deadline=None, max_examples=examples(25))
@given(SPACES, st.integers(0, 2**32), st.integers(1, 12))
def test_similarity_is_a_covariance(space: Space, chance: int, count: int) -> None:
    """It is symmetric and has no negative part, and does not depend on who else is compared."""
    points = points_of(space, chance, count)
    alike = _similarity(points, points)
    assert np.allclose(alike, alike.T)
    assert np.linalg.eigvalsh(alike).min() > -1e-8
    assert np.allclose(_similarity(points[:3], points[-2:]), alike[:3, -2:])


@settings(deadline=None, max_examples=examples(25))
@given(SPACES, st.integers(0, 2**32), st.integers(2, 12), st.integers(0, 3))
def test_what_is_expected_is_always_a_number(
    space: Space, chance: int, count: int, pending: int
) -> None:
    """Means lie about what was seen, deviations are above 0, whatever came out and waits."""
    points = points_of(space, chance, count)
    half = len(points) // 2
    shortfalls = np.random.default_rng(chance).normal(-1, 0.3, half)
    found = Forecast(points[:half], shortfalls)
    mean, sd = found.at(points[half:], points[-pending:] if pending else ())
    assert np.isfinite(mean).all()
    assert (sd > 0).all()
    assert np.abs(mean - shortfalls.mean()).max() < 10 * np.ptp(shortfalls) + 1
    assert 0 <= found.least_of(points[half:]) < 5
