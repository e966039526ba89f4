"""Races: the truly best is kept, the clearly worse is dropped, and gains add up to the score."""

from collections.abc import Mapping
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from study.searching.racing import ALPHA, Race, beaten
from study.statistics.significance import Gains
from trainers.metrics import Evaluation, Metric, negative_log

RACES, PHOTOS = 400, 150
SLACK = 3 * (ALPHA * (1 - ALPHA) / RACES) ** 0.5
"""Three standard errors of a share of that many races."""


class Photos:
    """Validation photos of which some are hard for every schedule; schedules find others hard."""

    def __init__(self, rng: np.random.Generator, schedules: int, luck: float, n: int) -> None:
        self.rng, self.luck = rng, luck
        self.ease = 1.5 + 1.5 * rng.normal(size=n) + 0.7 * rng.normal(size=(schedules, n))

    def train(self, schedule: int, better: float = 0.0) -> Gains:
        """Train under a new seed, whose luck shifts all photos; say which photos come out right."""
        chance = 1 / (1 + np.exp(-(self.ease[schedule] + better + self.luck * self.rng.normal())))
        return (self.rng.random(len(chance)) < chance).astype(float)


def race(rng: np.random.Generator, luck: float, *, looks: int, each: bool) -> set[str]:
    """Race five equally good schedules; return those that were beaten at any look.

    It is looked after each round of seeds or, as the search does, after `each` seed.
    """
    photos, lost = Photos(rng, 5, luck, PHOTOS), set()
    outcomes: dict[str, list[Gains | None]] = {f"{k}": [] for k in range(5)}
    for seed in range(looks + 1):
        for k in range(5):
            outcomes[f"{k}"].append(photos.train(k))
            if seed and (each or k == 4):
                lost |= beaten(outcomes, looks + 1)
    return lost


def share_of_false_drops(finalists: int, rounds: int, luck: float, races: int) -> float:
    """Race equally good schedules; return the share of races in which one was dropped."""
    rng, lost = np.random.default_rng(3), 0
    for _ in range(races):
        photos = Photos(rng, finalists, luck, 100)
        seeds = {f"{k}": [photos.train(k) for _ in range(rounds)] for k in range(finalists)}
        lost += bool(beaten(seeds, rounds))
    return lost / races


@pytest.mark.parametrize(
    "luck",
    [0.3, pytest.param(0.6, marks=pytest.mark.slow), pytest.param(1.0, marks=pytest.mark.long)],
)
@pytest.mark.parametrize(
    "rounds", [2, *(pytest.param(count, marks=pytest.mark.slow) for count in (3, 4)), 5]
)
@pytest.mark.parametrize(
    "finalists", [2, *(pytest.param(count, marks=pytest.mark.slow) for count in (3, 4, 5)), 6]
)
def test_a_whole_race_errs_no_more_often_than_it_says(
    finalists: int, rounds: int, luck: float
) -> None:
    """However few seeds tell of their own spread, at most 5 % of races drop an equal schedule."""
    races = 1500 if finalists == 2 else 300
    slack = 2.5 * (ALPHA * (1 - ALPHA) / races) ** 0.5
    assert share_of_false_drops(finalists, rounds, luck, races) <= ALPHA + slack


def test_a_failed_seed_holds_nobody_up() -> None:
    """The others race on, and who has a seed left races with that one."""
    good, weak, photos = np.ones(300), np.zeros(300), np.arange(300)
    fair = (photos >= 40).astype(float)
    outcomes = {"good": [good, good], "failed": [fair, None], "weak": [weak, weak]}
    assert beaten(outcomes, 2) == {"failed", "weak"}
    assert beaten({**outcomes, "failed": [None, None]}, 2) == {"weak"}
    assert beaten({**outcomes, "failed": [None]}, 2) == set()
    assert beaten({"a": [good, None], "b": [weak, None]}, 2) == set()


