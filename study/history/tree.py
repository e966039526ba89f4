"""Use case `tree`: which stage runs trials share, and where trials were stopped."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from storage.records import StageRun, State, Trial
from storage.store import open_store
from study.config.schema import StudyConfig
from study.searching.statuses import Status, Statuses
from study.selection.leaks import Judged, judged_by
from study.stage_tree import Node, Rank, StageTree
from study.studies import find_study, manifest_of
from trainers.data.batches import passes_of
from trainers.data.manifest import Split
from trainers.metrics import Metric
from trainers.schedule import Stage, Train


@dataclass(frozen=True)
class StageNode:
    """A stage run in the tree. `score` is its best epoch's, `trials` share it.

    `pixels` counts those it was trained on: epochs x passes x photos x size x size. `stopped` are
    the trials that ended after it without completing; `taken_from` is the study that trained it, if
    another.
    """

    key: str
    stage: int
    image_size: int
    epochs: int
    lrs: tuple[float, ...]
    crop: str
    seed: int
    state: Status
    score: float | None
    seconds: float
    pixels: int
    trials: tuple[int, ...]
    stopped: tuple[int, ...]
    children: "tuple[StageNode, ...]"
    train: Train = Train.NETWORK
    taken_from: str | None = None


@dataclass(frozen=True)
class ShownTree:
    """A study's stage tree.

    `saved_pixels` is how many more would have been trained without sharing.
    """

    study: str
    metric: Metric
    trials: int
    stage_runs: int
    pixels: int
    saved_pixels: int
    seconds: float
    roots: tuple[StageNode, ...]
    judged: Judged


def show_tree(study: str | None = None, *, storage: str = StudyConfig().storage) -> ShownTree:
    """Show a study's stage tree (by default of the study used last)."""
    with open_store(storage, create=False) as store:
        record = find_study(store, study)
        trials, runs = store.trials(record.id), store.stage_runs(record.id)
        ranks, tree = store.ranks(record), StageTree.of(store, record)
        photos = len(manifest_of(store, record).of_split(Split.TRAIN))
        judged, statuses = judged_by(store, record), Statuses.of(store, record)
    view = _View(
        record.metric,
        photos,
        {trial.number: trial for trial in trials},
        {run.key: run for run in runs},
        ranks,
        statuses,
    )
    roots = tuple(view.node(root) for root in tree.roots)
    nodes = list(_all(roots))
    return ShownTree(
        study=record.name,
        metric=record.metric,
        trials=len(trials),
        stage_runs=len(nodes),
        pixels=sum(node.pixels for node in nodes),
        saved_pixels=sum(node.pixels * (len(node.trials) - 1) for node in nodes),
        seconds=sum(node.seconds for node in nodes),
        roots=roots,
        judged=judged,
    )


@dataclass(frozen=True)
class _View:
    """Turns nodes into the records that are shown."""

    metric: Metric
    photos: int
    trials: dict[int, Trial]
    runs: dict[str, StageRun]
    ranks: dict[int, Rank]
    statuses: Statuses

    def node(self, node: Node) -> StageNode:
        run = self.runs[node.key]
        stage: Stage = self.trials[node.trials[0]].schedule.stages[node.position]
        onward = {number for child in node.children for number in child.trials}
        stopped = [
            number
            for number in node.trials
            if number not in onward and self.trials[number].state is State.PRUNED
        ]
        rank = self.ranks.get(run.id)
        return StageNode(
            key=node.key,
            stage=node.position + 1,
            image_size=stage.image_size,
            epochs=stage.epochs,
            lrs=stage.lrs,
            crop=stage.crop.value,
            seed=node.seed,
            state=self.statuses.of_stage_run(run),
            score=None if rank is None else self.metric.score_of(rank),
            seconds=run.seconds,
            pixels=stage.epochs * passes_of(stage, self.photos) * self.photos * stage.image_size**2,
            trials=tuple(node.trials),
            stopped=tuple(stopped),
            children=tuple(self.node(child) for child in node.children),
            train=stage.train,
            taken_from=run.taken_from,
        )


def _all(nodes: Sequence[StageNode]) -> Iterator[StageNode]:
    for node in nodes:
        yield node
        yield from _all(node.children)
