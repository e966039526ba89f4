"""Who goes on at a stage boundary, what is branched from, and whether early scores foretell."""

import warnings
from datetime import UTC, datetime
from itertools import count

import pytest
from study.halving import FEW, Guide, goes_on, guides, promising

from storage.records import Role, State, Trial
from study.tree import Node, StageTree
from tests.lab import schedule, stage

WORST = (float("inf"), float("inf"))


def nodes(*scores: float) -> list[Node]:
    """Make stage runs of these scores, all at one boundary."""
    return [Node(f"{n}", 0, 0, None, rank=(-score, 1.0)) for n, score in enumerate(scores)]


@pytest.mark.parametrize(("size", "going"), [(1, 1), (2, 1), (5, 1), (6, 2), (8, 2), (9, 3)])
def test_the_best_third_goes_on(size: int, going: int) -> None:
    """Of those that came as far, rounded down, but always the best so far."""
    reached = nodes(*(n / 10 for n in range(size)))
    assert sum(goes_on(node.rank or WORST, reached, 3) for node in reached) == going
    assert goes_on((-1.0, 0.0), reached, 3)


def test_the_first_to_come_goes_on() -> None:
    """Where nobody came before there is nothing to lose against; a half goes on with eta 2."""
    assert goes_on(WORST, [], 3)
    assert goes_on((-0.5, 1.0), nodes(0.4, 0.5, 0.6, 0.7), 4) is False
    assert goes_on((-0.6, 1.0), nodes(0.4, 0.5, 0.6, 0.7), 2) is True


def test_equal_ranks_go_on_together() -> None:
    """Only the better ones take places; the loss decides between equal scores."""
    reached = nodes(0.5, 0.5, 0.5)
    assert all(goes_on(node.rank or WORST, reached, 3) for node in reached)
    assert goes_on((-0.5, 1.1), reached, 3) is False
    assert goes_on((-0.5, 0.9), reached, 3) is True


def test_a_beginning_is_promising_once_enough_have_come() -> None:
    """The best third, best first; of two, none is known to be good."""
    assert promising([], 3) == []
    assert promising(nodes(0.9, 0.8), 3) == []
    ranked = promising(nodes(0.1, 0.9, 0.5, 0.8, 0.2, 0.3, 0.4), 3)
    assert [node.key for node in ranked] == ["1", "3"]
    assert promising([Node("x", 0, 0, None), *nodes(0.5, 0.6)], 3) == []


def exploring(number: int) -> Trial:
    """Make a trial; the tree does not look at its schedule."""
    return Trial(
        id=number + 1,
        study_id=1,
        number=number,
        schedule_json=schedule(*[stage()] * 4).to_json(),
        seed=0,
        role=Role.EXPLORE,
        state=State.RUNNING,
        started_at=datetime.now(UTC),
    )


ALL = range(100)
"""Nobody could be stopped."""


def chains(*pairs: tuple[float, ...]) -> StageTree:
    """Make a tree of schedules that share nothing, with a score after each stage."""
    tree, keys = StageTree(), count()
    for number, scores in enumerate(pairs):
        for position, score in enumerate(scores):
            key = f"{next(keys)}"
            tree.enter(exploring(number), position, key)
            tree.finish(key, (-score, 1.0))
    return tree


def test_scores_that_keep_their_order_foretell() -> None:
    """Spearman's correlation is 1 for the same order, -1 for the reverse, boundary by boundary."""
    same = [(n, n**2, -n) for n in range(FEW)]
    assert guides(chains(*same), ALL) == [
        Guide(0, FEW, pytest.approx(1), fair=True),
        Guide(1, FEW, pytest.approx(-1), fair=True),
    ]


def test_those_that_could_not_be_stopped_tell_more() -> None:
    """Where they are enough, they alone count; if not, it is said, and nobody is warned."""
    free = [(n, -n) for n in range(FEW)]
    tree = chains(*free, *[(100 + n, 100 + n) for n in range(FEW)])
    assert guides(tree, range(FEW)) == [Guide(0, FEW, pytest.approx(-1), fair=True)]
    assert guides(tree, range(FEW))[0].poor
    (guide,) = guides(tree, range(FEW - 1))
    assert (guide.pairs, guide.fair, guide.poor) == (2 * FEW, False, False)


def test_few_or_equal_scores_foretell_nothing() -> None:
    """Neither fewer pairs than a correlation needs nor scores without an order are reported."""
    assert guides(StageTree(), ALL) == []
    assert guides(chains(*[(n, n) for n in range(FEW - 1)], (5.0,), (6.0,)), ALL) == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert guides(chains(*[(0.5, n) for n in range(FEW)]), ALL) == []


def test_equal_scores_are_no_reason_to_warn() -> None:
    """A study whose first stages all score alike is shown without a library's warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert guides(chains(*[(0.5, n) for n in range(FEW)]), ALL) == []
