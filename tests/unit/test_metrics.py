"""Scores against scikit-learn, on random predictions and on degenerate ones."""

import math
import pickle
import warnings
from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from storage.predictions import encode
from trainers.metrics import (
    EpochMetrics,
    Evaluation,
    Metric,
    confusion_matrix,
    per_class,
)

Labels = NDArray[np.int64]


def random_case(seed: int, classes: int, count: int) -> tuple[Labels, Labels]:
    """Draw true and predicted labels; the latter are right more often than not."""
    random = np.random.default_rng(seed)
    truth, guess = random.integers(classes, size=(2, count))
    return truth, np.where(random.random(count) < 0.6, truth, guess)


CASES = {
    "two classes": (*random_case(0, 2, 309), 2),
    "ten classes": (*random_case(1, 10, 500), 10),
    "fewer photos than classes": (*random_case(2, 12, 9), 12),
    "a class without photos": (np.array([0, 0, 2, 2]), np.array([0, 2, 2, 2]), 3),
    "a class only predicted": (np.array([0, 0, 2, 2]), np.array([0, 1, 2, 1]), 3),
    "a class never predicted": (np.array([0, 1, 2, 2]), np.array([0, 0, 2, 2]), 3),
    "all of one class, right": (np.array([1, 1, 1]), np.array([1, 1, 1]), 3),
    "all of one class, wrong": (np.array([1, 1, 1]), np.array([0, 2, 2]), 3),
    "one class only": (np.array([0, 0]), np.array([0, 0]), 1),
    "one photo": (np.array([1]), np.array([0]), 2),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> tuple[Labels, Labels, int]:
    """Return true labels, predicted labels and the number of classes."""
    found: tuple[Labels, Labels, int] = request.param
    return found


def test_confusion_matrix(case: tuple[Labels, Labels, int]) -> None:
    """Rows are the true classes, columns the predicted ones, as in scikit-learn."""
    truth, predicted, classes = case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single class
        expected = sklearn_metrics.confusion_matrix(truth, predicted, labels=np.arange(classes))
    assert confusion_matrix(truth, predicted, classes).tolist() == expected.tolist()


def test_scores(case: tuple[Labels, Labels, int]) -> None:
    """Each metric of classes is scikit-learn's, also where classes lack."""
    truth, predicted, classes = case
    found = Evaluation(truth, np.eye(classes, dtype=np.float32)[predicted])
    expected = sklearn_metrics.accuracy_score(truth, predicted)
    assert Metric.ACCURACY.of(found) == pytest.approx(expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of predicted classes without photos
        expected = sklearn_metrics.balanced_accuracy_score(truth, predicted)
        correlation = sklearn_metrics.matthews_corrcoef(truth, predicted)
    assert Metric.BALANCED_ACCURACY.of(found) == pytest.approx(expected)
    assert Metric.MATTHEWS.of(found) == pytest.approx(correlation)
    expected = sklearn_metrics.f1_score(truth, predicted, average="macro", zero_division=0)
    assert Metric.F1.of(found) == pytest.approx(expected)


def test_numbers_of_each_class(case: tuple[Labels, Labels, int]) -> None:
    """Precision, recall, F1 and photos of each class are scikit-learn's, 0 where undefined."""
    truth, predicted, classes = case
    expected = sklearn_metrics.precision_recall_fscore_support(
        truth, predicted, labels=np.arange(classes), zero_division=0
    )
    numbers = per_class(confusion_matrix(truth, predicted, classes))
    found = [(of.precision, of.recall, of.f1, of.photos) for of in numbers]
    assert np.array(found) == pytest.approx(np.array(expected, dtype=float).T)


def test_degenerate_scores_need_no_division() -> None:
    """A class that is absent from truth and predictions does not drag a perfect score down."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Evaluation(np.array([0, 2]), np.eye(3, dtype=np.float32)[[0, 2]])
        assert [m.of(found) for m in Metric if m.higher_is_better and "class" in m.kinds] == [1] * 4
        assert per_class(found.confusion)[1].photos == 0


def test_an_evaluation_predicts_the_most_probable_class() -> None:
    """The predicted class has the greatest probability; ties go to the first."""
    probabilities = np.array([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]], np.float32)
    evaluation = Evaluation(np.array([1, 1, 1]), probabilities)
    assert evaluation.predicted.tolist() == [1, 0, 0]
    assert evaluation.confusion.tolist() == [[0, 0], [2, 1]]


def test_an_evaluation_travels_as_it_is_kept() -> None:
    """Two bytes a probability, though the confusion was asked for; no answer changes by that."""
    photos, classes = 300, 100
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.full(classes, 0.1), photos).astype(np.float32)
    table[0, :2] = 0.50001, 0.5  # which float16 cannot tell apart
    table[1, :2] = 0.5, 0.50001
    evaluation = Evaluation(rng.integers(0, classes, photos), table)
    confusion = evaluation.confusion
    sent = pickle.dumps(evaluation)
    assert len(sent) < 2 * photos * classes + 12 * photos + 1000
    came = pickle.loads(sent)  # noqa: S301 - made a line above
    assert came.predicted.tolist() == evaluation.predicted.tolist()
    assert came.confusion.tolist() == confusion.tolist()
    assert came.labels.tolist() == evaluation.labels.tolist()
    assert encode(came) == encode(evaluation)
    assert pickle.dumps(came) == sent


@pytest.mark.parametrize("shape", [(2, 2), (3,), (3, 2, 1)])
def test_an_evaluation_has_a_row_for_each_label(shape: tuple[int, ...]) -> None:
    """Probabilities of other photos, or of no classes, are refused."""
    with pytest.raises(ValueError, match=r"^probabilities must be 3 rows, one per label, got "):
        Evaluation(np.array([0, 1, 0]), np.zeros(shape, np.float32))


def test_rank_sorts_the_better_first() -> None:
    """More is better, but for the loss; among equal scores the smaller loss is better."""
    for metric in (Metric.ACCURACY, Metric.BALANCED_ACCURACY, Metric.F1):
        assert metric.higher_is_better
        assert metric.rank(0.9, 0.5) < metric.rank(0.8, 0.1)
        assert metric.rank(0.9, 0.1) < metric.rank(0.9, 0.5)
        assert metric.rank(0.9, 0.5) == metric.rank(0.9, 0.5)
    assert not Metric.LOG_LOSS.higher_is_better
    assert Metric.LOG_LOSS.rank(0.1, 0.1) < Metric.LOG_LOSS.rank(0.5, 0.5)


@pytest.mark.parametrize("metric", Metric)
def test_rank_puts_nan_last(metric: Metric) -> None:
    """In whatever order they come, a score that is no number is last, a loss so among equals."""
    scores = [(0.5, 0.5), (math.nan, 0.1), (0.5, math.nan)]
    for order in permutations(scores):
        ranked = sorted(order, key=lambda pair: metric.rank(*pair))
        assert ranked[0] == (0.5, 0.5)
        assert math.isnan(ranked[2][0])


def test_an_epoch_knows_its_scores() -> None:
    """An epoch's numbers are those of its evaluation; the metric picks one and ranks by it."""
    truth, predicted, classes = CASES["ten classes"]
    evaluation = Evaluation(truth, np.eye(classes, dtype=np.float32)[predicted])
    epoch = EpochMetrics.of(
        evaluation,
        stage=0,
        epoch=1,
        cycle=1,
        lrs=(0.1, 0.2, 1.0),
        train_loss=0.7,
        valid_loss=0.6,
        seconds=1.0,
        images_per_second=10.0,
    )
    assert epoch.score(Metric.ACCURACY) == Metric.ACCURACY.of(evaluation)
    assert epoch.score(Metric.BALANCED_ACCURACY) == Metric.BALANCED_ACCURACY.of(evaluation)
    assert epoch.score(Metric.F1) == Metric.F1.of(evaluation)
    assert epoch.score(Metric.LOG_LOSS) == 0.6
    assert epoch.score(Metric.MATTHEWS) == Metric.MATTHEWS.of(evaluation)
    assert epoch.calibrated(Metric.MATTHEWS).own_score == Metric.MATTHEWS.of(evaluation)
    assert epoch.calibrated(Metric.F1).own_score is None
    assert epoch.rank(Metric.ACCURACY) == (-epoch.accuracy, 0.6)
    assert epoch.rank(Metric.LOG_LOSS) == (0.6, 0.6)
