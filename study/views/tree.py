"""The stage tree in the terminal."""

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from study.formatting import count_text, score_phrase, time_text
from study.history.tree import ShownTree, StageNode
from study.searching.statuses import Status
from study.views.history import STATUS_STYLE, print_leaks
from trainers.schedule import Train

SHOWN = 8
"""Maximum number of listed trial numbers; beyond it, the count."""


def print_tree(console: Console, shown: ShownTree) -> None:
    """Print the tree, and the savings by sharing."""
    whole = shown.pixels + shown.saved_pixels
    saved = f", {100 * shown.saved_pixels / whole:.0f} % saved by sharing" if whole else ""
    tree = Tree(
        f"[bold]study {escape(shown.study)}[/]: {count_text(shown.trials, 'trial')}, "
        f"{count_text(shown.stage_runs, 'stage run')}, {_pixels(shown.pixels)} trained in "
        f"{time_text(shown.seconds)}{saved}",
        guide_style="dim",
    )
    for root in shown.roots:
        _grow(tree, root, shown)
    console.print(tree, highlight=False)
    print_leaks(console, shown.judged)


def _grow(tree: Tree, node: StageNode, shown: ShownTree) -> None:
    style = STATUS_STYLE.get(node.state)
    trained = (f"{node.epochs} ep", f"lr {node.lrs[-1]:g}", f"{node.crop} crop")
    is_probe = node.train is Train.PROBE
    parts = [
        f"{'probe ' * is_probe}{node.image_size} px",
        *(() if is_probe else trained),
        *_outcome(node, shown),
        f"trial{'s' if len(node.trials) > 1 else ''} {_numbers(node.trials)}",
    ]
    if node.seed:
        parts.append(f"seed {node.seed}")
    if node.stopped:
        parts.append(f"[yellow]stopped {_numbers(node.stopped)}[/]")
    if style:
        parts.append(f"[{style}]{node.state}[/]")
    branch = tree.add("  ".join(parts))
    for child in node.children:
        _grow(branch, child, shown)


def _outcome(node: StageNode, shown: ShownTree) -> Iterator[str]:
    """Yield score and time; for a running stage run, the score so far if there is one."""
    score = f"[bold]{score_phrase(shown.metric, node.score, shown.judged.photos)}[/]"
    if node.state in (Status.RUNNING, Status.WAITING):
        if node.score is not None:
            yield f"{score} so far"
        return
    yield score
    yield (
        time_text(node.seconds)
        if node.taken_from is None
        else (f"trained by study {escape(node.taken_from)}")
    )


def _numbers(trials: tuple[int, ...]) -> str:
    return f"({len(trials)})" if len(trials) > SHOWN else ",".join(map(str, trials))


def _pixels(count: int) -> str:
    return f"{count / 1e9:.2f} gigapixels" if count >= 1e9 else f"{count / 1e6:.1f} megapixels"
