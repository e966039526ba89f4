"""Curves drawn in a terminal."""

import math

import pytest

from study.views.chart import chart


def columns(lines: list[str]) -> list[str]:
    """Return the drawn part of each line, without its label."""
    return [line[10:] for line in lines]


def test_a_rising_curve_rises() -> None:
    """The last column is full, the first hardly there, and the labels are the range."""
    lines = chart([0.0, 0.5, 1.0], height=4)
    assert len(lines) == 4
    assert lines[0].startswith("        1 ")
    assert lines[-1].startswith("        0 ")
    assert [line[-1] for line in columns(lines)] == ["█"] * 4
    assert columns(lines)[-1][0] == "▁"
    assert columns(lines)[0].strip() == "██"


@pytest.mark.parametrize("values", [[0.3], [0.3, 0.3, 0.3], [-2.0] * 100])
def test_what_never_changes_is_a_flat_line(values: list[float]) -> None:
    """One value or equal ones: a line at the bottom, and nothing is divided by nothing."""
    drawn = columns(chart(values))
    assert set(drawn[-1]) == {"▁"}
    assert all(not line.strip() for line in drawn[:-1])


def test_nothing_is_drawn_of_nothing() -> None:
    """No values, or none that is a number, give no lines."""
    assert chart([]) == []
    assert chart([math.nan, math.inf]) == []


@pytest.mark.parametrize("count", [36, 37, 71, 72, 73, 1000])
def test_no_line_is_wider_than_asked_for(count: int) -> None:
    """More values than columns are thinned out, and the last one stays."""
    values = [0.0] * (count - 1) + [1.0]
    lines = chart(values, width=72)
    assert {len(line) for line in columns(lines)} <= {count, 2 * count, 72}
    assert max(len(line) for line in columns(lines)) <= 72
    assert columns(lines)[0].endswith("█")


def test_one_column_is_the_last_value() -> None:
    """Even a single column can be had."""
    assert columns(chart([1.0, 2.0, 3.0], width=1, height=1)) == ["▁"]


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_leaves_a_gap(odd: float) -> None:
    """A diverged epoch does not spoil the scale of the others."""
    lines = chart([1.0, odd, 2.0], height=2)
    assert [line[2:4] for line in columns(lines)] == ["  ", "  "]
    assert lines[0].startswith("        2 ")
    assert lines[-1].startswith("        1 ")
