"""The stage tree: a study's stage runs, each below the one it started from. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from storage.records import Role, StageRun, State, StudyRecord, Trial
from storage.store import Store
from trainers.metrics import Metric
from trainers.schedule import Schedule, Train

Rank = tuple[float, float]
"""The rank of an epoch: smaller is better (see `Metric.rank`)."""


@dataclass(frozen=True)
class Trained:
    """The result of a stage run: its best epoch's rank and calibrated loss, and its seconds."""

    rank: Rank
    loss: float | None
    seconds: float


@dataclass(eq=False)
class Node:
    """A stage run in the tree.

    It trains the last stage of `prefix`. `trials` are the numbers of those that share it, in the
    order they entered. `trained` is its result, once all its epochs are done; `failed` means that
    it cannot be trained. `stopped` is the result on its first folds, if it was beaten on them.
    `explored` means that a trial other than a repeat has entered it.
    """

    key: str
    prefix: Schedule = field(repr=False)
    seed: int
    parent: "Node | None" = field(repr=False)
    trials: list[int] = field(default_factory=list)
    children: "list[Node]" = field(default_factory=list, repr=False)
    explored: bool = False
    trained: Trained | None = None
    failed: bool = False
    stopped: Trained | None = None

    @property
    def position(self) -> int:
        """The position of its stage in the schedule, from 0."""
        return len(self.prefix.stages) - 1

    @property
    def rank(self) -> Rank | None:
        """The rank of its best epoch, if it is trained."""
        return self.trained.rank if self.trained else None

    @property
    def outcome(self) -> Trained | None:
        """What came of it, be it on its first folds alone."""
        return self.trained or self.stopped

    @property
    def probe(self) -> bool:
        """Whether it is a probe, whose score says little about later stages."""
        return self.prefix.stages[-1].train is Train.PROBE


class StageTree:
    """Grows as trials enter stage runs, and as these end.

    Trials with equal first stages share nodes.
    """

    def __init__(self) -> None:
        self.roots: list[Node] = []
        self._nodes: dict[str, Node] = {}
        self._at: dict[tuple[int, int], Node] = {}  # by trial and position
        self._reached: dict[int, list[Node]] = {}  # by position, in the order they ended

    @classmethod
    def of(cls, store: Store, study: StudyRecord) -> "StageTree":
        """Return the tree of a study from its rows."""
        runs = store.stage_runs(study.id)
        tree = grow(
            store.trials(study.id),
            runs,
            store.links(study.id),
            store.ranks(study),
            store.calibrated_losses(study),
        )
        for run in runs:
            score, loss = run.first_score, run.first_loss
            if run.state is State.PRUNED and score is not None and loss is not None:
                tree.stop(run.key, study.metric, score, loss, run.seconds)
        return tree

    def enter(self, trial: Trial, position: int, key: str) -> Node:
        """Add a trial to the stage run that it needs at `position`, below the previous one."""
        node = self._nodes.get(key)
        if node is None:
            parent = self._at[trial.number, position - 1] if position else None
            prefix = trial.schedule.prefixes()[position]
            node = self._nodes[key] = Node(key, prefix, trial.seed, parent)
            (parent.children if parent else self.roots).append(node)
        if trial.number not in node.trials:
            node.trials.append(trial.number)
        self._at[trial.number, position] = node
        if trial.role is not Role.REPEAT and not node.explored:
            node.explored = True
            self._note_reached(node)
        return node

    def finish(self, key: str, trained: Trained) -> None:
        """Set the result of a stage run."""
        node = self._nodes[key]
        new = node.outcome is None
        node.trained, node.failed = trained, False
        if new:
            self._note_reached(node)

    def fail(self, key: str) -> None:
        """Note that a stage run could not be trained."""
        self._nodes[key].failed = True

    def stop(self, key: str, metric: Metric, score: float, loss: float, seconds: float) -> None:
        """Note that a stage run was beaten on its first folds, and what it came to there."""
        node = self._nodes[key]
        new = node.outcome is None
        node.stopped = Trained(metric.rank(score, loss), loss, seconds)
        if new:
            self._note_reached(node)

    def reached(self, position: int) -> list[Node]:
        """Return the stage runs that were trained to the boundary after stage `position`.

        Those that were beaten on their first folds count: without the weak, the others would look
        weak. Those only of repeats are excluded, since their schedules were selected as good ones.
        So are probes, which are not rungs.
        """
        return self._reached.get(position, [])

    def has_entered(self, trial: int, position: int) -> bool:
        """Return whether a trial was let on to its stage at `position`."""
        return (trial, position) in self._at

    def at(self, trial: int, position: int) -> Node:
        """Return the stage run of a trial at an entered position."""
        return self._at[trial, position]

    def last_trained(self, trial: int) -> Node | None:
        """Return the last of a trial's stage runs that are trained."""
        last, position = None, 0
        while (node := self._at.get((trial, position))) is not None and node.trained:
            last, position = node, position + 1
        return last

    def shared_with(self, trial: int) -> tuple[int, int] | None:
        """Return how many of a trial's first stages another trial had entered before it, and which.

        None if it was always the first.
        """
        count, first = 0, trial
        while (node := self._at.get((trial, count))) is not None and node.trials[0] != trial:
            count, first = count + 1, node.trials[0]
        return (count, first) if count else None

    def find(self, key: str) -> Node | None:
        """Return the stage run of that key, if a trial has entered it."""
        return self._nodes.get(key)

    def __iter__(self) -> Iterator[Node]:
        """Return all stage runs, parents first."""
        return iter(self._nodes.values())

    def _note_reached(self, node: Node) -> None:
        if node.explored and node.outcome and not node.probe:
            self._reached.setdefault(node.position, []).append(node)


def grow(
    trials: Iterable[Trial],
    runs: Iterable[StageRun],
    links: Iterable[tuple[int, int, int]],
    ranks: Mapping[int, Rank],
    losses: Mapping[int, float],
) -> StageTree:
    """Make the tree of a study from its rows.

    `links` are (trial's number, position, stage run's id), `ranks` and `losses` the ranks and
    calibrated losses of best epochs, by the stage run's id.
    """
    tree = StageTree()
    by_number = {trial.number: trial for trial in trials}
    by_id = {run.id: run for run in runs}
    # In the order in which stage runs were begun, since decisions depend on it.
    for number, position, run_id in sorted(links, key=lambda link: (link[2], link[0])):
        tree.enter(by_number[number], position, by_id[run_id].key)
    for run in sorted(by_id.values(), key=lambda each: each.id):
        if run.state is State.COMPLETE and run.id in ranks and tree.find(run.key):
            tree.finish(run.key, Trained(ranks[run.id], losses.get(run.id), run.seconds))
        elif run.state is State.FAILED and tree.find(run.key):
            tree.fail(run.key)
    return tree
