"""Scores agree with scikit-learn, one choice at a time as all candidates at once."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from study.criterion import Criterion
from study.statistics.areas import auroc
from study.statistics.scoring import Candidates, Scorer
from trainers.decision import REJECTED, Decision
from trainers.metrics import Metric

PRICES = {
    2: ((0.0, 5.0), (0.5, 0.0)),
    3: ((0.0, 1.0, 9.0), (2.0, 0.0, 0.25), (1.0, 1.0, 0.0)),
}
CASES = [(2, 60), (3, 90), (2, 309), (3, 200)]
OF_CLASSES = [each for each in Criterion if "class" in each.kinds]
EXACT = [each for each in OF_CLASSES if each is not Criterion.AUROC]


def candidates_of(n_classes: int, n: int, candidates: int = 12, seed: int = 0) -> Candidates:
    """Let candidates answer photos of unequal classes, the later the better, some alike."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(n_classes, n, p=np.arange(1, n_classes + 1) / sum(range(n_classes + 1)))
    odds = np.exp(rng.normal(0, 1.2, (candidates, n, n_classes)))
    odds[:, np.arange(n), labels] *= np.linspace(1, 4, candidates)[:, None]
    table = (odds / odds.sum(axis=2, keepdims=True)).round(2).astype(np.float32)
    table += np.float32(1e-4)  # rounded, so that some are equal; none is nought
    table /= table.sum(axis=2, keepdims=True)
    return Candidates(labels, n_classes, table.argmax(2), table[:, np.arange(n), labels], table)


def scorer_of(criterion: Criterion, found: Candidates) -> Scorer:
    """Make a scorer; for cost, one that leaves the dearest photos to a person."""
    priced = criterion is Criterion.COST
    return Scorer(found, criterion, Decision(PRICES[found.n_classes], 1.3, 0.7) if priced else None)


def sklearn_s(criterion: Criterion, labels: NDArray[Any], table: NDArray[Any]) -> float:
    """Score one candidate's probabilities as scikit-learn does; costs are counted by hand."""
    predicted, n_classes = table.argmax(axis=1), table.shape[1]
    match criterion:
        case Criterion.AUROC if n_classes == 2:
            return float(metrics.roc_auc_score(labels, table[:, 1]))
        case Criterion.AUROC:
            areas = [metrics.roc_auc_score(labels == k, table[:, k]) for k in range(n_classes)]
            return float(np.mean(areas))
        case Criterion.LOG_LOSS:
            even = table / table.astype(float).sum(axis=1, keepdims=True)
            return float(metrics.log_loss(labels, even))
        case Criterion.COST:
            return priced_by_hand(labels, table)
    scores: dict[Criterion, Callable[[], Any]] = {
        Criterion.ACCURACY: lambda: metrics.accuracy_score(labels, predicted),
        Criterion.BALANCED_ACCURACY: lambda: metrics.balanced_accuracy_score(labels, predicted),
        Criterion.F1: lambda: metrics.f1_score(labels, predicted, average="macro"),
        Criterion.MATTHEWS: lambda: metrics.matthews_corrcoef(labels, predicted),
    }
    return float(scores[criterion]())


def priced_by_hand(labels: NDArray[Any], table: NDArray[Any]) -> float:
    """Pay for each photo what its cheapest answer costs, or 0.7 where all cost more than that."""
    prices, paid = PRICES[table.shape[1]], 0.0
    for label, row in zip(labels, table, strict=True):
        calibrated = row.astype(float) ** (1 / 1.3)
        calibrated /= calibrated.sum()
        expected = [sum(p * price for p, price in zip(calibrated, column, strict=True))
                    for column in zip(*prices, strict=True)]  # fmt: skip
        answer = REJECTED if min(expected) > 0.7 else int(np.argmin(expected))
        paid += 0.7 if answer == REJECTED else prices[label][answer]
    return paid / len(labels)


def whole(found: Candidates) -> NDArray[np.float32]:
    """Make the one set that holds every photo."""
    return np.ones((len(found.labels), 1), np.float32)


