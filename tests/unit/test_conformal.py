"""Rates as stated, in simulations: of one scorer and of folds, with groups and without."""

import math

import numpy as np
import pytest

from study.statistics.conformal import (
    Known,
    at_most,
    beyond,
    count,
    fewest,
    limit,
    p_values,
    sets,
)


def known(scores: np.ndarray, groups: np.ndarray | None = None) -> list[Known]:
    """Return what one scorer knows."""
    return [Known.of_photos(scores, groups)]


def known_labels(
    scores: np.ndarray, there: np.ndarray, groups: np.ndarray | None = None
) -> list[Known]:
    """Return what one scorer knows of labels."""
    return [Known.of_labels(scores, there, groups)]


@pytest.mark.parametrize(("n", "rate"), [(19, 0.05), (30, 0.1), (100, 0.05), (57, 0.02)])
def test_a_new_score_is_beyond_the_limit_at_the_stated_rate(n: int, rate: float) -> None:
    """At most, and at least a share of 1 / (n + 1) less: of uniform scores it is 1 - the limit."""
    rng = np.random.default_rng(0)
    beyond = np.array([1 - limit(known(rng.random(n)), rate) for _ in range(2000)])
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
        outcomes.append(new > limit(known(scores, groups if grouped else None), 0.1))
    assert (np.mean(outcomes) < 0.1 + 0.02) == grouped


@pytest.mark.parametrize("grouped", [True, False])
def test_shares_and_limits_say_the_same(grouped: bool) -> None:
    """A photo's share is at most the rate exactly where its score is above the limit; ties too."""
    rng = np.random.default_rng(2)
    for _ in range(100):
        n = int(rng.integers(1, 60))
        scores = rng.integers(0, 12, n) / 4
        groups = np.unique(rng.integers(0, 9, n), return_inverse=True)[1] if grouped else None
        new = np.append(scores, rng.random(20) * 4 - 0.5)
        for rate in (0.01, 0.05, 0.1, 0.25, 0.5):
            expected = new > limit(known(scores, groups), rate)
            found = beyond(p_values(known(scores, groups), new[None]), rate)
            assert found.tolist() == expected.tolist()


def test_groups_of_one_photo_are_no_groups() -> None:
    """Both give the same limits and shares."""
    scores, each = np.random.default_rng(3).random(40), np.arange(40)[::-1].copy()
    alone, grouped = known(scores), known(scores, each)
    assert limit(grouped, 0.1) == limit(alone, 0.1) == np.sort(scores)[36]
    assert p_values(grouped, scores[None]) == pytest.approx(p_values(alone, scores[None]))


def test_too_few_have_no_limit() -> None:
    """Of one photo less than `fewest` says nothing is beyond; of as many, what is above all."""
    for rate in (0.05, 0.1, 1 / 3, 0.01):
        scores = np.arange(fewest(rate), dtype=float)
        assert limit(known(scores), rate) == scores[-1]
        assert limit(known(scores[:-1]), rate) == math.inf
    assert [fewest(0.05), fewest(0.01), fewest(0.1), fewest(0.5)] == [19, 99, 9, 1]


def test_sets_hold_the_true_class_at_the_stated_rate() -> None:
    """Sets are right where probabilities are wrong, and the most probable class is in each."""
    rng = np.random.default_rng(4)
    held, sizes = [], []
    for _ in range(1000):
        truth = rng.integers(0, 3, 61)
        logits = rng.normal(size=(61, 3)) + 1.5 * np.eye(3)[truth]
        sure = np.exp(3 * logits) / np.exp(3 * logits).sum(axis=1, keepdims=True)  # too sure
        misfits = known(1 - sure[np.arange(60), truth[:60]])
        found = sets(p_values(misfits, 1 - sure[None, 60:]), sure[60:], 0.1)[0]
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
        ours.append(missed(*new, limit(known_labels(scores, there), rate)).mean())
        pooled.append(missed(*new, limit(known(scores[there]), rate)).mean())
    error = 4 * np.std(ours) / math.sqrt(len(ours))
    assert rate - 2 / (n / 2) - error <= np.mean(ours) <= rate + error
    assert np.mean(pooled) > rate + error


@pytest.mark.parametrize("grouped", [True, False])
def test_photos_of_one_label_each_are_those_of_one_class(grouped: bool) -> None:
    """With groups and without; photos without labels tell nothing, and groups of these neither."""
    rng = np.random.default_rng(6)
    for rate in (0.05, 0.1, 0.3):
        alone, labels = rng.random(40), rng.integers(0, 3, 50)
        scores, there = rng.random((50, 3)), np.eye(3, dtype=bool)[labels]
        there[40:] = False
        scores[np.arange(40), labels[:40]] = alone
        groups = np.append(np.arange(40) % 13, np.arange(10) + 13) if grouped else None
        expected = limit(known(alone, None if groups is None else groups[:40]), rate)
        assert limit(known_labels(scores, there, groups), rate) == expected


