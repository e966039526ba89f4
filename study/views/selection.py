"""What `best` and `compare` print for a person."""

from pathlib import PurePath

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from study.criterion import Criterion
from study.formatting import count_text, schedule_text, score_text, time_text
from study.selection.compare import Comparison, Side
from study.selection.final_test import FinalTest
from study.selection.result import Selection
from study.selection.schedule_ranking import cheapest
from study.statistics.selection_bias import By
from study.views.costs import print_operation
from trainers.schedule import Schedule

MISTAKES_SHOWN = 10
DIFFERENCES_SHOWN = 20


def print_best(console: Console, chosen: Selection, top: int = 5) -> None:
    """Print the winner and how sure it is, its mistakes, the schedules, the runners-up."""
    metric, schedule = chosen.metric, Schedule.from_dict(chosen.schedule)
    for path in chosen.damaged:
        console.print(f"[red]passed over[/] {escape(path)}: missing or changed")
    console.print(f"[bold]{escape(chosen.file)}[/]", soft_wrap=True)
    lines = (
        (
            f"[bold]{metric} {score_text(metric, chosen.score)}[/], {chosen.errors} errors on "
            f"{chosen.n_valid} validation photos, loss {chosen.loss:.4f}"
        ),
        _honest(chosen),
        *_leaks(chosen),
        *_gain(chosen),
        *_passed_over(chosen),
        (
            f"study {escape(chosen.study)}, best of {chosen.trials} trials: trial {chosen.trial}, "
            f"seed {chosen.seed}, stage {chosen.stage + 1}, epoch {chosen.epoch}"
            + (", judged with mirror images" if schedule.stages[chosen.stage].tta else "")
        ),
        f"{schedule.backbone}, {escape(schedule_text(schedule))}",
        f"schedule {chosen.schedule_digest[:12]}: {_seeds(chosen)}",
    )
    for line in lines:
        console.print(line, highlight=False)
    console.print(_confusion(chosen))
    _print_mistakes(console, chosen)
    if chosen.operation:
        print_operation(console, chosen.operation, chosen.classes, chosen.goal)
    _print_schedules(console, chosen, top)
    if chosen.runners_up:
        console.print(_runners_up(chosen))


