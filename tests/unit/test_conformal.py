"""Limits at a stated rate: the guarantee in simulations, with groups and without."""

import math

import numpy as np
import pytest

from study.statistics.conformal import fewest, limit, limit_of_labels, p_values, sets


@pytest.mark.parametrize(("n", "rate"), [(19, 0.05), (30, 0.1), (100, 0.05), (57, 0.02)])
def test_a_new_score_is_beyond_the_limit_at_the_stated_rate(n: int, rate: float) -> None:
    """At most, and at least a share of 1 / (n + 1) less: of uniform scores it is 1 - the limit."""
    rng = np.random.default_rng(0)
    beyond = np.array([1 - limit(rng.random(n), rate) for _ in range(2000)])
    error = 4 * beyond.std() / math.sqrt(len(beyond))
    assert rate - 1 / (n + 1) - error <= beyond.mean() <= rate + error


def test_the_plain_quantile_would_promise_too_much() -> None:
    """The simulation can tell: of 19 scores, the empirical 95 % quantile is passed too often."""
    rng = np.random.default_rng(0)
    beyond = [1 - np.quantile(rng.random(19), 0.95) for _ in range(2000)]
    assert np.mean(beyond) > 0.07


@pytest.mark.parametrize("grouped", [True, False])
def test_photos_of_one_group_count_together(grouped: bool) -> None:
    """A photo of a new group is beyond at the rate; counted by photos, large groups mislead."""
    rng = np.random.default_rng(1)
    outcomes = []
    for _ in range(1000):
        sizes = np.where(rng.random(24) < 0.1, 40, 1)  # a few large groups that are alike
        groups = np.repeat(np.arange(24), sizes)
        centres = np.where(sizes > 1, -1.0, 0.0) + rng.normal(size=24)
        scores = centres[groups] + 0.1 * rng.normal(size=len(groups))
        new = (-1.0 if rng.random() < 0.1 else 0.0) + rng.normal() + 0.1 * rng.normal()
        outcomes.append(new > limit(scores, 0.1, groups if grouped else None))
    assert (np.mean(outcomes) < 0.1 + 0.02) == grouped


@pytest.mark.parametrize("grouped", [True, False])
def test_shares_and_limits_say_the_same(grouped: bool) -> None:
    """A photo's share is at most the rate exactly where its score is above the limit; ties too."""
    rng = np.random.default_rng(2)
    for _ in range(100):
        n = int(rng.integers(1, 60))
        known = rng.integers(0, 12, n) / 4
        groups = np.unique(rng.integers(0, 9, n), return_inverse=True)[1] if grouped else None
        new = np.append(known, rng.random(20) * 4 - 0.5)
        for rate in (0.01, 0.05, 0.1, 0.25, 0.5):
            expected = new > limit(known, rate, groups)
            found = p_values(known, new, groups) <= rate + 1e-9
            assert found.tolist() == expected.tolist()


def test_groups_of_one_photo_are_no_groups() -> None:
    """Both give the same limits and shares."""
    known, each = np.random.default_rng(3).random(40), np.arange(40)[::-1].copy()
    assert limit(known, 0.1, each) == limit(known, 0.1) == np.sort(known)[36]
    assert p_values(known, known, each) == pytest.approx(p_values(known, known))


def test_too_few_have_no_limit() -> None:
    """Of one photo less than `fewest` says nothing is beyond; of as many, what is above all."""
    for rate in (0.05, 0.1, 1 / 3, 0.01):
        known = np.arange(fewest(rate), dtype=float)
        assert limit(known, rate) == known[-1]
        assert limit(known[:-1], rate) == math.inf
    assert [fewest(0.05), fewest(0.01), fewest(0.1), fewest(0.5)] == [19, 99, 9, 1]


