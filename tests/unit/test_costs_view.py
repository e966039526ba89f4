"""What is printed of a rule: all its numbers, names as they are, within the terminal's width."""

import io
from typing import Any

import pytest
from rich.console import Console

from study.selection.goals import Goal
from study.selection.thresholds import Operation
from study.selection.tradeoff import TradeOff
from study.views.costs import print_operation
from trainers.decision import Decision

HOSTILE = r"[red]a[/] [/] [bold :fire: \[b]"
"""Closes a tag that is not open, opens some, and asks for an emoji."""

CURVE = tuple(TradeOff(at / 20, (1 - at / 20, at / 20), at / 10, 0.0) for at in range(1, 20))


def operation(**others: Any) -> Operation:
    """Make the operation of a rule for two classes."""
    given: dict[str, Any] = {
        "decision": Decision(((0.0, 9.0), (1.0, 0.0)), 2.0),
        "cost": 0.25,
        "cost_interval": (0.2, 0.31),
        "apparent_cost": 0.22,
        "plain_cost": 0.5,
        "confusion": [[40, 2], [7, 30]],
        "rejected": 0,
        "recalls": (40 / 42, 30 / 37),
        "feasible": True,
        "trade_off": CURVE,
        "photos": (42, 37),
    }
    return Operation(**(given | others))


def said(found: Operation, *classes: str, goal: Goal | None = None, width: int = 100) -> str:
    """Return what is printed."""
    text = io.StringIO()
    print_operation(Console(file=text, width=width, emoji=False), found, classes, goal)
    return text.getvalue()


def test_a_rule_is_printed_with_its_cross_fitted_and_its_optimistic_cost() -> None:
    """The cost with its interval, what one pays without, and what the rule seems to cost."""
    text = said(operation(), "A380", "B747")
    assert "cost 0.2500 per photo (95 % CI 0.2000-0.3100)" in text
    assert "0.5000 if the most probable class is predicted, -50 %" in text
    assert "0.2200 on the photos the rule was fitted on (optimistic)" in text
    assert "temperature 2.00: before calibration, the probabilities are over-confident" in text
    assert "did not hold" not in text
    assert "rejected" not in text


def test_the_threshold_is_said_in_both_probabilities() -> None:
    """Odds of 1 to 9, after a temperature of 2, are odds of 1 to 81 as the network gives them."""
    text = said(operation(), "A380", "B747")
    assert "name A380 from 0.1 on, else B747 (0.012 before calibration)" in text


def test_names_are_printed_as_they_are() -> None:
    """In the sentences, the confusion matrix and the curve, whatever classes are called."""
    goal = Goal(((0.0, 1.0), (1.0, 0.0)), None, ((0, 0.99),))
    text = said(operation(feasible=False), HOSTILE, "b", goal=goal, width=250)
    assert f"recall of {HOSTILE}: 95.2 %, at least 99 % was required" in text
    assert "its 42 photos are too few to rely on that: it takes 230 to be 90 % sure" in text
    assert "did not hold on photos the rule was not fitted on" in text
    assert text.count(HOSTILE) == 6


def test_rejected_photos_have_a_column() -> None:
    """Row by row they are what the other columns lack."""
    rule = Decision(((0.0, 9.0), (1.0, 0.0)), 1.0, 0.1)
    text = said(operation(decision=rule, rejected=9, photos=(46, 42)), "A380", "B747")
    assert "9 photos (10.2 %) are rejected, for a person to decide" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["A380", "40", "2", "4", "95.2"] in rows
    assert ["B747", "7", "30", "5", "81.1"] in rows


def test_the_curve_is_short_and_marks_the_rule() -> None:
    """Its ends and the rule's own point are among some eight."""
    text = said(operation(), "A380", "B747")
    shown = [line.split() for line in text.splitlines() if line.strip().startswith("0.")]
    points = [row[0] for row in shown if len(row) in (4, 7)]
    assert (points[0], points[-1]) == ("0.05", "0.95")
    assert 8 <= len(points) <= 9
    assert ["0.1", "90.0", "10.0", "0.2000", "<-", "the", "rule"] in shown


def test_of_more_classes_the_curve_is_about_what_is_answered() -> None:
    """There is no threshold to name: the share that is answered stands beside its cost."""
    curve = (TradeOff(0.1, (1.0, 1.0, 1.0), 0.05, 0.4), TradeOff(0.6, (0.9, 0.8, 1.0), 0.2, 0.0))
    found = operation(
        decision=Decision.plain(3),
        confusion=[[9, 1, 0], [2, 8, 0], [0, 0, 1]],
        recalls=(0.9, 0.8, 1.0),
        photos=(10, 10, 1),
        trade_off=curve,
    )
    text = said(found, "a", "b", "c")
    assert " on, else" not in text
    assert ["0.1", "60.0", "0.0500"] in [line.split() for line in text.splitlines()]
    assert ["0.6", "100.0", "0.2000"] in [line.split() for line in text.splitlines()]


@pytest.mark.parametrize("plain", [0.0, 0.5])
def test_nothing_is_divided_by_a_cost_of_nought(plain: float) -> None:
    """Where the most probable class costs nothing, no share of it is told; nor is a curve of none.

    The probabilities of a temperature of 1 are called calibrated.
    """
    found = operation(plain_cost=plain, trade_off=(), decision=Decision(((0, 1), (1, 0))))
    text = said(found, "A380", "B747")
    assert ("-50 %" in text) == (plain > 0)
    assert "the probabilities are calibrated" in text
    assert "other thresholds" not in text
