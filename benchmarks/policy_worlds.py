"""Made-up worlds to search in: what each schedule is truly worth, what is seen of it, its cost.

A world is a random function over stages: each field has an optimum, pairs of fields interact,
larger photos and more steps help and cost. A stage run starts from what the one before it reached
and inherits a part of its luck; what an early stage shows may mislead. Validation photos are the
same for all: accuracy counts them, the calibrated loss is taken from the same margins. All of it
is a pure function of the world's number, the schedule and the seed. Levels are in probits: the
true accuracy is the normal distribution's value there.

PYTHONPATH=. python benchmarks/policy_worlds.py    how signals go with accuracy on other photos
"""

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import spearmanr

from study.config.portfolio import TYPICAL, portfolio, probes, space_for
from study.config.space import Space, StageChoices
from study.searching.candidates import anywhere
from trainers.schedule import CropType, Schedule, Stage, Train

Array = NDArray[np.float64]

WEIGHTS = "pretrained"
RECIPE = space_for(TYPICAL)
STAGES = Space(
    **{
        **RECIPE.model_dump(exclude_none=True),
        "n_stages": (1, 2, 3),
        "image_size": (128, 192, 288),
        "lrs": (2e-4, 5e-4, 1e-3, 2e-3),
        "stages": (
            StageChoices(
                image_size=(128,), min_steps=(24, 48), lrs=(1e-3, 2e-3), late_lr=(1e-4, 2e-4),
                crop=("random",), mixup=(0.0,), dropout=(0.25,), frozen=(0.5, 1.0),
            ),
        ),
    }
)  # fmt: skip
"""One to three stages; the first is small and has few choices, so that trials share it."""

PORTFOLIO = portfolio(TYPICAL, RECIPE.backbone[0], WEIGHTS)
PROBES = probes(TYPICAL, RECIPE.backbone[0], WEIGHTS)


@dataclass(frozen=True)
class Scenario:
    """A kind of world; `budget` counts the portfolio's first tuned stages.

    `misleading` is how far an early stage shows what its successors do not keep, in standard
    deviations between schedules. A `poor` portfolio is what is bad in this world. Schedules aim at
    what is `usual`, up to their standard deviation `spread`; both are in probits: at 92 % right,
    1.4, a hundredth of the photos is 0.067.
    """

    name: str
    space: Space = RECIPE
    budget: float = 25
    photos: int = 309
    misleading: float = 0.3
    poor: bool = False
    spread: float = 0.15
    usual: float = 1.4


SCENARIOS = (
    Scenario("recipe"),
    Scenario("small budget", budget=8),
    Scenario("many stages", STAGES, budget=15, spread=0.25, usual=1.2),
    Scenario("misleading", STAGES, budget=15, misleading=1, spread=0.25, usual=1.2),
    Scenario("noisy", photos=100),
    Scenario("poor portfolio", poor=True),
)

LUCK = 0.067
"""The standard deviation between seeds, in probits."""

UNTRAINED, PROBED = -0.6, -0.2
"""How far below what stages aim at a network begins, and a probe comes out."""

HALF_WAY = 20
"""So many steps close half of the gap between what a stage started from and what it aims at."""

OWN, SAID, RAW = 0.8, 0.05, 0.3
"""How far runs differ in which photos are easy, and how far the loss says more than the truth:
both are set so that signals go with the accuracy on other photos as they do in real studies."""

SCALES = {
    "lr head": (1e-4, 3e-3),
    "lr late": (2.5e-5, 1e-3),
    "dropout": (0, 0.5),
    "mixup": (0, 0.4),
    "frozen": (0, 1),
    "label_smoothing": (0, 0.2),
    "crop": (0, 1),
    "size": (96, 288),
    "steps": (24, 96),
}
"""What matters of a stage, from where to where; of what never is 0, the logarithm."""

MORE_IS_BETTER = np.array([name in ("size", "steps") for name in SCALES])


def described(stages: Iterable[Stage]) -> Array:
    """Return where on its scale each field lies, shape (stages, fields)."""
    found = []
    for stage in stages:
        dropout = stage.dropout if isinstance(stage.dropout, float) else stage.dropout[-1]
        values = (
            *(stage.lrs[-1], stage.lrs[1], dropout, stage.mixup, stage.frozen),
            *(stage.label_smoothing, stage.crop is CropType.GOOGLENET),
            *(stage.image_size, stage.epochs * stage.min_steps),
        )
        found.append([_along(v, *scale) for v, scale in zip(values, SCALES.values(), strict=True)])
    return np.array(found)


