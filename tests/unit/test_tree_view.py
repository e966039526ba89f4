"""The stage tree as it is printed."""

import io
from dataclasses import replace

from rich.console import Console

from study.history.tree import ShownTree, StageNode
from study.searching.statuses import Status
from study.selection.leaks import Judged
from study.views.tree import print_tree
from trainers.metrics import Metric
from trainers.schedule import Train


def node(stage: int, train: Train, *children: StageNode) -> StageNode:
    """Make a stage run of trial 0."""
    return StageNode(
        key=str(stage),
        stage=stage,
        image_size=32,
        epochs=1,
        lrs=(1e-4, 2e-4, 1e-3),
        crop="random",
        seed=0,
        state=Status.COMPLETE,
        score=0.5,
        seconds=1.0,
        pixels=10,
        trials=(0,),
        stopped=(),
        children=children,
        train=train,
    )


def test_a_probe_has_neither_epochs_nor_a_learning_rate() -> None:
    """It is named as one; the stage that goes on from it tells how it was trained."""
    root = node(1, Train.PROBE, node(2, Train.NETWORK))
    shown = ShownTree(
        study="s", metric=Metric.ACCURACY, trials=1, stage_runs=2, pixels=20, saved_pixels=0,
        seconds=2.0, roots=(root,), judged=Judged(9, "9 photos leak"),
    )  # fmt: skip
    out = io.StringIO()
    print_tree(Console(file=out, width=120), shown)
    assert out.getvalue().splitlines()[1:-1] == [
        "└── probe 32 px  50.0 %  1.0 s  trial 0",
        "    └── 32 px  1 ep  lr 0.001  random crop  50.0 %  1.0 s  trial 0",
    ]
    assert out.getvalue().splitlines()[-1] == "9 photos leak"


def test_a_stage_that_has_not_ended_has_no_time() -> None:
    """One that waits has a score so far at most; one of another study names that study."""
    waits = replace(node(1, Train.NETWORK), state=Status.WAITING, seconds=0.0)
    roots = (
        waits,
        replace(waits, score=None),
        replace(node(1, Train.NETWORK), taken_from="[b]", seconds=0.0),
    )
    shown = ShownTree(
        study="s", metric=Metric.ACCURACY, trials=1, stage_runs=3, pixels=20, saved_pixels=0,
        seconds=2.0, roots=roots, judged=Judged(9, ""),
    )  # fmt: skip
    out = io.StringIO()
    print_tree(Console(file=out, width=120), shown)
    common = "32 px  1 ep  lr 0.001  random crop"
    assert out.getvalue().splitlines()[1:] == [
        f"├── {common}  50.0 % so far  trial 0  waiting",
        f"├── {common}  trial 0  waiting",
        f"└── {common}  50.0 %  trained by study [b]  trial 0",
    ]


def test_nothing_of_the_tree_is_cut_in_a_narrow_terminal() -> None:
    """What does not fit goes on below, the guides beside it."""
    shown = ShownTree(
        study="a study of some name", metric=Metric.ACCURACY, trials=11, stage_runs=11,
        pixels=6_500_000, saved_pixels=3_000_000, seconds=230.0, roots=(node(1, Train.NETWORK),),
        judged=Judged(9, ""),
    )  # fmt: skip
    out = io.StringIO()
    print_tree(Console(file=out, width=40), shown)
    said = " ".join(out.getvalue().split())
    assert "32 % saved by sharing" in said
    assert "trial 0" in said
