"""Statistics of photos in groups: what is counted, and how often intervals hold the truth."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from study.criterion import Criterion
from study.statistics.crossfit import compare, flipped_p, paired_p
from study.statistics.folds import deal, deal_rounds
from study.statistics.groups import design_effect, labels_of, of_groups
from study.statistics.intervals import of_share, wilson
from study.statistics.scoring import Candidates, Scorer
from study.statistics.selection_bias import By, Trials, bias_corrected, chooser, mcnemar
from study.statistics.significance import p_value
from trainers.metrics import Metric

N = 300


def groups_of(size: int, n: int = N) -> NDArray[np.int64]:
    """Return groups of `size` photos, in a mixed order."""
    return np.random.default_rng(7).permutation(np.arange(n) // size)


def answers(
    groups: NDArray[np.int64], share: float, correlation: float, sets: int, seed: int = 0
) -> NDArray[np.bool_]:
    """Draw which photos are right, (sets, n): a group's rate is beta distributed."""
    rng, m = np.random.default_rng(seed), groups.max() + 1
    rates = np.full((sets, m), share)
    if correlation:
        odds = 1 / correlation - 1
        rates = rng.beta(share * odds, (1 - share) * odds, (sets, m))
    return rng.random((sets, len(groups))) < rates[:, groups]


def test_a_value_for_each_group_keeps_the_mean_and_has_the_clusters_variance() -> None:
    """Its variance is that of the textbook's ratio estimator, for groups of unequal sizes."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(9), rng.integers(1, 9, 9))
    values = rng.normal(size=(2, len(groups)))
    found = of_groups(values, groups)
    assert found.shape == (2, 9)
    np.testing.assert_allclose(found.mean(axis=1), values.mean(axis=1))
    for mine, own in zip(values, found, strict=True):
        off = [float((mine[groups == group] - mine.mean()).sum()) for group in range(9)]
        variance = 9 / 8 * sum(each**2 for each in off) / len(groups) ** 2
        assert own.var(ddof=1) / 9 == pytest.approx(variance)
    np.testing.assert_allclose(of_groups(values, np.arange(len(groups))), values)


def test_folds_part_no_group_and_share_classes_out() -> None:
    """A group's class is that of most of its photos; each fold gets its share of each."""
    groups = groups_of(5)
    labels = groups % 3
    labels[0] = (labels[0] + 1) % 3
    np.testing.assert_array_equal(labels_of(labels, groups), np.arange(60) % 3)
    for dealt in (
        deal(labels, 5, 3, groups),
        *deal_rounds(labels, 4, 5, np.random.default_rng(0), groups),
    ):
        for group in range(60):
            assert len(set(dealt[groups == group])) == 1
        of_group = [int(dealt[groups == group][0]) for group in range(60)]
        for label in range(3):
            assert np.bincount(of_group[label::3], minlength=5).tolist() == [4] * 5


@pytest.mark.parametrize("share", [0.6, 0.9, 0.97])
@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("size", [1, 5, 20])
def test_an_interval_holds_the_truth_whatever_the_groups(
    size: int, correlation: float, share: float
) -> None:
    """In at least 92 of 100 sets of 300 photos; counted by photos it does not, where they agree."""
    groups = groups_of(size)
    drawn = answers(groups, share, correlation, 400)
    limits = np.array([of_share(right, groups) for right in drawn])
    assert np.mean((limits[:, 0] <= share) & (share <= limits[:, 1])) >= 0.92
    if size == 20 and correlation == 0.7:
        plain = np.array([of_share(right) for right in drawn])
        assert np.mean((plain[:, 0] <= share) & (share <= plain[:, 1])) < 0.8


def test_alone_each_photo_counts_once() -> None:
    """Without groups the interval is Wilson's, to the last digit."""
    right = answers(groups_of(1), 0.9, 0.0, 1)[0]
    assert of_share(right) == wilson(float(right.sum()), N)
    assert design_effect(right.astype(float), None) == 1


