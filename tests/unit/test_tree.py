"""The stage tree: equal beginnings meet, in whatever order trials enter and stage runs end."""

from datetime import UTC, datetime

from storage.records import Role, StageRun, State, Trial
from study.stage_tree import StageTree, Trained, grow
from tests.lab import schedule, stage, trial_of
from trainers.schedule import Schedule, Stage, Train

NOW = datetime.now(UTC)
STAGES = schedule(stage(32), stage(64), stage(96), stage(128))
LINKS = [(0, 0, 1), (1, 0, 2), (0, 1, 3)]
"""Trial 0 went on after trial 1 had begun."""


def trial(number: int, role: Role = Role.EXPLORE, seed: int = 0, of: Schedule = STAGES) -> Trial:
    """Make a running trial of some stages."""
    return trial_of(of, number, seed=seed, role=role)


def came_to(score: float) -> Trained:
    """Say that a stage run came to a score."""
    return Trained((-score, 1.0), 1 - score, 1.0)


def run(identity: int, key: str, position: int, state: State = State.COMPLETE) -> StageRun:
    """Make a stage run's row."""
    return StageRun(
        id=identity,
        study_id=1,
        key=key,
        position=position,
        seed=0,
        image_size=32,
        epochs=1,
        state=state,
        trial_number=0,
        seconds=1.0,
        started_at=NOW,
        finished_at=None,
    )


def test_trials_with_equal_beginnings_share_nodes() -> None:
    """Two trials meet at one root and part below it; each key is one node, parents first."""
    tree = StageTree()
    for number, keys in ((0, ("a", "b")), (1, ("a", "c"))):
        for position, key in enumerate(keys):
            tree.enter(trial(number), position, key)
    (root,) = tree.roots
    assert (root.key, root.trials, root.parent) == ("a", [0, 1], None)
    assert [(child.key, child.trials, child.position) for child in root.children] == [
        ("b", [0], 1),
        ("c", [1], 1),
    ]
    assert [node.parent for node in root.children] == [root, root]
    assert [node.key for node in tree] == ["a", "b", "c"]
    assert [node.prefix for node in tree] == [STAGES.prefixes()[at] for at in (0, 1, 1)]


def test_a_trial_enters_a_stage_once() -> None:
    """Entering again, as after a crash, changes nothing."""
    tree = StageTree()
    first = tree.enter(trial(0), 0, "a")
    assert tree.enter(trial(0), 0, "a") is first
    assert first.trials == [0]
    assert tree.roots == [first]
    assert tree.reached(0) == []


def test_it_knows_who_was_let_on() -> None:
    """A trial has entered exactly the positions that it was put on."""
    tree = StageTree()
    tree.enter(trial(0), 0, "a")
    tree.enter(trial(1), 0, "a")
    tree.enter(trial(1), 1, "b")
    assert [tree.has_entered(0, position) for position in (0, 1)] == [True, False]
    assert [tree.has_entered(1, position) for position in (0, 1, 2)] == [True, True, False]
    assert tree.find("b") is not None
    assert tree.find("z") is None


def test_boundaries_are_reached_in_the_order_of_ending() -> None:
    """A stage run counts once, when it is trained, at its own boundary; a failed one never."""
    tree = StageTree()
    for number, key in enumerate("abc"):
        tree.enter(trial(number), 0, key)
    tree.enter(trial(0), 1, "d")
    assert tree.reached(0) == []
    tree.finish("c", came_to(0.5))
    tree.finish("a", came_to(0.9))
    tree.finish("c", came_to(0.6))
    tree.fail("b")
    tree.finish("d", came_to(0.1))
    assert [(node.key, node.rank) for node in tree.reached(0)] == [
        ("c", (-0.6, 1.0)),
        ("a", (-0.9, 1.0)),
    ]
    assert [node.key for node in tree.reached(1)] == ["d"]
    assert tree.reached(7) == []
    assert [node.key for node in tree if node.failed] == ["b"]