def test_sets_hold_the_true_class_at_the_stated_rate() -> None:
    """Sets are right where probabilities are wrong, and the most probable class is in each."""
    rng = np.random.default_rng(4)
    held, sizes = [], []
    for _ in range(1000):
        truth = rng.integers(0, 3, 61)
        logits = rng.normal(size=(61, 3)) + 1.5 * np.eye(3)[truth]
        sure = np.exp(3 * logits) / np.exp(3 * logits).sum(axis=1, keepdims=True)  # too sure
        known = 1 - sure[np.arange(60), truth[:60]]
        found = sets(sure[60:], limit(known, 0.1))[0]
        assert found[sure[60].argmax()]
        held.append(found[truth[60]])
        sizes.append(found.sum())
    assert 0.9 - 0.025 < np.mean(held) < 0.9 + 0.04
    assert 1.2 < np.mean(sizes) < 2.9  # neither one class alone, nor all of them


def labelled(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw scores of five labels of each photo, and which it has: none, or some that are alike.

    Photos with more labels are easier, so that labels counted one by one mislead.
    """
    there = rng.random((n, 5)) < rng.choice([0.0, 0.25, 0.9], (n, 1))
    hard = rng.normal(size=(n, 1)) - there.sum(axis=1, keepdims=True)
    return hard + 0.3 * rng.normal(size=(n, 5)), there


def missed(scores: np.ndarray, there: np.ndarray, highest: float) -> np.ndarray:
    """Return the share of its labels that each photo misses, of photos that have any."""
    some = there.any(axis=1)
    beyond = (scores > highest) & there
    return np.asarray(beyond[some].sum(axis=1) / there[some].sum(axis=1))


@pytest.mark.parametrize(("n", "rate"), [(12, 0.25), (60, 0.1)])
def test_a_new_photo_misses_the_stated_share_of_its_labels(n: int, rate: float) -> None:
    """At most, on average over known photos and new ones; a quantile of all labels does not."""
    rng = np.random.default_rng(5)
    ours, pooled = [], []
    for _ in range(1000):
        scores, there = labelled(rng, n)
        new = labelled(rng, 100)
        ours.append(missed(*new, limit_of_labels(scores, there, rate)).mean())
        pooled.append(missed(*new, limit(scores[there], rate)).mean())
    error = 4 * np.std(ours) / math.sqrt(len(ours))
    assert rate - 2 / (n / 2) - error <= np.mean(ours) <= rate + error
    assert np.mean(pooled) > rate + error


@pytest.mark.parametrize("grouped", [True, False])
def test_photos_of_one_label_each_are_those_of_one_class(grouped: bool) -> None:
    """With groups and without; photos without labels tell nothing, and groups of these neither."""
    rng = np.random.default_rng(6)
    for rate in (0.05, 0.1, 0.3):
        known, labels = rng.random(40), rng.integers(0, 3, 50)
        scores, there = rng.random((50, 3)), np.eye(3, dtype=bool)[labels]
        there[40:] = False
        scores[np.arange(40), labels[:40]] = known
        groups = np.append(np.arange(40) % 13, np.arange(10) + 13) if grouped else None
        expected = limit(known, rate, None if groups is None else groups[:40])
        assert limit_of_labels(scores, there, rate, groups) == expected


def test_a_group_counts_once_however_many_labels_it_has() -> None:
    """The labels of a photo divide its weight, and the photos of a group divide the group's."""
    scores = np.array([[1.0, 4.0], [2.0, 9.0], [3.0, 5.0]])
    there = np.array([[True, True], [True, False], [True, True]])
    # Groups {0, 1} and {2}: beyond 4.0 lies half of photo 2, beyond 3.0 also a quarter of a group.
    groups = np.array([0, 0, 1])
    assert limit_of_labels(scores, there, 1.5 / 3, groups) == 4.0
    assert limit_of_labels(scores, there, 1.75 / 3, groups) == 3.0
    assert limit_of_labels(scores, there, 1.49 / 3, groups) == 5.0
    assert limit_of_labels(scores, there, 0.99 / 3, groups) == math.inf
    assert limit_of_labels(scores, there & False, 0.3) == math.inf