@pytest.mark.parametrize(
    "criterion",
    [
        Criterion.ACCURACY,
        Criterion.BALANCED_ACCURACY,
        Criterion.F1,
        Criterion.LOG_LOSS,
        Criterion.AUROC,
    ],
)
def test_every_criterion_s_interval_widens_with_groups(criterion: Criterion) -> None:
    """Photos of one group that are all right or all wrong tell less than as many others."""
    groups = groups_of(20)
    right = answers(groups, 0.85, 0.7, 1)[0]
    labels = np.arange(N) % 2
    sure = np.where(right, 0.8, 0.3) + np.random.default_rng(2).uniform(0, 0.1, N)
    table = np.where(np.eye(2)[labels] == 1, sure[:, None], 1 - sure[:, None])[None]
    widths = []
    for given in (None, groups):
        found = Candidates(labels, 2, table.argmax(2), sure[None], table, given)
        scorer = Scorer(found, criterion)
        one = Trials(np.array([0]), np.array([0, 1]), np.array([0]))
        corrected = bias_corrected(scorer, chooser(scorer, one, By.MAX), 0)
        assert corrected.low is not None
        assert corrected.high is not None
        assert corrected.low <= corrected.estimate <= corrected.high
        widths.append(corrected.high - corrected.low)
    assert widths[1] > 1.5 * widths[0]


def test_a_class_of_a_single_group_has_no_interval() -> None:
    """Where each class counts by itself, thirty photos of one patient are one."""
    groups = groups_of(20)
    labels = (groups == 0).astype(np.int64)
    table = np.eye(2, dtype=np.float32)[labels][None]
    found = Candidates(labels, 2, table.argmax(2), np.ones((1, N), np.float32), table, groups)
    assert Scorer(found, Criterion.BALANCED_ACCURACY).few == 1
    assert Scorer(found, Criterion.ACCURACY).few is None
    part = found.of(np.flatnonzero(groups < 3))
    assert part.n_independent == 3
    assert part.independent.tolist() == [2, 1]


Answers = NDArray[np.float64]
Test = Callable[[Answers, Answers, NDArray[np.int64]], float]


def by_signs(one: Answers, other: Answers, groups: NDArray[np.int64]) -> float:
    """Test as `compare` does."""
    return flipped_p(one - other, groups)


def by_races(one: Answers, other: Answers, groups: NDArray[np.int64]) -> float:
    """Test as races of schedules do, of one seed each whose spread is known to be none."""
    return p_value(of_groups(one[None], groups), of_groups(other[None], groups), 0.0, 1)


@pytest.mark.parametrize("test", [by_signs, by_races])
def test_equals_are_not_told_apart_by_the_luck_of_groups(
    test: Callable[[Answers, Answers, NDArray[np.int64]], float],
) -> None:
    """At the level .05 two that are equal differ in about 5 of 100 sets; by photos in many more."""
    groups = groups_of(10)
    ones, others = (answers(groups, 0.8, 0.5, 200, seed).astype(float) for seed in (1, 2))
    told = [test(*pair, groups) < 0.05 for pair in zip(ones, others, strict=True)]
    assert np.mean(told) < 0.09
    alone = [test(*pair, np.arange(N)) < 0.05 for pair in zip(ones, others, strict=True)]
    assert np.mean(alone) > 0.2


def test_signs_of_photos_are_mcnemar_s_and_those_of_groups_are_not() -> None:
    """A patient whose ten photos all went better is one of a few, not ten of them."""
    groups = np.repeat(np.arange(10), 10)
    difference = np.where(groups < 3, 1.0, 0.0)
    assert flipped_p(difference) == mcnemar(30, 0)
    assert flipped_p(difference, groups) == mcnemar(3, 0) == 0.25


def test_what_an_ensemble_gains_is_less_sure_with_groups() -> None:
    """The interval of a gain, and its p value, count groups."""
    groups, labels = groups_of(20), np.arange(N) % 2
    tables = []
    for seed, share in ((3, 0.85), (4, 0.8)):
        right = answers(groups, share, 0.6, 1, seed)[0]
        sure = np.where(right, 0.9, 0.2).astype(np.float32)
        tables.append(np.where(np.eye(2)[labels] == 1, sure[:, None], 1 - sure[:, None]))
    many, single = (table.astype(np.float32) for table in tables)
    found, alone = (
        compare(Metric.ACCURACY, labels, [many], [single], given) for given in (groups, None)
    )
    assert found.gain == pytest.approx(alone.gain)
    wide, narrow = (np.diff(each.gain_interval)[0] for each in (found, alone))
    assert wide > 1.5 * narrow
    assert paired_p(Metric.ACCURACY, labels, many, single, groups) > paired_p(
        Metric.ACCURACY, labels, many, single
    )
