"""The stage tree: a study's stage runs, each below the one that it started from. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from storage.records import Role, StageRun, State, Trial
from trainers.schedule import Train

Rank = tuple[float, float]
"""How good an epoch is: the smaller, the better (see `Metric.rank`)."""


@dataclass(eq=False)
class Node:
    """A stage run in the tree.

    `position` counts stages from 0. `trials` are the numbers of those that share it, in the order
    they entered. `rank` is that of its best epoch, once all its epochs are trained; `failed` says
    that it cannot be trained. `explored` are those that other trials than repeats have entered. A
    `probe` tells little of what can be made of its head.
    """

    key: str
    position: int
    seed: int
    parent: "Node | None" = field(repr=False)
    probe: bool = False
    trials: list[int] = field(default_factory=list)
    children: "list[Node]" = field(default_factory=list, repr=False)
    explored: bool = False
    rank: Rank | None = None
    failed: bool = False


class StageTree:
    """Grows as trials enter stage runs, and as these end. Trials with equal beginnings meet."""

    def __init__(self) -> None:
        self.roots: list[Node] = []
        self._nodes: dict[str, Node] = {}
        self._at: dict[tuple[int, int], Node] = {}  # by trial and position
        self._reached: dict[int, list[Node]] = {}  # by position, in the order they ended

    def enter(self, trial: Trial, position: int, key: str) -> Node:
        """Put a trial on the stage run that it needs at `position`, below the one before it."""
        node = self._nodes.get(key)
        if node is None:
            parent = self._at[trial.number, position - 1] if position else None
            probe = trial.schedule.stages[position].train is Train.PROBE
            node = self._nodes[key] = Node(key, position, trial.seed, parent, probe)
            (parent.children if parent else self.roots).append(node)
        if trial.number not in node.trials:
            node.trials.append(trial.number)
        self._at[trial.number, position] = node
        if trial.role is not Role.REPEAT and not node.explored:
            node.explored = True
            self._note_reached(node)
        return node

    def finish(self, key: str, rank: Rank) -> None:
        """Note that a stage run is trained; `rank` is that of its best epoch."""
        node = self._nodes[key]
        if node.rank is None:
            node.rank = rank
            self._note_reached(node)
        node.rank, node.failed = rank, False

    def fail(self, key: str) -> None:
        """Note that a stage run could not be trained."""
        self._nodes[key].failed = True

    def reached(self, position: int) -> list[Node]:
        """Give the stage runs that were trained to the boundary after stage `position`.

        Those of repeats alone are left out: they are there because their schedules are good. So
        are probes, which are no rung of anything.
        """
        return self._reached.get(position, [])

    def has_entered(self, trial: int, position: int) -> bool:
        """Tell whether a trial was let on to its stage at `position`."""
        return (trial, position) in self._at

    def at(self, trial: int, position: int) -> Node:
        """Give the stage run of a trial at a position that it has entered."""
        return self._at[trial, position]

    def find(self, key: str) -> Node | None:
        """Give the stage run of that key, if a trial has entered it."""
        return self._nodes.get(key)

    def __iter__(self) -> Iterator[Node]:
        """Give all stage runs, parents first."""
        return iter(self._nodes.values())

    def _note_reached(self, node: Node) -> None:
        if node.explored and node.rank is not None and not node.probe:
            self._reached.setdefault(node.position, []).append(node)


def grow(
    trials: Iterable[Trial],
    runs: Iterable[StageRun],
    links: Iterable[tuple[int, int, int]],
    ranks: Mapping[int, Rank],
) -> StageTree:
    """Make the tree of a study from its rows.

    `links` are (trial's number, position, stage run's id), `ranks` those of best epochs by the
    stage run's id.
    """
    tree = StageTree()
    by_number = {trial.number: trial for trial in trials}
    by_id = {run.id: run for run in runs}
    for number, position, run_id in sorted(links):
        tree.enter(by_number[number], position, by_id[run_id].key)
    for run in sorted(by_id.values(), key=lambda each: each.id):
        if run.state is State.COMPLETE and run.id in ranks and tree.find(run.key):
            tree.finish(run.key, ranks[run.id])
        elif run.state is State.FAILED and tree.find(run.key):
            tree.fail(run.key)
    return tree
