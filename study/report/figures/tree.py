"""The stage tree: the cost and the score of each stage run."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from study.formatting import count_text, time_text
from study.history.tree import StageNode
from study.report.contents import Contents
from study.report.figures.style import Drawing, Panel, colour_at, ranks_of
from study.searching.statuses import Status
from trainers.schedule import Train

MOST_NODES = 150
"""How many stage runs have their own box; the others of a parent share one."""

MOST_TRIALS = 100
"""How many trials of a box can be picked."""

_ROOT = "study"


@dataclass(frozen=True)
class Box:
    """A stage run, or several of one parent: `merged` says how many.

    `score` is the best, `seconds` those of all; `stopped` counts the trials that did not go on.
    """

    id: str
    parent: str
    depth: int
    label: str
    state: Status
    score: float | None
    seconds: float
    trials: tuple[int, ...]
    stopped: int
    merged: int = 1


def stage_tree(contents: Contents) -> Panel:
    """Return the tree as boxes, parents first: the page's script draws them as nested elements.

    `data` are {id (the stage run's key), parent, depth (from 1), label, state, score_text,
    time_text, colour (by its place among all scores; None without a score), trials, n_trials,
    stopped, merged}.
    """
    tree, metric = contents.tree, contents.study.metric
    if tree is None or not tree.roots:
        return Panel(None, "Once a stage has begun, the tree is drawn here.")
    boxes = boxes_of(contents)
    ranks = ranks_of(
        {box.id: box.score for box in boxes if box.score is not None},
        higher_is_better=metric.higher_is_better,
    )
    runs, trials = count_text(tree.stage_runs, "stage run"), count_text(tree.trials, "trial")
    whole = tree.pixels + tree.saved_pixels
    said = f"{runs} for {trials} in {time_text(tree.seconds)}"
    if tree.saved_pixels:
        said += f"; sharing saved {100 * tree.saved_pixels / whole:.0f} % of the pixels"
    if merged := sum(box.merged for box in boxes if box.merged > 1):
        said += f"; {merged} of the weaker ones are merged"
    return Panel(None, said + ".", [_listed(box, ranks.get(box.id), contents) for box in boxes])


def boxes_of(contents: Contents) -> list[Box]:
    """Return the tree's boxes, parents first; of big trees only those that lead to the best."""
    roots = contents.tree.roots if contents.tree else ()
    sign = -1 if contents.study.metric.higher_is_better else 1
    worth: dict[str, tuple[float, int, int]] = {}

    def weigh(node: StageNode, depth: int) -> float:
        """Return the value of the best run below. No child is worth more than its parent."""
        own = math.inf if node.score is None else sign * node.score
        best = min([own, *(weigh(child, depth + 1) for child in node.children)])
        worth[node.key] = (best, -len(node.trials), depth)
        return best

    for root in roots:
        weigh(root, 0)
    kept = set(sorted(worth, key=lambda key: worth[key])[:MOST_NODES])
    return list(_boxes(roots, _ROOT, 1, kept, contents))


def _boxes(
    nodes: Sequence[StageNode], parent: str, depth: int, kept: set[str], contents: Contents
) -> Iterator[Box]:
    below = list(_below([node for node in nodes if node.key not in kept]))
    for node in nodes:
        # A single one is shown itself, not merged.
        if node.key in kept or len(below) == 1:
            yield _box(node, parent, depth, contents)
            yield from _boxes(node.children, node.key, depth + 1, kept, contents)
    if len(below) > 1:
        yield _merged(below, parent, depth, contents)


def _merged(below: Sequence[StageNode], parent: str, depth: int, contents: Contents) -> Box:
    scores = [node.score for node in below if node.score is not None]
    best = max if contents.study.metric.higher_is_better else min
    states = {node.state for node in below}
    return Box(
        id=f"{parent}+",
        parent=parent,
        depth=depth,
        label=f"{len(below)} more",
        state=states.pop() if len(states) == 1 else Status.COMPLETE,
        score=best(scores) if scores else None,
        seconds=sum(node.seconds for node in below),
        trials=tuple(sorted({number for node in below for number in node.trials})),
        stopped=sum(len(node.stopped) for node in below),
        merged=len(below),
    )


def _below(nodes: Sequence[StageNode]) -> Iterator[StageNode]:
    for node in nodes:
        yield node
        yield from _below(node.children)


def _box(node: StageNode, parent: str, depth: int, contents: Contents) -> Box:
    return Box(
        id=node.key,
        parent=parent,
        depth=depth,
        label=_label(node, contents),
        state=node.state,
        score=node.score,
        seconds=node.seconds,
        trials=node.trials,
        stopped=len(node.stopped),
    )


def _label(node: StageNode, contents: Contents) -> str:
    size = f"{node.image_size} px"
    trial = next(trial for trial in contents.trials if trial.number == node.trials[0])
    if trial.schedule.stages[node.stage - 1].train is Train.PROBE:
        return f"{size} · probe"
    return f"{size} · {node.epochs} ep · lr {node.lrs[-1]:g}"


def _listed(box: Box, rank: float | None, contents: Contents) -> dict[str, Any]:
    return {
        "id": box.id,
        "parent": box.parent,
        "depth": box.depth,
        "label": box.label,
        "state": box.state.value,
        "score_text": contents.text(box.score),
        "time_text": time_text(box.seconds) if box.seconds else "",
        "colour": None if rank is None else colour_at(rank),
        "trials": list(box.trials[:MOST_TRIALS]),
        "n_trials": len(box.trials),
        "stopped": box.stopped,
        "merged": box.merged,
    }


FIGURES = (Drawing("tree", "tree", "", stage_tree),)
