"""Who goes on at a stage boundary: asynchronous successive halving, with stages as rungs. Pure.

Li et al., A System for Massively Parallel Hyperparameter Tuning (2020): there is no barrier, each
is compared with those that have come as far before it. As in Optuna's pruner, whoever is not
among the best 1/eta stops for good, and the best so far goes on however few there are.
"""

from collections.abc import Sequence

from study.tree import Node, Rank, StageTree

FEW = 8
"""With fewer pairs, a rank correlation says nothing."""

LOW = 0.3
"""Below this rank correlation, an early stage's score is a poor guide to a later one's."""


def goes_on(rank: Rank, reached: Sequence[Node], eta: int) -> bool:
    """Tell whether `rank` is among the best 1/eta of the stage runs that reached its boundary."""
    better = sum(node.rank is not None and node.rank < rank for node in reached)
    return better < max(1, len(reached) // eta)


def promising(reached: Sequence[Node], eta: int) -> list[Node]:
    """Give the best 1/eta of what reached a boundary, best first; none while there are few."""
    ranked = sorted((node for node in reached if node.rank), key=lambda node: node.rank or ())
    return ranked[: len(ranked) // eta]


def rank_correlations(tree: StageTree) -> list[tuple[int, int, float]]:
    """Say how well each boundary's scores foretell the next one's.

    Gives (position, pairs, Spearman's correlation) for the boundary after stage `position` and
    the one after it, over the stage runs that reached both; where there are enough of them.
    """
    found, position = [], 0
    while later := tree.reached(position + 1):
        pairs = [
            (node.parent.rank[0], node.rank[0])
            for node in later
            if node.rank and node.parent and node.parent.rank
        ]
        differing = all(len(set(scores)) > 1 for scores in zip(*pairs, strict=True))
        if len(pairs) >= FEW and differing:
            from scipy.stats import spearmanr  # most of a second to import

            found.append((position, len(pairs), float(spearmanr(pairs).statistic)))
        position += 1
    return found