def _along(value: float, low: float, high: float) -> float:
    if low > 0:
        return math.log(max(value, low / 2) / low) / math.log(high / low)
    return (value - low) / (high - low)


class Effects:
    """A random function over stages: mean 0 and standard deviation 1 over `usual` ones."""

    def __init__(self, rng: np.random.Generator, usual: Array, best: Array) -> None:
        n = usual.shape[1]
        self._best, self._strength = best, rng.gamma(0.7, size=n)
        self._pairs = rng.integers(n, size=(4, 2))
        self._together = rng.normal(0, 1, 4)
        self._mean, self._sd = 0.0, 1.0
        found = self(usual)
        self._mean, self._sd = float(found.mean()), float(found.std())

    def __call__(self, where: Array) -> Array:
        """Return its values at these, shape (stages, fields)."""
        alone = np.where(MORE_IS_BETTER, where / 2, -2 * np.square(where - self._best))
        first, second = self._pairs.T
        pairs = (where[:, first] - 0.5) * (where[:, second] - 0.5)
        found = alone @ self._strength + pairs @ self._together
        return np.asarray((found - self._mean) / self._sd)


@dataclass(frozen=True)
class Level:
    """What a stage run reached: `shown` is its truth, luck apart; `kept` what is built on."""

    shown: float
    kept: float
    luck: float


@dataclass(frozen=True)
class Result:
    """What came of a stage run: its true accuracy and what validation photos say."""

    truth: float
    accuracy: float
    loss: float
    raw_loss: float
    seconds: float