def test_what_only_repeats_reached_is_left_out() -> None:
    """It counts from the moment on when another trial comes to share it, and only once."""
    tree = StageTree()
    tree.enter(trial(0, Role.REPEAT, seed=1), 0, "a")
    tree.finish("a", came_to(0.9))
    assert tree.reached(0) == []
    for number in (1, 2):
        tree.enter(trial(number, seed=1), 0, "a")
    assert [node.key for node in tree.reached(0)] == ["a"]
    tree.enter(trial(3, Role.REPEAT, seed=1), 0, "a")
    assert [node.key for node in tree.reached(0)] == ["a"]


def test_a_tree_grows_the_same_from_rows() -> None:
    """Whatever the order of the rows, links and ranks make the tree that the search had."""
    trials = [trial(0), trial(1, Role.PRESET), trial(2, Role.REPEAT, seed=1)]
    runs = [
        run(1, "a", 0),
        run(2, "b", 1),
        run(3, "c", 1, State.FAILED),
        run(4, "d", 1, State.RUNNING),
        run(5, "e", 2),
        run(6, "unlinked", 0),
    ]
    links = [(2, 1, 4), (1, 1, 3), (0, 2, 5), (0, 0, 1), (1, 0, 1), (0, 1, 2), (2, 0, 1)]
    ranks = {identity: (-identity / 10, 0.5) for identity in (1, 2, 4, 6)}
    tree = grow(trials, reversed(runs), links, ranks, {1: 0.3, 4: 0.2})
    seen = {
        node.key: (node.parent.key if node.parent else None, node.trials, node.trained, node.failed)
        for node in tree
    }
    assert seen == {
        "a": (None, [0, 1, 2], Trained((-0.1, 0.5), 0.3, 1.0), False),
        "b": ("a", [0], Trained((-0.2, 0.5), None, 1.0), False),
        "c": ("a", [1], None, True),
        "d": ("a", [2], None, False),
        "e": ("b", [0], None, False),
    }
    assert [[node.key for node in tree.reached(position)] for position in range(3)] == [
        ["a"],
        ["b"],
        [],
    ]


def test_what_failed_once_and_is_trained_now_has_not_failed() -> None:
    """A search that goes on sees the same tree as one that reads it from its rows."""
    tree = StageTree()
    node = tree.enter(trial(0), 0, "a")
    tree.fail("a")
    tree.enter(trial(1), 0, "a")
    tree.finish("a", came_to(0.5))
    assert node.failed is False


def test_the_last_trained_is_where_a_trial_stands() -> None:
    """Its own last stage run that is trained; none as long as its first is not."""
    tree = StageTree()
    tree.enter(trial(0), 0, "a")
    assert tree.last_trained(0) is None
    assert tree.last_trained(7) is None
    tree.finish("a", came_to(0.9))
    tree.enter(trial(0), 1, "b")
    tree.enter(trial(1), 0, "a")
    found = [tree.last_trained(number) for number in (0, 1)]
    assert [node.key for node in found if node] == ["a", "a"]
    tree.finish("b", came_to(0.1))
    found = [tree.last_trained(number) for number in (0, 1)]
    assert [node.key for node in found if node] == ["b", "a"]


def test_probes_are_known_as_such() -> None:
    """They are trained and can be the last, but are no boundary that anybody reaches."""
    tree = StageTree()
    first = Stage(image_size=32, train=Train.PROBE)
    of = Schedule(backbone="net", hidden=(), stages=(first, stage(64)))
    for position, key in enumerate("ab"):
        tree.enter(trial(0, of=of), position, key)
        tree.finish(key, came_to(0.5))
    assert [node.probe for node in tree] == [True, False]
    assert [[node.key for node in tree.reached(position)] for position in (0, 1)] == [[], ["b"]]


def test_a_tree_from_rows_has_the_order_of_the_search() -> None:
    """Decisions look at the newest: a late stage of an early trial comes after others' first."""
    trials = [trial(0), trial(1, of=schedule(stage(40)))]
    tree = grow(trials, [run(1, "a", 0), run(2, "b", 0), run(3, "c", 1)], LINKS, {}, {})
    live = StageTree()
    for number, position, identity in LINKS:
        live.enter(trials[number], position, "abc"[identity - 1])
    assert [node.key for node in tree] == [node.key for node in live] == ["a", "b", "c"]
