"""Whatever the predictions: the calibrated loss does not see how sure a network says it is."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.examples import examples
from trainers.metrics import Evaluation, Metric, calibrated_loss
from trainers.temperature import COOLEST, HOTTEST, fit_temperature

FEW = settings(max_examples=examples(60), deadline=None)
SHARPEST = -np.log(1e-7)


def evaluation_of(labels: np.ndarray, logits: np.ndarray) -> Evaluation:
    """Make predictions of logits."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return Evaluation(labels, (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32))


@st.composite
def photos(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels (n,) and logits (n, C): 2 to 60 photos of 2 to 5 classes, known well or badly."""
    count, classes = draw(st.integers(2, 60)), draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes)).clip(-2, 2)
    logits[np.arange(count), labels] += draw(st.sampled_from([0.0, 1.0, 3.0]))
    return labels, logits


def loss_of(evaluation: Evaluation, metric: Metric) -> float:
    """Return the calibrated loss of predictions that are numbers."""
    found = calibrated_loss(evaluation, metric)
    assert found is not None
    assert np.isfinite(found)
    return found


@FEW
@given(photos(), st.floats(0.5, 2), st.sampled_from(list(Metric)))
def test_a_change_of_temperature_changes_nothing(
    found: tuple[np.ndarray, np.ndarray], temperature: float, metric: Metric
) -> None:
    """But for what two bytes a probability round, and beyond the bounds of what is fitted."""
    labels, logits = found
    plain, changed = (evaluation_of(labels, logits / t) for t in (1, temperature))
    assume(2 * COOLEST < fit_temperature(labels, plain.probabilities) < HOTTEST / 2)
    assert loss_of(changed, metric) == pytest.approx(loss_of(plain, metric), abs=5e-3, rel=5e-3)


@FEW
@given(photos(), st.sampled_from(list(Metric)))
def test_it_is_not_above_the_raw_log_loss(
    found: tuple[np.ndarray, np.ndarray], metric: Metric
) -> None:
    """Except by the doubt that is left to all photos: the share of one of them, at the most."""
    labels, logits = found
    evaluation = evaluation_of(labels, logits)
    true = evaluation.probabilities[np.arange(len(labels)), labels]
    weights = 1 / np.bincount(labels)[labels] if metric.classes_alike else np.ones(len(labels))
    raw = np.average(-np.log(true), weights=weights)
    assert loss_of(evaluation, metric) <= raw + SHARPEST / (len(labels) + 1) + 1e-3


@FEW
@given(photos(), st.sampled_from(list(Metric)), st.integers(0, 99))
def test_neither_the_order_of_photos_nor_that_of_classes_matters(
    found: tuple[np.ndarray, np.ndarray], metric: Metric, seed: int
) -> None:
    """The loss is that of a set of photos, whatever their classes are called."""
    labels, logits = found
    rng = np.random.default_rng(seed)
    order, names = rng.permutation(len(labels)), rng.permutation(logits.shape[1])
    moved = evaluation_of(np.argsort(names)[labels][order], logits[order][:, names])
    there = loss_of(evaluation_of(labels, logits), metric)
    assert loss_of(moved, metric) == pytest.approx(there, rel=1e-3, abs=1e-4)