class World:
    """One of a scenario's worlds, named by its number."""

    def __init__(self, scenario: Scenario, number: int) -> None:
        self.scenario, self.number = scenario, number
        self._levels: dict[tuple[Schedule, int], Level] = {}
        self._results: dict[tuple[Schedule, int], Result] = {}
        rng = np.random.default_rng([20261128, number])
        drawn = islice(anywhere(scenario.space, WEIGHTS, rng), 200)
        tuned = (s for each in drawn for s in each.stages if s.train is Train.NETWORK)
        usual = described(tuned)
        self._worth = Effects(rng, usual, self._best(rng))
        self._trap = Effects(rng, usual, rng.random(len(SCALES)))
        self._said = Effects(rng, usual, rng.random(len(SCALES)))
        self._centre, self._keeps = rng.normal(scenario.usual, 0.15), rng.uniform(0.6, 0.9)
        self._by_place = rng.normal(0, 0.1, (12, len(SCALES)))
        self._of_probes, self._by_size = PROBED * rng.uniform(0.5, 1.5), rng.normal(0.05, 0.05)
        self._ease = rng.normal(size=2000)

    def _best(self, rng: np.random.Generator) -> Array:
        """Draw where the optimum lies: mostly near one of the portfolio's, the first above all."""
        chances = 1 / np.arange(1, len(PORTFOLIO) + 1)
        chosen = rng.choice(len(PORTFOLIO), p=chances / chances.sum())
        (near,) = described(PORTFOLIO[chosen].stages[-1:])
        somewhere, jitter = rng.random(len(near)), rng.normal(0, 0.15, len(near))
        if rng.random() < 0.2 and not self.scenario.poor:
            return np.asarray(somewhere)
        return np.asarray(np.clip((1 - near if self.scenario.poor else near) + jitter, 0, 1))

    @cached_property
    def budget(self) -> float:
        """The seconds that there are."""
        return self.scenario.budget * self._pace(PORTFOLIO[0].stages[-1])

    @cached_property
    def ceiling(self) -> float:
        """The truth, luck apart, of the best of many schedules."""
        drawn = islice(
            anywhere(self.scenario.space, WEIGHTS, self._rng(PROBES[0], 0, "ceiling")), 500
        )
        return float(ndtr(max(self._level(each, 0).shown for each in (*PORTFOLIO, *drawn))))

    def result(self, prefix: Schedule, seed: int) -> Result:
        """Train the last stage of a schedule under a seed."""
        if (prefix, seed) not in self._results:
            self._results[prefix, seed] = self._result(prefix, seed)
        return self._results[prefix, seed]

    def _result(self, prefix: Schedule, seed: int) -> Result:
        level, rng = self._level(prefix, seed), self._rng(prefix, seed, "seen")
        reached = level.shown + level.luck
        accuracy, loss = self._seen(reached, self._ease[: self.scenario.photos], rng)
        (said,) = self._said(described(prefix.stages[-1:]))
        loss *= math.exp(SAID * said)
        seconds = self._pace(prefix.stages[-1]) * math.exp(rng.normal(0, 0.05))
        raw = loss * math.exp(rng.normal(0, RAW))
        return Result(float(ndtr(reached)), accuracy, loss, raw, seconds)

    def elsewhere(self, prefix: Schedule, seed: int, photos: int = 309) -> float:
        """Return the accuracy on photos that took no part."""
        level, rng = self._level(prefix, seed), self._rng(prefix, seed, "elsewhere")
        return self._seen(level.shown + level.luck, self._ease[-photos:], rng)[0]

    def _seen(self, reached: float, ease: Array, rng: np.random.Generator) -> tuple[float, float]:
        """Return the accuracy and the loss at the best temperature."""
        own = rng.normal(0, OWN, len(ease))
        margins = reached * math.sqrt(1 + OWN**2) + ease + own
        tempered = np.geomspace(0.5, 6, 16)[:, None] * margins
        loss = np.logaddexp(0, -tempered).mean(axis=1).min()
        return float((margins > 0).mean()), float(loss)

    def _level(self, prefix: Schedule, seed: int) -> Level:
        if (prefix, seed) not in self._levels:
            before = prefix.prefixes()[-2] if len(prefix.stages) > 1 else None
            start = self._level(before, seed) if before else None
            self._levels[prefix, seed] = self._onward(prefix, seed, start)
        return self._levels[prefix, seed]

    def _onward(self, prefix: Schedule, seed: int, start: Level | None) -> Level:
        stage, where = prefix.stages[-1], described(prefix.stages[-1:])
        if stage.train is Train.PROBE:
            size = where[0, list(SCALES).index("size")]
            found = self._centre + self._of_probes + self._by_size * size
            return Level(found, found, 0.0)
        (worth,) = self._worth(where + self._by_place[len(prefix.stages) - 1])
        (trap,) = self.scenario.misleading * self.scenario.spread * self._trap(where)
        aim = self._centre + self.scenario.spread * worth
        begun = start.kept if start else self._centre + UNTRAINED
        reached = aim + (begun - aim) * 0.5 ** (stage.epochs * stage.min_steps / HALF_WAY)
        own, inherited = (
            LUCK * self._rng(prefix, seed, "luck").normal(),
            start.luck if start else 0,
        )
        if inherited:
            own = self._keeps * inherited + math.sqrt(1 - self._keeps**2) * own
        return Level(reached + trap, reached - trap / 2, own)

    def _pace(self, stage: Stage) -> float:
        """Return the seconds that a stage takes: pixels times steps; a probe takes a fifth."""
        pixels = (stage.image_size / 288) ** 2
        if stage.train is Train.PROBE:
            return 2 * pixels
        return 10 * pixels * stage.epochs * stage.min_steps / 48 * (1 - stage.frozen / 2) / 0.75

    def _rng(self, prefix: Schedule, seed: int, what: str) -> np.random.Generator:
        name = zlib.crc32(f"{prefix.digest} {seed} {what}".encode())
        return np.random.default_rng([self.number, name])


def correlations(scenario: Scenario, worlds: int = 20, schedules: int = 60) -> Sequence[float]:
    """Return how accuracy and losses rank runs beside their accuracy on other photos.

    Runs are compared that end at the same place; the means over worlds, with those of the truth's
    mean and standard deviation.
    """
    found = []
    for number in range(worlds):
        world = World(scenario, number)
        drawn = islice(anywhere(scenario.space, WEIGHTS, np.random.default_rng(number)), schedules)
        runs = dict.fromkeys(prefix for each in drawn for prefix in each.prefixes())
        for place in range(max(scenario.space.n_stages)):
            here = [run for run in runs if len(run.stages) == place + 1]
            if here[0].stages[-1].train is Train.PROBE:
                continue
            seen = [world.result(run, 0) for run in here]
            others = [world.elsewhere(run, 0) for run in here]
            truth = [each.truth for each in seen]
            signals = np.array([(each.accuracy, -each.loss, -each.raw_loss) for each in seen])
            ranked = [spearmanr(signal, others)[0] for signal in signals.T]
            found.append((*ranked, np.mean(truth), np.std(truth)))
    return [float(each) for each in np.mean(found, axis=0)]


if __name__ == "__main__":
    for scenario in SCENARIOS:
        print(scenario.name, *(f"{value:.3f}" for value in correlations(scenario)))
