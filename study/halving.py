"""Who goes on at a stage boundary: asynchronous successive halving, with stages as rungs. Pure.

Li et al., A System for Massively Parallel Hyperparameter Tuning (2020): there is no barrier, each
is compared with those that have come as far before it. As in Optuna's pruner, whoever is not
among the best 1/eta stops for good, and the best so far goes on however few there are.
"""

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from storage.records import Role, Trial
from study.config import Strategy, StudyConfig
from study.tree import Node, Rank, StageTree

HALVING = (Strategy.TREE, Strategy.ASHA)
"""The strategies that stop the weak at stage boundaries."""

HALVED = (Role.EXPLORE, Role.BRANCH)
"""The roles of trials that they may stop."""

FEW = 8
"""With fewer pairs, a rank correlation says nothing."""

LOW = 0.5
"""Below this rank correlation, an early stage's score is a poor guide to a later one's."""


def is_halved(trial: Trial, config: StudyConfig) -> bool:
    """Tell whether a trial has to be among the best to go on at a stage boundary."""
    return config.strategy in HALVING and trial.role in HALVED


def goes_on(rank: Rank, reached: Sequence[Node], eta: int) -> bool:
    """Tell whether `rank` is among the best 1/eta of the stage runs that reached its boundary."""
    better = sum(node.rank is not None and node.rank < rank for node in reached)
    return better < max(1, len(reached) // eta)


def promising(reached: Sequence[Node], eta: int) -> list[Node]:
    """Give the best 1/eta of what reached a boundary, best first; none while there are few."""
    ranked = sorted((node for node in reached if node.rank), key=lambda node: node.rank or ())
    return ranked[: len(ranked) // eta]


def unhalved(trials: Iterable[Trial], strategy: Strategy) -> set[int]:
    """Give the numbers of the trials that halving had no say in.

    Repeats are those of what it let on.
    """
    halved = (*HALVED, Role.REPEAT) if strategy in HALVING else (Role.REPEAT,)
    return {trial.number for trial in trials if trial.role not in halved}


@dataclass(frozen=True)
class Guide:
    """How well the scores after stage `position` (from 0) foretell those after the next one.

    It is Spearman's correlation over `pairs` of stage runs. One that is not `fair` is over those
    alone that halving let on, who differ less in their first score than all would.
    """

    position: int
    pairs: int
    correlation: float
    fair: bool

    @property
    def poor(self) -> bool:
        """Whether halving by it stops good schedules, too, and that is more than bad luck.

        It is if the upper 95 % limit of the correlation (Fisher 1915) is low.
        """
        if not self.fair or self.correlation == 1:
            return False
        upper = math.atanh(max(self.correlation, -0.999)) + 1.645 / math.sqrt(self.pairs - 3)
        return math.tanh(upper) < LOW


def guides(tree: StageTree, unhalved: Container[int]) -> list[Guide]:
    """Say how well each boundary's scores foretell the next one's, where there are enough of both.

    `unhalved` are the numbers of the trials that nobody could have stopped between the two.
    """
    found, position = [], 0
    while later := tree.reached(position + 1):
        pairs = [node for node in later if node.rank and _has_score(node.parent)]
        free = [node for node in pairs if any(number in unhalved for number in node.trials)]
        fair = len(free) >= FEW or len(free) == len(pairs)
        if (guide := _guide(position, free if fair else pairs, fair=fair)) is not None:
            found.append(guide)
        position += 1
    return found


def _has_score(node: Node | None) -> bool:
    """Tell whether there is a score of a stage that is halved by: a probe's is not."""
    return node is not None and node.rank is not None and not node.probe


def _guide(position: int, nodes: Sequence[Node], *, fair: bool) -> Guide | None:
    scores = [(n.parent.rank[0], n.rank[0]) for n in nodes if n.parent and n.parent.rank and n.rank]
    if len(scores) < FEW or any(len(set(side)) == 1 for side in zip(*scores, strict=True)):
        return None
    from scipy.stats import spearmanr  # most of a second to import

    return Guide(position, len(scores), float(spearmanr(scores).statistic), fair)
