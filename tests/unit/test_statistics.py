"""Intervals and tests agree with the textbook; what is expected of the chosen is not flattered."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import fmean

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, norm
from threadpoolctl import threadpool_limits

from study.criterion import Criterion
from study.statistics import selection_bias
from study.statistics.folds import deal_rounds
from study.statistics.intervals import FEWEST_OF_CLASS, wilson
from study.statistics.scoring import Candidates, Scorer
from study.statistics.selection_bias import (
    FOLDS,
    ONE_SIDED,
    By,
    Trials,
    bias_corrected,
    choose,
    chooser,
    mcnemar,
    schedule_ranks,
)

OF_ONE_CLASS = [c for c in Criterion if "class" in c.kinds and c is not Criterion.COST]
SLOWER = (Criterion.AUROC, Criterion.MATTHEWS, Criterion.BALANCED_ACCURACY)
"""The criteria of photos of one class each, which these simulations are of."""

WORLDS = 400
"""So many simulated studies are asked for each setting."""


@pytest.mark.parametrize(("right", "n"), [(0, 1), (0, 10), (1, 2), (7, 10), (305, 309), (309, 309)])
def test_the_interval_is_wilson_s(right: int, n: int) -> None:
    """As SciPy has it, also where all or none are right, and always within 0 and 1."""
    theirs = binomtest(right, n).proportion_ci(method="wilson")
    low, high = wilson(right, n)
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-7)
    assert 0 <= low <= right / n <= high + 1e-12 <= 1 + 1e-12


def test_the_interval_is_that_of_the_textbook() -> None:
    """Newcombe (1998) prints 0.2553 to 0.3662 for 81 of 263."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize("first", [0, 1, 4, 18, 300])
@pytest.mark.parametrize("second", [0, 1, 5, 18, 290])
def test_mcnemar_is_a_binomial_test(first: int, second: int) -> None:
    """Exact, two-sided and symmetric; 1 where the two never differ."""
    n = first + second
    expected = binomtest(first, n).pvalue if n else 1.0
    assert mcnemar(first, second) == pytest.approx(expected)
    assert mcnemar(first, second) == mcnemar(second, first)


@pytest.mark.parametrize("counts", [(160, 149), (7, 1, 2, 33), (3, 3, 3, 3), (0, 11)])
def test_each_round_deals_every_photo_once_and_evenly(counts: tuple[int, ...]) -> None:
    """All folds, and each class's share of them, are equal but for one photo; rounds differ."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    folds = deal_rounds(labels, selection_bias.REPEATS, FOLDS, np.random.default_rng(1))
    assert folds.shape == (selection_bias.REPEATS, len(labels))
    for one in folds[:50]:
        sizes = np.bincount(one, minlength=FOLDS)
        assert len(sizes) == FOLDS
        assert np.ptp(sizes) <= 1
        for label in range(len(counts)):
            assert np.ptp(np.bincount(one[labels == label], minlength=FOLDS)) <= 1
    assert len({one.tobytes() for one in folds}) > selection_bias.REPEATS / 2


def by_hand(scores: Sequence[float], trials: Trials, by: By) -> int:
    """Choose as a person would: schedule, then its best trial, then that one's best epoch."""
    if by is By.MAX:
        return max(range(len(scores)), key=lambda column: scores[column])
    epochs = [trials.columns[start:end].tolist() for start, end in pairwise(trials.starts.tolist())]
    best = [max(scores[column] for column in mine) for mine in epochs]
    names = trials.schedules.tolist()
    seeds = {name: [b for b, own in zip(best, names, strict=True) if own == name] for name in names}
    squares = sum((x - fmean(each)) ** 2 for each in seeds.values() for x in each)
    freedom = len(best) - len(seeds)
    spread = (squares / freedom) ** 0.5 if freedom and by is By.LCB else 0.0
    bound = {name: fmean(x) - ONE_SIDED * spread / len(x) ** 0.5 for name, x in seeds.items()}
    schedule = max(bound, key=lambda name: bound[name])
    own = [place for place, name in enumerate(names) if name == schedule]
    trial = max(own, key=lambda place: best[place])
    return max(epochs[trial], key=lambda column: scores[column])


