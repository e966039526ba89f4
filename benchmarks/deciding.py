"""Part `deciding`: how long the forecast takes to decide, by how many stage runs there are.

In a world of `policy_worlds.py`, without database; the sampler's own time is left out.
"""

import argparse
from statistics import median, quantiles
from typing import Any

from contestants import markdown
from policy_search import RANDOM, Sampler, Search
from policy_worlds import PORTFOLIO, PROBES, SCENARIOS, WEIGHTS, World

from study.config.portfolio import TYPICAL
from study.config.schema import Budget, StudyConfig
from study.searching.forecasting import Forecasting
from study.searching.policy import Independent, SearchPolicy

HEADER = ("stage runs", "slots", "decisions", "median, ms", "95 %", "longest")


def measure(stage_runs: int, decisions: int, slots: int) -> tuple[int, list[float]]:
    """Train at random about so many; return how many they were, and a decision's ms after that."""
    scenario = SCENARIOS[0]
    world = World(scenario, 0)
    price = world.budget / scenario.budget
    config = StudyConfig(space=scenario.space, budget=Budget(trials=10**6))
    at_random = SearchPolicy(config, Independent(config), (*PROBES, *PORTFOLIO))
    search = Search(world, at_random, Sampler(RANDOM, scenario.space, 0), slots)
    world.budget = price * stage_runs
    while len(search.trained) < stage_runs:
        search.run()
        world.budget += price * max(1, stage_runs - len(search.trained)) / 2
    count, before = len(search.trained), len(search.deciding)
    explorer = Forecasting(config, WEIGHTS, TYPICAL.training)
    search.policy = SearchPolicy(config, explorer, (*PROBES, *PORTFOLIO))
    while len(search.deciding) - before <= decisions:
        world.budget += price
        search.run()
    return count, [1000 * each for each in search.deciding[before + 1 :]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this part's options."""
    parser.add_argument("--stage-runs", type=int, nargs="+", default=[50, 300, 1000])
    parser.add_argument("--slots", type=int, nargs="+", default=[1])
    parser.add_argument("--decisions", type=int, default=60)


def run(given: argparse.Namespace) -> tuple[str, Any]:
    """Measure; return the table and what it was made of."""
    found = [
        (*measure(stage_runs, given.decisions, slots), slots)
        for stage_runs in given.stage_runs
        for slots in given.slots
    ]
    rows = [
        (
            str(count),
            str(slots),
            str(len(each)),
            *(f"{ms:.0f}" for ms in (median(each), quantiles(each, n=20)[-1], max(each))),
        )
        for count, each, slots in found
    ]
    return markdown(HEADER, rows), found