@pytest.mark.parametrize("luck", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("looks", [1, pytest.param(3, marks=pytest.mark.long)])
def test_the_truly_best_is_seldom_beaten(luck: float, looks: int) -> None:
    """Each of five equal schedules is dropped in at most 5 % of the races, whatever seeds do."""
    rng = np.random.default_rng(7)
    lost = [race(rng, luck, looks=looks, each=False) for _ in range(RACES)]
    for k in range(5):
        assert np.mean([f"{k}" in beaten_ones for beaten_ones in lost]) <= ALPHA + SLACK


@pytest.mark.parametrize("luck", [0.0, 0.3, 1.0])
def test_no_best_schedule_is_beaten_as_the_search_looks(luck: float) -> None:
    """Asked after every seed, 95 % of the races of equal schedules drop none of them."""
    rng = np.random.default_rng(7)
    lost = [race(rng, luck, looks=1, each=True) for _ in range(RACES)]
    assert np.mean([bool(beaten_ones) for beaten_ones in lost]) <= ALPHA + SLACK


def race_in_folds(rng: np.random.Generator, luck: float, count: int, rounds: int) -> set[str]:
    """Race equal schedules; return those that lost on two of five folds, or in whole rounds."""
    photos, inside = Photos(rng, count, luck, PHOTOS), np.arange(PHOTOS) % 5 < 2
    names, stopped = [f"{k}" for k in range(count)], dict[str, int]()
    outcomes: dict[str, list[Gains | None]] = {name: [] for name in names}
    first: dict[str, list[Gains]] = {name: [] for name in names}
    for seed, name in product(range(rounds), names):
        own = photos.train(int(name))
        out = beaten(outcomes, rounds, stopped)
        if name in out:
            continue
        racing = {each: first[each] for each in names if each not in out and first[each]}
        if seed and len(racing) > 1 and Race(name, racing, count, rounds).is_lost(own[inside]):
            stopped[name] = seed + 1
        outcomes[name].append(None if name in stopped else own)
        first[name] += [] if name in stopped else [own[inside]]
    return beaten(outcomes, rounds, stopped)


@pytest.mark.parametrize("luck", [0.3, *(pytest.param(x, marks=pytest.mark.long) for x in (0, 1))])
@pytest.mark.parametrize(
    ("count", "rounds"),
    [(2, 2), *(pytest.param(*pair, marks=pytest.mark.long) for pair in ((2, 5), (3, 5), (5, 3)))],
)
def test_looks_at_first_folds_seldom_drop_the_truly_best(
    luck: float, count: int, rounds: int
) -> None:
    """Of equal schedules, each is dropped in at most 5 % of the races: of two, at any luck."""
    rng = np.random.default_rng(11)
    lost = [race_in_folds(rng, luck, count, rounds) for _ in range(RACES)]
    for k in range(count):
        assert np.mean([f"{k}" in dropped for dropped in lost]) <= ALPHA + SLACK


def test_a_race_is_lost_on_first_folds_by_what_seeds_and_photos_tell() -> None:
    """The far worse loses, also to fewer seeds; not without two that tell what luck is worth."""
    good, weak = np.ones(120), (np.arange(120) >= 20).astype(float)
    assert Race("weak", {"good": [good] * 2, "weak": [weak]}, 2, 2).is_lost(weak)
    assert Race("weak", {"good": [good], "weak": [weak, weak]}, 2, 3).is_lost(weak)
    assert not Race("weak", {"good": [good], "weak": [weak]}, 2, 2).is_lost(weak)
    assert not Race("good", {"good": [good], "weak": [weak] * 2}, 2, 2).is_lost(good)
    assert not Race("weak", {"good": [good] * 2, "weak": [weak]}, 2, 2).is_lost(1.6 * good)
    assert not Race("weak", {"good": [good] * 2, "weak": [weak]}, 10**9, 2).is_lost(weak)


def test_who_was_stopped_raced_until_then() -> None:
    """It may have beaten others before; later rounds do without it, and need not be over."""
    good, fair = np.ones(300), (np.arange(300) >= 15).astype(float)
    outcomes = {"lost": [good, good, None], "fair": [fair, fair], "other": [good, good]}
    assert beaten(outcomes, 3) == {"fair"}
    assert beaten(outcomes, 3, {"lost": 3}) == {"fair", "lost"}
    assert beaten({**outcomes, "other": [fair]}, 3, {"lost": 3}) == {"lost"}
    alone = {"lost": [good, None], "fair": [fair, fair], "other": [fair, fair]}
    assert beaten(alone, 3, {"lost": 2}) == {"lost"}


@pytest.mark.parametrize("rivals", [1, 4])
def test_the_clearly_worse_is_beaten_soon(rivals: int) -> None:
    """Two seeds on 300 photos tell most schedules apart that are some 10 points worse."""
    rng, found = np.random.default_rng(7), []
    for _ in range(100):
        photos = Photos(rng, rivals + 1, 0.05, 300)
        photos.ease[:] = photos.ease[0]  # what is hard is so for both
        outcomes = {f"{k}": [photos.train(k) for _ in range(2)] for k in range(1, rivals + 1)}
        outcomes["0"] = [photos.train(0, -1.0) for _ in range(2)]
        found.append("0" in beaten(outcomes, 2))
    assert np.mean(found) >= 0.75


def test_five_points_on_the_same_photos_are_enough() -> None:
    """What is right is right under both seeds: 5 points of 300 photos are no luck, 1 photo is."""
    better, photos = np.ones(300), np.arange(300)
    worse, almost = (photos >= 15).astype(float), (photos >= 1).astype(float)
    outcomes = {"better": [better] * 2, "worse": [worse] * 2, "almost": [almost] * 2}
    assert beaten(outcomes, 2) == {"worse"}
    assert beaten(outcomes, 10**9) == set()


def test_seeds_that_differ_much_tell_nothing() -> None:
    """The same difference is no proof if a schedule's own seeds lie further apart."""
    good, bad = np.ones(300), np.tile([1.0, 0.0, 1.0, 1.0, 1.0], 60)
    assert beaten({"a": [good, good], "b": [bad, bad]}, 2) == {"b"}
    worst = np.tile([1.0, 0.0], 150)
    assert beaten({"a": [good, worst], "b": [bad, worst]}, 2) == set()


@pytest.mark.parametrize(
    "outcomes",
    [
        {},
        {"a": [np.ones(9)] * 2},
        {"a": [np.ones(300)] * 2, "b": [np.zeros(300)]},
        {"a": [np.ones(300)], "b": [np.zeros(300)]},
        {"a": [np.ones(300)] * 2, "b": [], "c": [np.zeros(300)]},
        {"a": [np.ones(300)] * 2, "b": [np.ones(300)] * 2},
        {"a": [np.ones(1)] * 2, "b": [np.zeros(1)] * 2},
    ],
)
def test_nobody_is_beaten_without_a_rival_or_a_second_seed(
    outcomes: Mapping[str, list[Gains | None]],
) -> None:
    """One schedule, one seed, equal outcomes or a single photo decide no race."""
    assert beaten(outcomes, 2) == set()


@pytest.fixture
def evaluation() -> Evaluation:
    """Return predictions on unequal classes, of which one has no photo."""
    rng = np.random.default_rng(7)
    labels = rng.choice([0, 1, 3], p=[0.7, 0.2, 0.1], size=200)
    return Evaluation(labels, rng.dirichlet(np.ones(4), 200).astype(np.float32))


def gained(metric: Metric, found: Evaluation) -> NDArray[np.float64]:
    """Split the score of an evaluation."""
    return metric.gains(found.labels, found.predicted, found.losses())


def test_gains_are_the_score_on_average(evaluation: Evaluation) -> None:
    """Accuracy, and balanced accuracy over the classes that have photos; F1 races as the latter."""
    balanced = Metric.BALANCED_ACCURACY.of(evaluation)
    assert gained(Metric.ACCURACY, evaluation).mean() == pytest.approx(
        Metric.ACCURACY.of(evaluation)
    )
    for metric in (Metric.BALANCED_ACCURACY, Metric.F1):
        assert gained(metric, evaluation).mean() == pytest.approx(balanced)


def test_more_is_better_for_the_loss_too(evaluation: Evaluation) -> None:
    """The gains' mean is minus the loss; a photo that was thought impossible has a finite one."""
    p_true = evaluation.probabilities[np.arange(200), evaluation.labels]
    mean = gained(Metric.LOG_LOSS, evaluation).mean()
    assert mean == pytest.approx(np.log(p_true).mean(), rel=1e-5)
    labels = np.array([0, 1])
    lost = Metric.LOG_LOSS.gains(labels, np.array([0, 0]), negative_log(np.array([1.0, 0.0])))
    assert lost[0] == 0
    assert np.isfinite(lost).all()
