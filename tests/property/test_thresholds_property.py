"""Whatever the predictions: the rule is Bayes', and blind to the order of classes."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from study.selection.thresholds import Goal, fit_decision, operate
from tests.examples import examples
from trainers.decision import REJECTED, Decision
from trainers.temperature import fit_temperature

Predictions = tuple[NDArray[np.int64], NDArray[np.float64]]
FEW = settings(max_examples=examples(60), deadline=None)


@st.composite
def predictions(draw: st.DrawFn, most: int = 4) -> Predictions:
    """Draw 2 to 30 photos of 2 to `most` classes; no two probabilities of one are alike."""
    photos, n_classes = draw(st.integers(2, 30)), draw(st.integers(2, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sure = draw(st.sampled_from([0.1, 1.0, 10.0]))
    odds = np.exp(sure * rng.normal(size=(photos, n_classes)))
    return rng.integers(0, n_classes, photos), odds / odds.sum(axis=1, keepdims=True)


def priced(n_classes: int, seed: int) -> tuple[tuple[float, ...], ...]:
    """Return prices from 0.1 to 10, of which no two are alike."""
    costs = np.random.default_rng(seed).uniform(0.1, 10, (n_classes, n_classes))
    np.fill_diagonal(costs, 0)
    return tuple(map(tuple, costs.tolist()))


@FEW
@given(predictions(), st.floats(0.05, 20))
def test_at_equal_prices_the_most_probable_class_is_named(
    found: Predictions, temperature: float
) -> None:
    """No temperature changes an answer where all mistakes cost the same."""
    labels, table = found
    plain = Decision.plain(table.shape[1])
    top = np.sort(table, axis=1)
    assume((top[:, -1] > 1.01 * top[:, -2]).all())
    for rule in (
        fit_decision(labels, table, Goal(plain.costs)),
        Decision(plain.costs, temperature),
    ):
        np.testing.assert_array_equal(rule.decide(table), table.argmax(axis=1))


@FEW
@given(predictions(), st.integers(0, 99))
def test_no_answer_is_expected_to_cost_less(found: Predictions, seed: int) -> None:
    """Under its own calibrated probabilities the rule is cheaper than naming the most probable."""
    labels, table = found
    rule = fit_decision(labels, table, Goal(priced(table.shape[1], seed)))
    expected, rows = rule.calibrated(table) @ np.array(rule.costs), np.arange(len(labels))
    chosen = expected[rows, rule.decide(table)]
    assert (chosen <= expected.min(axis=1)).all()
    assert chosen.mean() <= expected[rows, table.argmax(axis=1)].mean()


@FEW
@given(predictions(), st.floats(0.05, 20))
def test_no_temperature_explains_the_photos_better(found: Predictions, other: float) -> None:
    """The fitted one's loss, with its share for other classes, is the least of all."""
    labels, table = found
    n, n_classes = table.shape
    wanted = np.full(table.shape, 1 / (n + 2) / n_classes)
    wanted[np.arange(n), labels] += (n + 1) / (n + 2)

    def loss(temperature: float) -> float:
        logs = np.log(np.maximum(table, 1e-7)) / temperature
        logs -= logs.max(axis=1, keepdims=True)
        logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
        return float(-(wanted * logs).sum(axis=1).mean())

    assert loss(fit_temperature(labels, table)) <= loss(other) + 1e-9


@FEW
@given(predictions(2), st.floats(0.1, 10), st.floats(0.1, 10))
def test_of_two_classes_the_rule_is_a_threshold(
    found: Predictions, missed_first: float, missed_second: float
) -> None:
    """The first is named from price(second missed) / both prices on, and the rule says so."""
    labels, table = found
    rule = fit_decision(labels, table, Goal(((0, missed_first), (missed_second, 0))))
    threshold = missed_second / (missed_first + missed_second)
    calibrated = rule.calibrated(table)[:, 0]
    assume((np.abs(calibrated - threshold) > 1e-9).all())
    assert rule.threshold == pytest.approx(threshold)
    np.testing.assert_array_equal(rule.decide(table) == 0, calibrated > threshold)


@FEW
@given(predictions(2), st.sampled_from([0.3, 0.5, 0.8, 0.9]), st.booleans())
def test_a_least_recall_is_the_highest_threshold_that_reaches_it(
    found: Predictions, least: float, second: bool
) -> None:
    """It holds where it was fitted, and with one photo fewer caught the margin would not."""
    labels, table = found
    label = int(second)
    assume((labels == label).any())
    goal = Goal(((0.0, 1e-3), (1e-3, 0.0)), None, ((label, least),))
    rule = fit_decision(labels, table, goal)
    caught = rule.decide(table)[labels == label] == label
    assert caught.mean() >= least
    raised = rule.costs[label][1 - label] > 1e-3
    if raised:  # then only as far as to the last photo that must be caught
        lowered = rule.costs[label][1 - label] * (1 - 1e-6)
        row = (0.0, lowered) if label == 0 else (lowered, 0.0)
        costs = (row, goal.costs[1]) if label == 0 else (goal.costs[0], row)
        before = Decision(costs, rule.temperature).decide(table)[labels == label] == label
        assert before.sum() < caught.sum()


@FEW
@given(predictions(), st.integers(0, 99), st.randoms(use_true_random=False))
def test_the_order_of_classes_tells_nothing(found: Predictions, seed: int, random: object) -> None:
    """With all classes renamed, rule, costs and confusion are the same under the new names."""
    labels, table = found
    n_classes = table.shape[1]
    order = np.arange(n_classes)
    random.shuffle(order)  # type: ignore[attr-defined]
    new = np.argsort(order)  # the new name of each class
    costs = np.array(priced(n_classes, seed))
    moved = tuple(map(tuple, costs[np.ix_(order, order)].tolist()))
    one = operate(labels, table, Goal(tuple(map(tuple, costs.tolist())), 1.0, ((0, 0.7),)), folds=3)
    two = operate(new[labels], table[:, order], Goal(moved, 1.0, ((int(new[0]), 0.7),)), folds=3)
    assert two.decision.temperature == pytest.approx(one.decision.temperature)
    np.testing.assert_allclose(
        two.decision.costs, np.array(one.decision.costs)[np.ix_(order, order)], rtol=1e-6
    )
    np.testing.assert_array_equal(two.confusion, np.array(one.confusion)[np.ix_(order, order)])
    assert (two.cost, two.apparent_cost) == pytest.approx((one.cost, one.apparent_cost))


@FEW
@given(predictions(), st.integers(0, 99), st.floats(0, 10))
def test_what_is_rejected_costs_more_to_answer(
    found: Predictions, seed: int, reject_cost: float
) -> None:
    """A photo is rejected just where every answer is expected to cost more; dear ones never."""
    labels, table = found
    costs = priced(table.shape[1], seed)
    rule = fit_decision(labels, table, Goal(costs, reject_cost))
    doubt = (rule.calibrated(table) @ np.array(costs)).min(axis=1)
    np.testing.assert_array_equal(rule.decide(table) == REJECTED, doubt > reject_cost)
    assert (fit_decision(labels, table, Goal(costs, 10.0)).decide(table) != REJECTED).all()