@pytest.mark.parametrize("by", By)
@pytest.mark.parametrize("case", range(40))
def test_the_choice_is_that_of_a_person(by: By, case: int) -> None:
    """On random tables, with trials that share epochs and schedules without any, set by set."""
    rng = np.random.default_rng(case)
    columns = int(rng.integers(2, 12))
    schedules = np.sort(rng.choice([0, 2, 3, 7], int(rng.integers(1, 9))))
    epochs = [rng.permutation(columns)[: rng.integers(1, columns + 1)] for _ in schedules]
    starts = np.cumsum([0, *map(len, epochs)])
    trials = Trials(np.concatenate(epochs), starts, schedules)
    scores = rng.permuted(np.linspace(0, 1, columns * 6)).reshape(columns, 6)
    expected = [by_hand(column, trials, by) for column in scores.T.tolist()]
    found = choose(scores, trials, by)
    # Trials that share their best epoch are equal: which of them is told makes no difference.
    assert found.tolist() == expected


def test_the_best_run_the_best_mean_and_the_surest_mean_may_be_three() -> None:
    """One lucky run, a mean from two seeds, and a mean a little lower from eight."""
    runs = [[0.99, 0.2], [0.93, 0.93], [0.92, 0.925] * 4, [0.8, 0.9]]
    trials = Trials(
        np.arange(14), np.arange(15), np.repeat(np.arange(4), [len(own) for own in runs])
    )
    scores = np.concatenate(runs)[:, None]
    assert choose(scores, trials, By.MAX).tolist() == [0]
    assert choose(scores, trials, By.MEAN).tolist() == [2]
    assert choose(scores, trials, By.LCB).tolist() == [5]


def test_without_a_second_seed_the_lower_bound_is_the_mean() -> None:
    """Where no spread is known, none is made up."""
    scores = np.array([[0.3], [0.9]])
    for by in (By.LCB, By.MEAN):
        np.testing.assert_array_equal(schedule_ranks(scores, np.arange(2), by), scores)


