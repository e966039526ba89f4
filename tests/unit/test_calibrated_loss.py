"""The log loss at the temperature that fits: what a search orders its stage runs by."""

import pickle

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import log_loss as sklearns

from trainers.metrics import Evaluation, Metric, calibrated_loss

Table = NDArray[np.float64]


def softmax(logits: Table) -> Table:
    """Return probabilities, (n, C)."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Table = odds / odds.sum(axis=1, keepdims=True)
    return shares


def drawn(photos: int, classes: int = 3, sharpened: float = 1.0) -> Evaluation:
    """Draw photos of classes, and a network that is too sure of itself by a factor."""
    rng = np.random.default_rng(5)
    logits = 1.5 * rng.normal(size=(photos, classes))
    sums = softmax(logits).cumsum(axis=1)
    labels = np.minimum((sums < rng.random((photos, 1))).sum(axis=1), classes - 1)
    return Evaluation(labels, softmax(logits * sharpened).astype(np.float32))


def right_by(*right: float) -> Evaluation:
    """Make photos of two classes in turn, by the probability that each is what it is."""
    labels = np.arange(len(right)) % 2
    own = np.array(right)
    table = np.stack([np.where(labels == 0, own, 1 - own), np.where(labels == 1, own, 1 - own)], 1)
    return Evaluation(labels, table.astype(np.float32))


def loss_of(evaluation: Evaluation, metric: Metric = Metric.ACCURACY) -> float:
    """Return the calibrated loss of predictions that are numbers."""
    found = calibrated_loss(evaluation, metric)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "sharpened", [0.5, *(pytest.param(each, marks=pytest.mark.long) for each in (1.0, 3.0))]
)
def test_it_is_the_least_log_loss_that_a_temperature_gives(sharpened: float) -> None:
    """Scikit-learn's log loss at the best of many temperatures, however sure the network is."""
    found = drawn(400, 3, sharpened)
    logs = np.log(found.probabilities.astype(float))
    least = min(sklearns(found.labels, softmax(logs / t)) for t in np.geomspace(0.2, 8, 300))
    assert loss_of(found) == pytest.approx(least, abs=1e-3)
    assert loss_of(found) >= least - 1e-4


def test_a_network_that_is_too_sure_is_not_held_to_it() -> None:
    """Three times sharper, the same network has far more log loss, and the same calibrated one."""
    fair, sure = drawn(400), drawn(400, sharpened=3.0)
    assert Metric.LOG_LOSS.of(sure) > 1.5 * Metric.LOG_LOSS.of(fair)
    assert loss_of(sure) == pytest.approx(loss_of(fair), abs=1e-3)


def test_photos_that_are_all_right_leave_the_doubt_of_laplaces_share() -> None:
    """However sure the network is of all alike, and the less the more photos there are."""
    for photos in (20, 300):
        left = -np.log(1 - 1 / (photos + 2) / 2)
        for right in (0.6, 0.9, 0.9999):
            assert loss_of(right_by(*[right] * photos)) == pytest.approx(left, rel=1e-2)
    assert 0 < loss_of(right_by(*[1.0] * 20)) < 1 / 20


def test_photos_that_are_all_right_are_still_in_order() -> None:
    """Doubtful cases cost more than none, more of them more yet, and a mistake the most."""
    sure = [0.999] * 40
    cases = ([], [0.9] * 2, [0.7] * 2, [0.7] * 6, [0.7] * 5 + [0.1])
    losses = [loss_of(right_by(*(sure[len(few) :] + few))) for few in cases]
    assert losses == sorted(losses)
    assert len({f"{loss:.4f}" for loss in losses}) == len(cases)


def test_classes_count_alike_for_f1_and_balanced_accuracy() -> None:
    """As if the rarer class had as many photos; for accuracy and log loss each photo counts."""
    found = drawn(900, 2)
    many, few = (np.flatnonzero(found.labels == label) for label in (0, 1))
    few = few[:20]
    rare = np.concatenate([many, few])
    even = np.concatenate([many, np.repeat(few, len(many) // len(few))])
    seen = Evaluation(found.labels[rare], found.probabilities[rare])
    evened = Evaluation(found.labels[even], found.probabilities[even])
    by_class, by_photo = loss_of(seen, Metric.F1), loss_of(seen, Metric.ACCURACY)
    assert by_class == loss_of(seen, Metric.BALANCED_ACCURACY)
    assert by_photo == loss_of(seen, Metric.LOG_LOSS)
    assert by_class == pytest.approx(loss_of(evened, Metric.ACCURACY), rel=0.02)
    assert abs(by_class - by_photo) > 0.02 * by_photo


def test_a_class_without_photos_changes_nothing() -> None:
    """Labels may leave classes out, the first one, too."""
    found = drawn(60, 4)
    some = found.labels % 2 == 1
    seen = Evaluation(found.labels[some], found.probabilities[some])
    assert all(0 < loss_of(seen, metric) < 3 for metric in Metric)


def test_one_class_leaves_nothing_to_be_wrong_about() -> None:
    """Its loss is nought."""
    assert loss_of(Evaluation(np.zeros(4, np.int64), np.ones((4, 1), np.float32))) == 0


@pytest.mark.parametrize("metric", Metric)
def test_predictions_that_are_no_numbers_have_none(metric: Metric) -> None:
    """A network that has diverged is not given a loss, nor are no photos at all."""
    for odd in (np.nan, np.inf):
        table = np.full((3, 2), 0.5, np.float32)
        table[1, 0] = odd
        assert calibrated_loss(Evaluation(np.array([0, 1, 1]), table), metric) is None
    assert calibrated_loss(Evaluation(np.array([], np.int64), np.ones((0, 2))), metric) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize(("photos", "classes"), [(3, 2), (301, 7), (4000, 30)])
def test_it_is_the_same_to_the_last_bit_however_predictions_came(
    metric: Metric, photos: int, classes: int
) -> None:
    """From this process, from another, from memory in another order, from doubles."""
    found = drawn(photos, classes, 2.0)
    first, table = loss_of(found, metric), found.probabilities
    sent = pickle.loads(pickle.dumps(found))  # noqa: S301 - made here
    assert (sent.probabilities != table).any()
    assert loss_of(sent, metric) == first
    assert loss_of(Evaluation(found.labels, np.asfortranarray(table)), metric) == first
    assert loss_of(Evaluation(found.labels, table.astype(np.float64)), metric) == first  # type: ignore[arg-type]
