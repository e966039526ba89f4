"""The stage tree: what each stage run cost, and whether it was worth it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from storage.records import State
from study.formatting import count_text, score_text, time_text
from study.history.tree import StageNode
from study.report.contents import Contents
from study.report.figures.style import GREY, Panel, colour_at, figure, number, ranks_of, shown

MOST_NODES = 900
"""So many stage runs are shown by themselves; the others of a parent are one box."""

FEW = 300
"""With more boxes, lines between them would hide them."""

MOST_TRIALS = 100
"""So many trials of a box can be picked."""

_HATCHES = {State.FAILED: "x", State.RUNNING: "."}
_ROOT = "study"


@dataclass(frozen=True)
class Box:
    """A stage run, or several of one parent: `merged` says how many.

    `score` is the best, `seconds` those of all; `stopped` counts the trials that were not let on.
    """

    id: str
    parent: str
    depth: int
    label: str
    state: State
    score: float | None
    seconds: float
    trials: tuple[int, ...]
    stopped: int
    merged: int = 1


def stage_tree(contents: Contents) -> Panel:
    """Draw the tree as an icicle: width is time, the better the more orange, hatched the stopped.

    Ids are the stage runs' keys; `customdata` is [trials' numbers, how many there are, in words
    what the box is]. `data` are the same boxes for a list, parents first: {id, parent, depth (from
    1), label, state, score_text, time_text, trials, n_trials, stopped, merged}.
    """
    tree, metric = contents.tree, contents.study.metric
    if tree is None or not tree.roots:
        return Panel(None, "No stage has begun yet.")
    boxes = boxes_of(contents)
    ranks = ranks_of(
        {box.id: box.score for box in boxes if box.score is not None},
        higher_is_better=metric.higher_is_better,
    )
    colours = ["#B0B0B0", *(_colour(box, ranks) for box in boxes)]
    runs, trials = count_text(tree.stage_runs, "stage run"), count_text(tree.trials, "trial")
    timed = any(box.seconds > 0 for box in boxes)
    texts = [_text(box, score_text(metric, box.score)) for box in boxes]
    trace = {
        "type": "icicle",
        "ids": [_ROOT, *(box.id for box in boxes)],
        "parents": ["", *(box.parent for box in boxes)],
        "labels": [shown(contents.study.name), *(box.label for box in boxes)],
        # A box is as wide as its own time and all below it.
        "values": [0, *(number(box.seconds) if timed else 1 for box in boxes)],
        "branchvalues": "remainder",
        "customdata": [
            [[], tree.trials, f"{runs} of {trials}"],
            *(
                [list(box.trials[:MOST_TRIALS]), len(box.trials), text]
                for box, text in zip(boxes, texts, strict=True)
            ),
        ],
        "hovertemplate": "%{label}<br>%{customdata[2]}<extra></extra>",
        "texttemplate": "%{label}",
        "textfont": {"color": "#111111"},
        "leaf": {"opacity": 1},
        "marker": {
            "colors": colours,
            "line": {"width": 0.5 if len(boxes) < FEW else 0, "color": "rgba(255,255,255,0.6)"},
            "pattern": {
                "shape": ["", *(_hatch(box) for box in boxes)],
                "bgcolor": colours,
                "fgcolor": "rgba(0,0,0,0.45)",
                "size": 6,
            },
        },
        "tiling": {"orientation": "v"},
        "pathbar": {"visible": True},
    }
    depth = max(box.depth for box in boxes)
    drawn = figure(
        [trace],
        120 + 90 * depth,
        margin={"l": 8, "r": 8, "t": 32, "b": 8},
        uniformtext={"minsize": 9, "mode": "hide"},
    )
    whole = tree.pixels + tree.saved_pixels
    said = f"{runs} for {trials} in {time_text(tree.seconds)}"
    if tree.saved_pixels:
        said += f"; sharing saved {tree.saved_pixels / whole:.0%} of the pixels"
    if merged := sum(box.merged for box in boxes if box.merged > 1):
        said += f"; {merged} of the weaker ones are merged"
    return Panel(drawn, said + ".", [_listed(box, contents) for box in boxes])


def boxes_of(contents: Contents) -> list[Box]:
    """Return the tree's boxes, parents first; of big trees those alone that lead to the best."""
    roots = contents.tree.roots if contents.tree else ()
    sign = -1 if contents.study.metric.higher_is_better else 1
    worth: dict[str, tuple[float, int, int]] = {}

    def weigh(node: StageNode, depth: int) -> float:
        """Return how good the best below is. No child is worth more than its parent."""
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
        # A single one is no more to show than its count.
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
        state=states.pop() if len(states) == 1 else State.COMPLETE,
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
    label = f"{node.image_size} px · {node.epochs} ep · lr {node.lrs[-1]:g}"
    if node.score is not None:
        label += f" · {score_text(contents.study.metric, node.score)}"
    return Box(
        id=node.key,
        parent=parent,
        depth=depth,
        label=shown(label),
        state=node.state,
        score=node.score,
        seconds=node.seconds,
        trials=node.trials,
        stopped=len(node.stopped),
    )


def _colour(box: Box, ranks: dict[str, float]) -> str:
    return colour_at(ranks[box.id]) if box.id in ranks else GREY


def _hatch(box: Box) -> str:
    if box.state in _HATCHES:
        return _HATCHES[box.state]
    return "/" if box.stopped else ""


def _text(box: Box, score: str) -> str:
    """Say what a box is."""
    some = ", ".join(map(str, box.trials[:8])) + (", …" if len(box.trials) > 8 else "")
    parts = [
        f"stage {box.depth}, {box.state}, {score}, {time_text(box.seconds)}",
        f"{len(box.trials)} trials: {some}" if len(box.trials) > 1 else f"trial {some}",
    ]
    if box.stopped:
        parts.append(f"{box.stopped} stopped here")
    return "<br>".join(parts)


def _listed(box: Box, contents: Contents) -> dict[str, Any]:
    return {
        "id": box.id,
        "parent": box.parent,
        "depth": box.depth,
        "label": box.label,
        "state": box.state.value,
        "score_text": score_text(contents.study.metric, box.score),
        "time_text": time_text(box.seconds),
        "trials": list(box.trials[:MOST_TRIALS]),
        "n_trials": len(box.trials),
        "stopped": box.stopped,
        "merged": box.merged,
    }