def print_summary(console: Console, chosen: Selection) -> None:
    """Print the winner in two lines."""
    console.print(
        f"best: {chosen.metric} {score_text(chosen.metric, chosen.score)}, "
        f"{chosen.errors} errors on {chosen.n_valid} photos: {chosen.file}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for line in (_honest(chosen), *_leaks(chosen), *_gain(chosen)):
        console.print(line, highlight=False)


def print_comparison(console: Console, found: Comparison) -> None:
    """Print both sides, whether luck explains the difference, and where they differ."""
    for side in (found.first, found.second):
        console.print(_side(side, found.photos), highlight=False, soft_wrap=True)
    console.print(
        f"both right on {found.both_right} photos, neither on {found.neither_right}; only the "
        f"first on {found.only_first_right}, only the second on {found.only_second_right}",
        highlight=False,
    )
    verdict = "luck alone rarely does that" if found.p_value < 0.05 else "that may well be luck"
    console.print(f"[bold]p = {found.p_value:.2g}[/] (McNemar, exact): {verdict}", highlight=False)
    if not found.differences:
        return
    table = Table(title="named differently", title_justify="left", box=None)
    table.add_column("photo", overflow="fold")
    for name in ("true", "first", "second"):
        table.add_column(name)
    for each in found.differences[:DIFFERENCES_SHOWN]:
        cells = (each.path, each.label, each.first, each.second)
        table.add_row(*(escape(cell) for cell in cells))
    console.print(table)
    if len(found.differences) > DIFFERENCES_SHOWN:
        more = len(found.differences) - DIFFERENCES_SHOWN
        console.print(f"  and {more} more, all in --json", highlight=False)


def print_final_test(console: Console, chosen: Selection, found: FinalTest) -> None:
    """Print what came of the test photos, and how often they have been looked at."""
    low, high = 100 * found.low, 100 * found.high
    other = f", {chosen.metric} {score_text(chosen.metric, found.score)}"
    console.print(
        f"[bold]test photos: accuracy {100 * found.accuracy:.2f}[/] (95 % CI {low:.2f}-"
        f"{high:.2f}), {found.errors} errors on {found.photos}"
        + ("" if chosen.metric is Criterion.ACCURACY else other),
        highlight=False,
    )
    if found.cost is not None:
        console.print(f"  cost {found.cost:.4f} per photo, by the rule above", highlight=False)
    n, of = len(found.looks), len({look.sha256 for look in found.looks})
    if n > 1:
        console.print(
            f"  look {n} at these photos, at {of} weights files: whatever is chosen by them "
            "flatters as validation does",
            highlight=False,
        )


def _honest(chosen: Selection) -> str:
    found, metric = chosen.honest, chosen.metric
    if found is None:
        return f"too few photos to estimate anything of new ones: {chosen.n_valid}"
    return (
        f"estimated {metric} on new photos: [bold]{score_text(metric, found.estimate)}[/] "
        f"({escape(chosen.interval)}); the observed {score_text(metric, chosen.score)} was chosen "
        f"from {count_text(found.candidates, 'epoch')} and is therefore optimistic"
    )


def _leaks(chosen: Selection) -> list[str]:
    return [f"[bold red]{chosen.leak_text}[/]"] if chosen.leak_text else []


def _gain(chosen: Selection) -> list[str]:
    """Say what the search has gained over the probe that it began with, if it did."""
    probe, metric = chosen.probe, chosen.metric
    if probe is None:
        return []
    what = f"the probe at {probe.image_size} px, before any tuning"
    if probe.trial == chosen.trial:
        return [f"this is {what}: the search has found nothing better yet"]
    made = f"{count_text(probe.errors, 'error')}, {metric} {score_text(metric, probe.score)}"
    fewer = probe.errors - chosen.errors
    gain = f"{abs(fewer)} {'fewer' if fewer >= 0 else 'more'} with these weights"
    return [f"{what}: {made}; {gain}"]


def _passed_over(chosen: Selection) -> list[str]:
    """Name the best score where something else is expected to be better."""
    if chosen.by is not By.FORECAST or not chosen.runners_up:
        return []
    sign = -1 if chosen.metric.higher_is_better else 1
    highest = min(chosen.runners_up, key=lambda other: sign * other.score)
    if sign * highest.score >= sign * chosen.score:
        return []
    score = score_text(chosen.metric, highest.score)
    return [f"trial {highest.trial} scored {score}, but less is expected of it (--by max takes it)"]


def _seeds(chosen: Selection) -> str:
    mean = score_text(chosen.metric, chosen.schedule_mean)
    if chosen.schedule_spread is None:
        return "one seed only: how much of this is luck, `search --repeats 3` tells"
    spread = score_text(chosen.metric, chosen.schedule_spread)
    each = ", ".join(score_text(chosen.metric, score) for score in chosen.seed_scores.values())
    return f"mean over {len(chosen.seed_scores)} seeds {mean}, spread {spread} ({each})"


def _print_schedules(console: Console, chosen: Selection, top: int) -> None:
    lines, metric = chosen.schedules, chosen.metric
    if not lines or not top:
        return
    by = "lower bound of the mean" if chosen.by is By.LCB else "mean over seeds"
    table = Table(title=f"schedules, by {by}", title_justify="left", box=None)
    for name in ("trial", "seeds", "mean", "95 %", "best", "time"):
        table.add_column(name, justify="right")
    table.add_column("schedule", overflow="fold")
    for line in lines[:top]:
        low, mean, high, best = (
            score_text(metric, score) for score in (line.low, line.mean, line.high, line.best)
        )
        mark = "= " if line.tied and line is not lines[0] else ""
        table.add_row(
            str(line.trial),
            str(len(line.scores)),
            f"{mark}{mean}",
            "-" if line.low is None else f"{low} - {high}",
            best,
            time_text(line.seconds),
            escape(line.schedule),
        )
    console.print(table)
    tied = sum(line.tied for line in lines)
    if tied > 1:
        least = cheapest(lines)
        console.print(
            f"{tied} schedules are tied (=) within noise; the cheapest within a standard error of "
            f"the first is that of trial {least.trial}: "
            f"{score_text(metric, least.mean)}, {time_text(least.seconds)}",
            highlight=False,
        )


def _confusion(chosen: Selection) -> Table:
    table = Table(title="true class by predicted class", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    for name in chosen.classes:
        table.add_column(escape(name), justify="right")
    for name in ("precision", "recall", "F1"):
        table.add_column(name, justify="right", style="dim")
    for i, name in enumerate(chosen.classes):
        counts = [
            f"[green]{n}[/]" if i == j else f"[red]{n}[/]" if n else "."
            for j, n in enumerate(chosen.confusion[i])
        ]
        own = chosen.per_class[i]
        numbers = (f"{100 * value:.1f}" for value in (own.precision, own.recall, own.f1))
        table.add_row(escape(name), *counts, *numbers)
    return table


def _print_mistakes(console: Console, chosen: Selection) -> None:
    worst = sorted(chosen.mistakes, key=lambda mistake: -mistake.probability)
    for mistake in worst[:MISTAKES_SHOWN]:
        console.print(
            f"  {escape(repr(mistake.path))}: {escape(mistake.label)} misclassified as "
            f"{escape(mistake.predicted)} ({100 * mistake.probability:.0f} %)",
            soft_wrap=True,
            highlight=False,
        )
    if len(worst) > MISTAKES_SHOWN:
        console.print(f"  and {len(worst) - MISTAKES_SHOWN} more, all in --json", highlight=False)


def _runners_up(chosen: Selection) -> Table:
    table = Table(title="runners-up", title_justify="left", box=None)
    for name in ("trial", "seed", str(chosen.metric), "schedule mean"):
        table.add_column(name, justify="right")
    table.add_column("file", overflow="fold")
    for other in chosen.runners_up:
        table.add_row(
            str(other.trial),
            str(other.seed),
            score_text(chosen.metric, other.score),
            score_text(chosen.metric, other.schedule_mean),
            escape(PurePath(other.file).name),
        )
    return table


def _side(side: Side, photos: int) -> str:
    accuracy, low, high = (100 * share for share in (side.accuracy, side.low, side.high))
    return (
        f"[bold]{escape(side.name)}[/]: {side.errors} errors on {photos} validation photos, "
        f"accuracy {accuracy:.2f} (95 % CI {low:.2f}-{high:.2f})"
    )
