"""Mean average precision and macro AUROC of several labels, by scikit-learn's."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as reference

from storage.predictions import decode, encode
from study.statistics.scoring import Candidates, Scorer
from trainers.metrics import Evaluation, Metric, OfRanks

RANKS = [each for each in Metric if isinstance(each, OfRanks)]
THEIRS = {
    "mean_average_precision": reference.average_precision_score,
    "macro_auroc": reference.roc_auc_score,
}


def drawn(n: int, seed: int, few: int = 4) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Return which photos have `few` labels, and probabilities as files keep them, with ties."""
    rng = np.random.default_rng(seed)
    there = rng.random((n, few)) < 0.3
    there[:2] = [[True], [False]]
    shares = 1 / (1 + np.exp(-rng.normal(2.0 * there - 1, 1.5)))
    return there, np.where(rng.random((n, few)) < 0.2, 0.25, shares.round(3)).astype(np.float32)


def rows_of(there: NDArray[np.bool_], shares: NDArray[np.float32]) -> Evaluation:
    """Return them as rows of photos and labels."""
    labels = (there + 2 * np.arange(there.shape[1])).ravel().astype(np.int64)
    return Evaluation(labels, np.stack([1 - shares, shares], 2).reshape(-1, 2))


def scorer_of(metric: Metric, n: int, candidates: int = 3) -> tuple[Scorer, list[Evaluation]]:
    """Return what scores several predictions of the same photos, and these."""
    there, _ = drawn(n, 0)
    found = [rows_of(there, drawn(n, seed)[1]) for seed in range(candidates)]
    labels = found[0].labels
    p_true = np.stack([each.probabilities[np.arange(len(labels)), each.columns] for each in found])
    predicted = np.stack([each.predicted for each in found])
    groups = np.repeat(np.arange(n), 4)
    return Scorer(
        Candidates(labels, 8, predicted, p_true, groups=groups, questions=4), metric
    ), found


def kept(shares: NDArray[np.float32]) -> NDArray[np.float64]:
    """Round a label's probabilities as files keep them."""
    return shares.astype(np.float16).astype(float)


@pytest.mark.parametrize("metric", RANKS)
def test_the_mean_over_labels_is_that_of_scikit_learn(metric: Metric) -> None:
    """Ties and all; a label that no photo has, or that all have, is left out of the mean."""
    for seed in range(5):
        there, shares = drawn(60, seed)
        each = [THEIRS[metric](there[:, i], kept(shares)[:, i]) for i in range(4)]
        assert metric.of(rows_of(there, shares)) == pytest.approx(np.mean(each))
        there[:, 1], there[:, 2] = False, True
        assert metric.of(rows_of(there, shares)) == pytest.approx((each[0] + each[3]) / 2)
    assert np.isnan(metric.of(rows_of(np.zeros((5, 4), bool), shares[:5])))


@pytest.mark.parametrize("metric", RANKS)
def test_the_score_is_that_of_what_is_kept(metric: Metric) -> None:
    """Of rare labels, whose absence is nearly sure: an epoch's own is what its rows give later."""
    there, shares = drawn(200, 1)
    made = rows_of(there, shares / 500)
    kept_rows = decode(*encode(made), made.labels)
    of_kept = Evaluation.kept(made.labels, made.predicted, made.probabilities.astype(np.float16))
    scorer = Scorer(
        Candidates(made.labels, 8, made.predicted[None], kept_rows.true_probability[None]), metric
    )
    rows = np.arange(len(made.labels))
    expected = np.mean([THEIRS[metric](there[:, i], kept(shares / 500)[:, i]) for i in range(4)])
    for score in (
        metric.of(made, stored=True),
        metric.of(of_kept, stored=True),
        scorer.score(np.zeros_like(rows), rows),
    ):
        assert score == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("metric", RANKS)
def test_what_photos_add_is_the_slope_along_their_weights(metric: OfRanks) -> None:
    """Their mean is the score, and a photo that comes twice changes it by what it adds."""
    there, shares = drawn(80, 1, few=1)
    score, added = metric.of_label(there[:, 0], kept(shares)[:, 0])
    assert added.mean() == pytest.approx(score)
    small = 1e-5
    for photo in range(0, 80, 7):
        weights = np.ones(80)
        weights[photo] += small
        moved = THEIRS[metric](there[:, 0], kept(shares)[:, 0], sample_weight=weights)
        assert (moved - score) / small == pytest.approx((added[photo] - score) / 80, abs=1e-4)


@pytest.mark.parametrize("metric", RANKS)
def test_a_scorer_scores_sets_of_photos(metric: Metric) -> None:
    """All at once as one by one but for a term of the order 1 / n; what photos add is the score."""
    n = 300
    scorer, found = scorer_of(metric, n)
    inside = np.repeat(np.random.default_rng(2).random((n, 6)) < 0.8, 4, axis=0)
    within = scorer.within(inside.astype(np.float32))
    for place, each in enumerate(found):
        assert scorer.gains(place).mean() == pytest.approx(metric.of(each))
        for column, members in enumerate(inside.T):
            rows = np.flatnonzero(members)
            one = scorer.score(np.full(len(rows), place), rows)
            assert within[place, column] == pytest.approx(one, abs=0.01)
    best, (rank, _) = scorer.first()
    assert best == max(range(3), key=lambda place: metric.of(found[place]))
    assert -rank == pytest.approx(metric.of(found[best]), abs=1e-6)


@pytest.mark.parametrize("metric", RANKS)
@pytest.mark.parametrize("sure", [0.5, 3.0])
def test_an_interval_holds_the_truth(metric: Metric, sure: float) -> None:
    """Of 100 photos, whose labels go together, in at least 92 of 100 sets."""

    def world(n: int, rng: np.random.Generator) -> Scorer:
        common, own = rng.normal(size=(n, 1)), rng.normal(size=(n, 3))
        there = common + own > (0.5, 1.0, 1.5)
        noise = rng.normal(size=(n, 1)) + rng.normal(size=(n, 3))
        shares = 1 / (1 + np.exp(-noise - sure * (there - 0.5)))
        found = rows_of(there, shares.astype(np.float32))
        p_true = found.probabilities[np.arange(3 * n), found.columns][None]
        groups = np.repeat(np.arange(n), 3)
        several = Candidates(found.labels, 6, found.predicted[None], p_true, None, groups, 3)
        return Scorer(several, metric)

    def scored(scorer: Scorer) -> float:
        rows = np.arange(len(scorer.candidates.labels))
        return scorer.score(np.zeros_like(rows), rows)

    truth, held = scored(world(40_000, np.random.default_rng(9))), 0
    for seed in range(100):
        scorer = world(100, np.random.default_rng(seed))
        evidence = scorer.evidence(np.zeros(300, np.int64))
        low, high = scorer.limits(scored(scorer), evidence, scorer.design_effect(0))
        held += low <= truth <= high
    assert held >= 92