def test_a_group_counts_once_however_many_labels_it_has() -> None:
    """The labels of a photo divide its weight, and the photos of a group divide the group's."""
    scores = np.array([[1.0, 4.0], [2.0, 9.0], [3.0, 5.0]])
    there = np.array([[True, True], [True, False], [True, True]])
    # Groups {0, 1} and {2}: beyond 4.0 lies half of photo 2, beyond 3.0 also a quarter of a group.
    groups = np.array([0, 0, 1])
    assert limit(known_labels(scores, there, groups), 1.5 / 3) == 4.0
    assert limit(known_labels(scores, there, groups), 1.75 / 3) == 3.0
    assert limit(known_labels(scores, there, groups), 1.49 / 3) == 5.0
    assert limit(known_labels(scores, there, groups), 0.99 / 3) == math.inf
    assert limit(known_labels(scores, there & False), 0.3) == math.inf


def in_folds(
    rng: np.random.Generator, n: int, folds: int, spread: float = 0.0
) -> tuple[list[np.ndarray], np.ndarray]:
    """Draw points, and score each fold's by those of the others: how far the nearest is.

    Returns the known scores of each fold, and those of 50 new points by each fold's scorer. One
    scorer's unit of length is unlike another's if there is a `spread`.
    """
    points, new = rng.normal(size=(2, n, 2))
    new = new[:50]
    fold = np.arange(n) % folds
    units = np.exp(spread * rng.normal(size=folds))

    def far(some: np.ndarray, number: int) -> np.ndarray:
        known = points[fold != number]
        apart = np.linalg.norm(some[:, None] - known, axis=2).min(axis=1)
        return np.asarray(units[number] * apart)

    own = [far(points[fold == number], number) for number in range(folds)]
    return own, np.array([far(new, number) for number in range(folds)])


@pytest.mark.parametrize("spread", [0.0, 1.0])
@pytest.mark.parametrize(("n", "folds", "rate"), [(50, 5, 0.1), (60, 2, 0.05)])
def test_in_folds_a_new_photo_is_beyond_about_at_the_stated_rate(
    n: int, folds: int, rate: float, spread: float
) -> None:
    """However unlike the folds' scorers are; their mean score, against all, goes by none."""
    rng = np.random.default_rng(7)
    ours, means = [], []
    for _ in range(600):
        own, new = in_folds(rng, n, folds, spread)
        each = [Known.of_photos(scores) for scores in own]
        ours.append(beyond(p_values(each, new), rate).mean())
        means.append((new.mean(axis=0) > limit(each, rate)).mean())
        assert rate < at_most(rate, each) < 2 * rate + 2 * folds / n
    assert 0.6 * rate < np.mean(ours) < 1.15 * rate
    if spread:
        assert np.mean(means) < 0.6 * rate


@pytest.mark.parametrize("grouped", [True, False])
def test_scorers_that_agree_are_one(grouped: bool) -> None:
    """Folds whose scorers are one and the same know together what that one knows."""
    rng = np.random.default_rng(8)
    scores, new = rng.integers(0, 20, 40) / 4, rng.random(30) * 5
    groups = np.arange(40) // 3 if grouped else np.arange(40)  # the last is of one photo
    fold = groups % 3

    def part(number: int) -> Known:
        numbers = np.unique(groups[fold == number], return_inverse=True)[1]
        return Known.of_photos(scores[fold == number], numbers)

    parts, whole = [part(number) for number in range(3)], known(scores, groups)
    assert count(parts) == count(whole) == groups.max() + 1
    expected = p_values(whole, new[None])
    assert p_values(parts, np.array([new] * 3)) == pytest.approx(expected)
    for rate in (0.1, 0.2, 0.3):
        assert limit(parts, rate) == limit(whole, rate)
        assert at_most(rate, whole) == rate < at_most(rate, parts) < 1
    assert at_most(0.6, parts) == 1


def test_in_folds_sets_hold_the_stated_share() -> None:
    """Of classes, and of labels whose photos have none, one or many.

    Each fold's network is too sure, and has errors of its own.
    """
    rng = np.random.default_rng(9)
    held, shares = [], []
    for _ in range(400):
        truth, fold = rng.integers(0, 3, 80), np.arange(80) % 4
        seen = rng.normal(size=(80, 3)) + 1.5 * np.eye(3)[truth]
        logits = 3 * (seen + 0.3 * rng.normal(size=(4, 80, 3)))
        sure = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
        fold[60:] = -1  # new ones
        each = [Known.of_photos(1 - sure[k, fold == k, truth[fold == k]]) for k in range(4)]
        new = sure[:, 60:]
        found = sets(p_values(each, 1 - new), new.mean(axis=0), 0.1)
        assert found[np.arange(20), new.mean(axis=0).argmax(axis=1)].all()
        held.append(found[np.arange(20), truth[60:]].mean())
        scores, there = labelled(rng, 80)
        by_fold = scores + 0.3 * rng.normal(size=(4, 80, 5))
        labels = [Known.of_labels(by_fold[k, fold == k], there[fold == k]) for k in range(4)]
        p = p_values(labels, by_fold[:, 60:])
        beyond_all = np.where(beyond(p, 0.1), 1.0, 0.0)
        shares.append(missed(beyond_all, there[60:], 0.5).mean())
    assert 0.9 - 0.01 < np.mean(held) < 0.9 + 0.05
    assert 0.04 < np.mean(shares) < 0.1 + 0.01