@pytest.mark.parametrize("criterion", OF_CLASSES)
@pytest.mark.parametrize(("n_classes", "n"), CASES)
def test_a_score_is_that_of_scikit_learn(criterion: Criterion, n_classes: int, n: int) -> None:
    """For every candidate, on all photos and on samples in which some come several times."""
    found = candidates_of(n_classes, n)
    scorer, rng = scorer_of(criterion, found), np.random.default_rng(1)
    assert found.probabilities is not None
    for candidate in range(len(found.predicted)):
        for rows in (np.arange(n), rng.integers(0, n, n)):
            expected = sklearn_s(
                criterion, found.labels[rows], found.probabilities[candidate][rows]
            )
            scored = scorer.score(np.full(len(rows), candidate), rows)
            assert scored == pytest.approx(expected, rel=1e-5)


def test_over_more_classes_the_area_is_one_against_the_rest() -> None:
    """As `roc_auc_score` has it by its own name for that."""
    found = candidates_of(3, 90)
    assert found.probabilities is not None
    for table in found.probabilities.astype(float):
        even = table / table.sum(axis=1, keepdims=True)
        theirs = metrics.roc_auc_score(found.labels, even, multi_class="ovr", average="macro")
        assert auroc(found.labels, even) == pytest.approx(theirs)


@pytest.mark.parametrize("criterion", OF_CLASSES)
def test_each_photo_may_be_answered_by_another_candidate(criterion: Criterion) -> None:
    """Photo by photo, the answer of its own column counts."""
    found = candidates_of(3, 90)
    assert found.probabilities is not None
    columns = np.random.default_rng(2).integers(0, 12, 90)
    expected = sklearn_s(criterion, found.labels, found.probabilities[columns, np.arange(90)])
    scored = scorer_of(criterion, found).score(columns, np.arange(90))
    assert scored == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("criterion", EXACT)
@pytest.mark.parametrize(("n_classes", "n"), CASES)
def test_all_at_once_as_one_by_one(criterion: Criterion, n_classes: int, n: int) -> None:
    """On all photos and on parts, losses and costs negated; the tie-break is below any photo."""
    found = candidates_of(n_classes, n)
    scorer, rng = scorer_of(criterion, found), np.random.default_rng(3)
    inside = np.concatenate([whole(found), rng.random((n, 9)) < 0.8], axis=1).astype(np.float32)
    sign = 1 if criterion.higher_is_better else -1
    scores = scorer.within(inside)
    assert scores.shape == (12, 10)
    for candidate in range(12):
        for place, members in enumerate(inside.T):
            rows = np.flatnonzero(members)
            one = sign * scorer.score(np.full(len(rows), candidate), rows)
            assert scores[candidate, place] <= one + 1e-5
            assert scores[candidate, place] == pytest.approx(one, abs=0.5 / n + 1e-5)


@pytest.mark.parametrize(("n_classes", "n"), [(2, 309), (3, 309), (2, 1000)])
def test_areas_at_once_are_nearly_those_one_by_one(n_classes: int, n: int) -> None:
    """Exact on all photos; on four fifths within 0.02, and in the same order if clearly apart."""
    found = candidates_of(n_classes, n)
    scorer, rng = scorer_of(Criterion.AUROC, found), np.random.default_rng(3)
    inside = np.concatenate([whole(found), rng.random((n, 9)) < 0.8], axis=1).astype(np.float32)
    scores = scorer.within(inside)
    for place, members in enumerate(inside.T):
        rows = np.flatnonzero(members)
        exact = np.array([scorer.score(np.full(len(rows), c), rows) for c in range(12)])
        near = 0.02 if place else 0.5 / n
        assert np.abs(scores[:, place] - exact).max() <= near
        apart = exact[:, None] - exact > 0.02
        assert apart.sum() > 20
        assert (scores[:, place][:, None] > scores[:, place])[apart].all()


def test_a_class_that_a_part_lacks_does_not_count_there() -> None:
    """As `balanced_accuracy` and macro F1 have it: over the classes that are there."""
    found = candidates_of(3, 90)
    inside = (found.labels != 0).astype(np.float32)[:, None]
    rows = np.flatnonzero(inside)
    for criterion in (Criterion.BALANCED_ACCURACY, Criterion.F1):
        scorer = scorer_of(criterion, found)
        for candidate in range(12):
            one = scorer.score(np.full(len(rows), candidate), rows)
            assert scorer.within(inside)[candidate, 0] == pytest.approx(one, abs=0.5 / 90)


