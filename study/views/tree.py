"""The stage tree as a person reads it."""

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from study.formatting import score_text, time_text
from study.history.tree import ShownTree, StageNode
from study.views.history import STATUS_STYLE, print_leaks
from trainers.schedule import Train

SHOWN = 8
"""So many trial numbers are named; of more, the count."""


def print_tree(console: Console, shown: ShownTree) -> None:
    """Print the tree, and what sharing saved."""
    whole = shown.pixels + shown.saved_pixels
    saved = f", {100 * shown.saved_pixels / whole:.0f} % saved by sharing" if whole else ""
    tree = Tree(
        f"[bold]study {escape(shown.study)}[/]: {shown.trials} trials, {shown.stage_runs} stage "
        f"runs, {_pixels(shown.pixels)} in {time_text(shown.seconds)}{saved}",
        guide_style="dim",
    )
    for root in shown.roots:
        _grow(tree, root, shown)
    console.print(tree, highlight=False, soft_wrap=True)
    print_leaks(console, shown.judged)


def _grow(tree: Tree, node: StageNode, shown: ShownTree) -> None:
    style = STATUS_STYLE.get(node.state)
    score = score_text(shown.metric, node.score, shown.judged.photos)
    trained = (f"{node.epochs} ep", f"lr {node.lrs[-1]:g}", f"{node.crop} crop")
    is_probe = node.train is Train.PROBE
    parts = [
        f"{'probe ' * is_probe}{node.image_size} px",
        *(() if is_probe else trained),
        f"[bold]{score}[/]",
        time_text(node.seconds),
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


def _numbers(trials: tuple[int, ...]) -> str:
    return f"({len(trials)})" if len(trials) > SHOWN else ",".join(map(str, trials))


def _pixels(count: int) -> str:
    return f"{count / 1e9:.2f} Gpx" if count >= 1e9 else f"{count / 1e6:.1f} Mpx"