def world(true: NDArray[np.float64], n: int, tau: float, rng: np.random.Generator) -> Scorer:
    """Let candidates of such quality answer `n` photos, of which some are hard for all of them."""
    ease = true[:, None] - rng.normal(0, tau, n) + rng.normal(size=(len(true), n))
    labels = (np.arange(n) >= n // 2).astype(np.int64)
    predicted = np.where(ease > 0, labels, 1 - labels)
    p_true = (1 / (1 + np.exp(-2 * ease))).astype(np.float32)
    return Scorer(Candidates(labels, 2, predicted, p_true), Criterion.ACCURACY)


def off(
    quality: NDArray[np.float64], trials: Trials, by: By, accuracy: float = 0.92, tau: float = 1.0
) -> NDArray[np.float64]:
    """Choose in each world, one a row of `quality`, in probits above what `accuracy` takes.

    Gives a row each: how far the naive figure and the estimate are above the truth, in points, and
    whether the interval holds it.
    """
    rows, rng = [], np.random.default_rng(1)
    for true in quality + norm.ppf(accuracy) * np.hypot(tau, 1):
        scorer = world(true, 309, tau, rng)
        chosen = int(choose(scorer.within(np.ones((309, 1), np.float32)), trials, by)[0])
        found = bias_corrected(scorer, chooser(scorer, trials, by), chosen)
        truth = norm.cdf(true[chosen] / np.hypot(tau, 1))
        assert found.low is not None
        assert found.high is not None
        holds = found.low <= truth <= found.high
        rows.append((100 * (found.naive - truth), 100 * (found.estimate - truth), holds))
    return np.array(rows, float)


def alone(candidates: int) -> Trials:
    """Make each candidate a trial, and a schedule, of its own."""
    each = np.arange(candidates)
    return Trials(each, np.arange(candidates + 1), each)


def check_calibrated(found: NDArray[np.float64], least_flattery: float) -> None:
    """Check the estimate's bias and the interval's coverage, and that the naive figure flatters."""
    naive, estimate, holds = found.T
    error = estimate.std(ddof=1) / len(found) ** 0.5
    assert abs(estimate.mean()) <= 0.3 + 2 * error
    assert holds.mean() >= 0.92
    assert naive.mean() > least_flattery > abs(estimate.mean())


@pytest.fixture
def _fewer_rounds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make 16 rounds of each estimate, the other 384 only steady it; threads would only wait."""
    monkeypatch.setattr(selection_bias, "REPEATS", 16)
    with threadpool_limits(1):
        yield


@pytest.mark.usefixtures("_fewer_rounds")
@pytest.mark.parametrize("candidates", [50, pytest.param(250, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("spread", "flattery"),
    [
        (0.0, 2.5),
        pytest.param(0.15, 1.5, marks=pytest.mark.slow),
        pytest.param(0.4, 0.5, marks=pytest.mark.long),
    ],
)
def test_what_is_expected_of_the_best_run_is_true(
    candidates: int, spread: float, flattery: float
) -> None:
    """Simulated studies: neither bias nor too short an interval; the naive figure has both."""
    quality = np.random.default_rng(0).normal(0, spread, (WORLDS, candidates))
    check_calibrated(off(quality, alone(candidates), By.MAX), flattery)


@pytest.mark.usefixtures("_fewer_rounds")
@pytest.mark.parametrize(
    ("accuracy", "tau", "flattery"),
    [
        pytest.param(0.97, 0.5, 1.0, marks=pytest.mark.long),
        pytest.param(0.85, 0.5, 2.0, marks=pytest.mark.slow),
        pytest.param(0.85, 2.0, 2.0, marks=pytest.mark.slow),
    ],
)
def test_it_is_true_of_better_and_of_worse_runs_too(
    accuracy: float, tau: float, flattery: float
) -> None:
    """Whether 9 photos are wrong or 46, and whether all find the same ones hard or each its own."""
    quality = np.random.default_rng(0).normal(0, 0.15, (WORLDS, 250))
    check_calibrated(off(quality, alone(250), By.MAX, accuracy, tau), flattery)


@pytest.mark.long
@pytest.mark.usefixtures("_fewer_rounds")
@pytest.mark.parametrize(
    ("spread", "flattery"),
    [(0.0, 1.5), pytest.param(0.15, 1.0, marks=pytest.mark.slow), (0.4, 0.7)],
)
@pytest.mark.parametrize("by", [By.MEAN, By.LCB])
def test_what_is_expected_of_the_best_schedule_s_best_is_true(
    by: By, spread: float, flattery: float
) -> None:
    """Twelve schedules, five seeds of some and two of the others: the same bar, another choice."""
    schedules = np.repeat(np.arange(12), [5, 2] * 6)
    if by is By.MEAN:
        schedules = np.repeat(np.arange(12), 5)
    n, rng = len(schedules), np.random.default_rng(0)
    own = rng.normal(0, spread, (WORLDS, 12))[:, schedules]
    trials = Trials(np.arange(n), np.arange(n + 1), schedules)
    check_calibrated(off(own + rng.normal(0, 0.1, own.shape), trials, by), flattery)


@pytest.mark.usefixtures("_fewer_rounds")
def test_the_same_seed_gives_the_same_number() -> None:
    """It is the same each time; another seed changes it by little."""
    scorer = world(np.full(50, 2.0), 309, 1.0, np.random.default_rng(0))
    once, again, other = (
        bias_corrected(scorer, chooser(scorer, alone(50), By.MAX), 3, seed=seed)
        for seed in (0, 0, 1)
    )
    assert once == again
    assert 0 < abs(once.estimate - other.estimate) < 0.02
    assert (once.candidates, once.resamples) == (50, FOLDS * 16)


def test_a_single_candidate_flatters_nobody() -> None:
    """With nothing to choose from, the estimate is the score itself, and the interval Wilson's."""
    scorer = world(np.array([2.0]), 309, 1.0, np.random.default_rng(0))
    found = bias_corrected(scorer, chooser(scorer, alone(1), By.MAX), 0)
    assert found.estimate == pytest.approx(found.naive)
    assert (found.low, found.high) == pytest.approx(wilson(found.naive * 309, 309))


@pytest.mark.parametrize("criterion", OF_ONE_CLASS)
def test_every_criterion_gets_numbers(criterion: Criterion) -> None:
    """Even where a class has so few photos that bootstrap samples lack it: never a NaN."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [58, 2])
    table = rng.dirichlet([1, 1], (6, 60)).astype(np.float32)
    p_true = table[:, np.arange(60), labels]
    scorer = Scorer(Candidates(labels, 2, table.argmax(2), p_true, table), criterion)
    chosen = int(choose(scorer.within(np.ones((60, 1), np.float32)), alone(6), By.MAX)[0])
    found = bias_corrected(scorer, chooser(scorer, alone(6), By.MAX), chosen)
    assert found.low is not None
    assert found.high is not None
    assert np.isfinite([found.naive, found.estimate, found.low, found.high]).all()
    assert found.low < found.estimate < found.high or found.low < found.naive < found.high


def _matthews_of(recall: float, photos: NDArray[np.int64]) -> float:
    """Return the correlation that a recall alike of two classes amounts to."""
    hits, total = recall * photos, photos.sum()
    named = hits + (photos - hits)[::-1]
    covariance = hits.sum() * total - (photos * named).sum()
    squares = [total**2 - np.square(each).sum() for each in (photos, named)]
    return float(covariance / np.sqrt(squares[0] * squares[1]))


@pytest.mark.usefixtures("_fewer_rounds")
@pytest.mark.parametrize(
    "criterion",
    [pytest.param(each, marks=pytest.mark.long if each in SLOWER else ()) for each in OF_ONE_CLASS],
)
@pytest.mark.parametrize(
    ("photos", "few", "accuracy"),
    [(60, 6, 0.97), pytest.param(309, 15, 0.97, marks=pytest.mark.slow)],
)
def test_an_interval_holds_the_truth_where_a_small_class_is_all_right(
    criterion: Criterion, photos: int, few: int, accuracy: float
) -> None:
    """One candidate, few photos of one class: a bootstrap held the truth in as little as 45 %."""
    rng, true = np.random.default_rng(0), float(norm.ppf(accuracy)) * 2**0.5
    labels = (np.arange(photos) < few).astype(np.int64)
    points = true + 2**0.5 * np.random.default_rng(1).normal(size=200_000)
    wrong = (1 - accuracy) * photos
    truth = {
        Criterion.AUROC: norm.cdf(true),
        Criterion.LOG_LOSS: np.logaddexp(0, -2 * points).mean(),
        Criterion.MATTHEWS: _matthews_of(accuracy, np.array([few, photos - few])),
        Criterion.F1: np.mean([1 / (1 + wrong / (2 * accuracy * n)) for n in (few, photos - few)]),
    }.get(criterion, accuracy)
    held = 0
    for _ in range(WORLDS):
        ease = true + 2**0.5 * rng.normal(size=photos)
        second = 1 / (1 + np.exp(-2 * np.where(labels == 1, ease, -ease)))
        table = np.stack([1 - second, second], axis=1).astype(np.float32)[None]
        p_true = table[:, np.arange(photos), labels]
        scorer = Scorer(Candidates(labels, 2, table.argmax(2), p_true, table), criterion)
        found = bias_corrected(scorer, chooser(scorer, alone(1), By.MAX), 0)
        held += found.low is not None and found.low <= truth <= (found.high or 0)
    assert held / WORLDS >= 0.92


@pytest.mark.parametrize(
    ("criterion", "few", "told"),
    [
        (Criterion.ACCURACY, 1, True),
        (Criterion.LOG_LOSS, 1, True),
        (Criterion.F1, 1, False),
        (Criterion.BALANCED_ACCURACY, 1, False),
        (Criterion.AUROC, 1, False),
        (Criterion.AUROC, FEWEST_OF_CLASS, True),
    ],
)
def test_of_a_class_with_too_few_photos_no_interval_is_made(
    criterion: Criterion, few: int, told: bool
) -> None:
    """By criteria in which each class counts by itself; the class is named, the estimate stays."""
    rng, labels = np.random.default_rng(0), np.repeat([0, 1], [58, few])
    n = len(labels)
    table = rng.dirichlet([1, 1], (1, n)).astype(np.float32)
    p_true = table[:, np.arange(n), labels]
    scorer = Scorer(Candidates(labels, 2, table.argmax(2), p_true, table), criterion)
    found = bias_corrected(scorer, chooser(scorer, alone(1), By.MAX), 0)
    assert np.isfinite(found.estimate)
    assert (found.low is not None, found.high is not None) == (told, told)
    assert found.few == (None if told else 1)