@pytest.mark.parametrize("criterion", [Criterion.ACCURACY, Criterion.BALANCED_ACCURACY])
def test_equal_scores_are_told_apart_by_the_loss(criterion: Criterion) -> None:
    """The surer of two that name the same classes wins, but never over one more photo right."""
    labels = np.repeat([0, 1], 50)
    right = np.ones(100, bool)
    right[:3] = False
    more = right.copy()
    more[0] = True
    predicted = np.where(np.stack([right, right, more]), labels, 1 - labels)
    sure = np.array([0.6, 0.9, 0.501])[:, None]
    p_true = np.where(predicted == labels, sure, 1e-6 * (1 - sure)).astype(np.float32)
    scorer = Scorer(Candidates(labels, 2, predicted, p_true), criterion)
    unsure, surer, best = scorer.within(np.ones((100, 1), np.float32))[:, 0]
    assert unsure < surer < best


def test_what_is_no_number_never_wins() -> None:
    """A network that diverged and predicted NaN is behind all others, whatever it is scored by."""
    found = candidates_of(2, 60)
    assert found.probabilities is not None
    p_true = found.p_true.copy()
    p_true[0] = np.nan
    broken = Candidates(found.labels, 2, found.predicted, p_true, found.probabilities)
    for criterion in (Criterion.ACCURACY, Criterion.LOG_LOSS, Criterion.F1):
        scores = scorer_of(criterion, broken).within(whole(broken))[:, 0]
        assert np.isfinite(scores).all()
        assert scores.argmax() != 0


@pytest.mark.parametrize("criterion", [c for c in OF_CLASSES if c is not Criterion.F1])
@pytest.mark.parametrize(("n_classes", "n"), [(2, 60), (2, 309)])
def test_gains_are_the_score_on_average(criterion: Criterion, n_classes: int, n: int) -> None:
    """What each photo adds, less where less is better; F1 is split as balanced accuracy."""
    found = candidates_of(n_classes, n)
    scorer, sign = scorer_of(criterion, found), 1 if criterion.higher_is_better else -1
    for candidate in range(12):
        expected = sign * scorer.score(np.full(n, candidate), np.arange(n))
        assert scorer.gains(candidate).mean() == pytest.approx(expected, abs=1e-6)
        assert scorer.gains(candidate).shape == (n,)


def test_f1_is_split_as_balanced_accuracy() -> None:
    """It is no mean over photos itself."""
    found = candidates_of(3, 90)
    f1, balanced = (scorer_of(c, found) for c in (Criterion.F1, Criterion.BALANCED_ACCURACY))
    np.testing.assert_array_equal(f1.gains(5), balanced.gains(5))
    whole_score = balanced.score(np.full(90, 5), np.arange(90))
    assert f1.gains(5).mean() == pytest.approx(whole_score)


def test_prices_come_with_cost_alone() -> None:
    """A scorer without what it needs is refused when it is made, or as soon as it is asked."""
    found = candidates_of(2, 60)
    with pytest.raises(ValueError, match="a decision must be given for cost and nothing else"):
        Scorer(found, Criterion.COST)
    with pytest.raises(ValueError, match="got accuracy"):
        Scorer(found, Criterion.ACCURACY, Decision.plain(2))
    compact = Candidates(found.labels, 2, found.predicted, found.p_true)
    with pytest.raises(ValueError, match="needs the probabilities of all classes"):
        Scorer(compact, Criterion.AUROC).score(np.zeros(60, int), np.arange(60))


def test_an_area_needs_both_kinds() -> None:
    """Without a photo of a class, or of any other, there is none."""
    table = np.full((4, 2), 0.5)
    assert np.isnan(auroc(np.zeros(4, int), table))
    assert np.isnan(auroc(np.ones(4, int), table))
    assert auroc(np.array([0, 1, 0, 1]), table) == 0.5


def test_every_metric_is_a_criterion() -> None:
    """It is the same object, and what only predictions have is no metric."""
    for metric in Metric:
        assert Criterion(metric.value) is metric
    assert set(Criterion) - set(Metric) == {Criterion.AUROC, Criterion.COST}
