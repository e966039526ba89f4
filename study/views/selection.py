"""Output of `best` and `compare`."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from study.criterion import Criterion
from study.deployment.refit import Refitted
from study.formatting import count_text, percent, photos_text, score_phrase, time_text
from study.invocation import hint
from study.selection.compare import Comparison, Side
from study.selection.final_test import FinalTest
from study.selection.result import Selection
from study.selection.schedule_ranking import ScheduleLine, cheapest, ties_text
from study.stage_text import schedule_text
from study.statistics.selection_bias import By
from study.views.classes import print_classes
from study.views.costs import print_operation
from study.views.terminal import file_text
from trainers.schedule import Schedule

MISTAKES_SHOWN = 10
DIFFERENCES_SHOWN = 20


def print_file(console: Console, chosen: Selection) -> None:
    """Print the weights file that the following lines are about, and damaged files."""
    for path in chosen.damaged:
        console.print(f"[red]skipped[/] {escape(path)}: missing or changed", soft_wrap=True)
    console.print(f"[bold]{escape(chosen.file)}[/]", soft_wrap=True)


def print_best(
    console: Console, chosen: Selection, *, details: bool = False, named: bool = False
) -> None:
    """Print the winner's scores, and the expected score of a new run of its schedule.

    With `details`, which follow, it does not mention where these are. `named`: the study was given
    by name, and so it is in commands to type next.
    """
    for line in (
        _observed(chosen),
        _estimated(chosen),
        *_together(chosen),
        *_leaks(chosen),
        *_folds(chosen),
        _these(chosen, details=details),
        _new_run(chosen, named=named),
        *_passed_over(chosen),
        *_gain(chosen),
        *_ties(chosen, details=details),
    ):
        console.print(line, highlight=False)


def print_details(console: Console, chosen: Selection, top: int = 5) -> None:
    """Print the winner's schedule, classes and mistakes, then schedules and runners-up."""
    schedule = Schedule.from_dict(chosen.schedule)
    text = f"{schedule.backbone}, {schedule_text(schedule)}"
    console.print(f"schedule {chosen.schedule_digest[:12]}: {escape(text)}", highlight=False)
    print_classes(console, chosen)
    _print_mistakes(console, chosen)
    _print_schedules(console, chosen, top)
    if chosen.runners_up and top:
        console.print(_runners_up(console, chosen))


def print_cost(console: Console, chosen: Selection) -> None:
    """Print the cost of the decision rule."""
    for line in _leaks(chosen):
        console.print(line, highlight=False)
    if chosen.operation:
        print_operation(console, chosen.operation, chosen.classes, chosen.goal)


def print_summary(console: Console, chosen: Selection) -> None:
    """Print the winner in a few lines, with its repeats."""
    console.print(f"best: [bold]{escape(chosen.file)}[/]", highlight=False, soft_wrap=True)
    lines = (_observed(chosen), _estimated(chosen), *_leaks(chosen), _new_run(chosen))
    for line in (*lines, *_gain(chosen)):
        console.print(line, highlight=False)


def print_comparison(console: Console, found: Comparison) -> None:
    """Print both sides, whether the difference is significant, and where they differ."""
    for side in (found.first, found.second):
        console.print(_side(side, found), highlight=False, soft_wrap=True)
    console.print(
        f"both right on {found.both_right} photos, neither on {found.neither_right}; only the "
        f"first on {found.only_first_right}, only the second on {found.only_second_right}",
        highlight=False,
    )
    test = "McNemar, exact" if found.groups is None else "signs of the groups' differences"
    verdict = "unlikely to be chance" if found.p_value < 0.05 else "this may well be chance"
    console.print(f"[bold]p = {found.p_value:.2g}[/] ({test}): {verdict}", highlight=False)
    for label in found.labels or ():
        line = f"  {label.label}: {label.first} and {label.second} wrong"
        console.print(line, markup=False, highlight=False)
    if found.leaks:
        console.print(f"[bold red]{found.leaks}[/]", highlight=False)
    if not found.differences:
        return
    table = Table(title="named differently", title_justify="left", box=None)
    table.add_column("photo", overflow="fold")
    for name in ("true", "first", "second"):
        table.add_column(name)
    for each in found.differences[:DIFFERENCES_SHOWN]:
        cells = (each.path, each.label, each.first, each.second)
        table.add_row(
            *(escape(cell) or "-" for cell in cells)
        )  # of several labels, there may be none
    console.print(table)
    if len(found.differences) > DIFFERENCES_SHOWN:
        more = len(found.differences) - DIFFERENCES_SHOWN
        console.print(f"  and {more} more, all in --json", highlight=False)


def print_refit(console: Console, chosen: Selection, made: Refitted) -> None:
    """Print what the weights of a refit were trained on, and their estimate."""
    first, *more = made.seeds
    under = f"seeds {first}-{more[-1]}, their weights averaged," if more else f"seed {first}"
    which = (
        f"those of all {chosen.folds} folds" if chosen.folds else "those of validation among them"
    )
    console.print(
        f"refit: the schedule of trial {chosen.trial} under {under} on {made.photos:,} photos, "
        f"{which} ({time_text(made.seconds)}); nothing is left to "
        "validate it",
        highlight=False,
    )
    if chosen.bias_corrected is not None:
        console.print(
            f"  estimated on new photos, for the same schedule "
            f"{'without a fold of them' if chosen.folds else 'without them'}: "
            f"{chosen.phrase(chosen.bias_corrected.estimate)} ({escape(chosen.interval)})",
            highlight=False,
        )


def print_final_test(console: Console, chosen: Selection, found: FinalTest) -> None:
    """Print the scores on the test photos, and how often they have been looked at."""
    accuracy, low, high = (
        percent(share, found.photos) for share in (found.accuracy, found.low, found.high)
    )
    other = f", {chosen.metric} {score_phrase(chosen.metric, found.score, found.photos)}"
    console.print(
        f"[bold]test photos: accuracy {accuracy} %[/] (95 % CI {low}-{high}), "
        f"{count_text(found.errors, 'error')} on "
        + ("" if found.labels is None else f"{found.labels:,} labels of ")
        + photos_text(found.photos, found.groups, "test")
        + ("" if chosen.metric is Criterion.ACCURACY else other),
        highlight=False,
    )
    if found.cost is not None:
        console.print(f"  cost {found.cost:.4f} per photo, by the rule of --cost", highlight=False)
    expected = chosen.bias_corrected
    if expected is not None:
        console.print(
            f"  on the validation photos: {chosen.metric} {chosen.phrase(chosen.score)}; "
            f"estimated on new photos: {chosen.phrase(expected.estimate)} "
            f"({escape(chosen.interval)})",
            highlight=False,
        )
    for line in _leaks(chosen):
        console.print(line, highlight=False)
    n, of = len(found.looks), len({look.sha256 for look in found.looks})
    if n > 1:
        console.print(
            f"  look {n} at these photos, at {of} weights files: if weights are chosen by "
            "them, their scores become optimistic, like those on validation photos",
            highlight=False,
        )


def _observed(chosen: Selection) -> str:
    return (
        f"[bold]{chosen.metric} {chosen.phrase(chosen.score)}[/]: "
        f"{chosen.errors_text}, log loss {chosen.loss:.4f}"
    )


def _estimated(chosen: Selection) -> str:
    found, metric = chosen.bias_corrected, chosen.metric
    if found is None:
        few = photos_text(chosen.n_valid, chosen.n_groups)
        return f"{few} are too few to estimate the score on new ones"
    said = (
        f"estimated {metric} on new photos: [bold]{chosen.phrase(found.estimate)}[/] "
        f"({escape(chosen.interval)})"
    )
    if found.candidates < 2:  # nothing was chosen
        return said
    return (
        f"{said}; the observed {chosen.phrase(chosen.score)} was chosen "
        f"from {count_text(found.candidates, 'epoch')} and is therefore optimistic"
    )


def _leaks(chosen: Selection) -> list[str]:
    return [f"[bold red]{chosen.leak_text}[/]"] if chosen.leak_text else []


def _folds(chosen: Selection) -> list[str]:
    """Return what the file of a search in folds is, and how its photos were scored."""
    if not chosen.folds:
        return []
    every = (
        f"{chosen.folds} folds: each photo judged by the network trained without its fold; the "
        f"file holds all {chosen.folds} as one ensemble, whose probabilities are averaged"
    )
    return [every]


def _these(chosen: Selection, *, details: bool) -> str:
    mirrored = details and Schedule.from_dict(chosen.schedule).stages[chosen.stage].tta
    return (
        f"the weights: study {escape(chosen.study)}, trial {chosen.trial} of {chosen.trials}, "
        f"seed {chosen.seed}, stage {chosen.stage + 1}, epoch {chosen.epoch}"
        + (", judged with mirror images" if mirrored else "")
    )


def _new_run(chosen: Selection, *, named: bool = False) -> str:
    what = "a new run of this schedule"
    if chosen.schedule_spread is None:
        study = ("--study", chosen.study) if named else ()
        command = escape(hint("repeat", chosen.trial, *study))
        return f"{what}: unknown (one seed); `{command}` tells"
    own = (line.stopped for line in chosen.schedules if line.digest == chosen.schedule_digest)
    too_high = "; too high, as one that lost a race is left out" if any(own) else ""
    return (
        f"{what}: {chosen.phrase(chosen.schedule_mean)} ± {chosen.text(chosen.schedule_spread)} "
        f"(mean and sd of {len(chosen.seed_scores)} seeds{too_high})"
    )


def _gain(chosen: Selection) -> list[str]:
    """Return the search's gain over the probe that it began with, if any."""
    probe, metric = chosen.probe, chosen.metric
    if probe is None:
        return []
    if probe.trial == chosen.trial:
        what = f"this is the probe at {probe.image_size} px, before any tuning"
        return [f"{what}: the search has found nothing better yet"]
    made = f"{metric} {chosen.phrase(probe.score)}, {count_text(probe.errors, 'error')}"
    fewer = probe.errors - chosen.errors
    gain = f"{abs(fewer)} {'fewer' if fewer >= 0 else 'more'} with these weights"
    return [f"untuned probe at {probe.image_size} px: {made}; {gain}"]


def _passed_over(chosen: Selection) -> list[str]:
    """Return the best score if another trial is expected to be better."""
    if chosen.by is not By.FORECAST or not chosen.runners_up:
        return []
    sign = -1 if chosen.metric.higher_is_better else 1
    highest = min(chosen.runners_up, key=lambda other: sign * other.score)
    if sign * highest.score >= sign * chosen.score:
        return []
    score = chosen.phrase(highest.score)
    return [
        f"trial {highest.trial} scored {score}, but its forecast is lower (--by max chooses it)"
    ]


def _ties(chosen: Selection, *, details: bool) -> list[str]:
    """Return how many schedules are tied and, with `details`, which of them is the cheapest."""
    tied = ties_text(chosen.schedules, " (=)" if details else "")
    lines = [tied] if tied else []
    if tied and details:
        least = cheapest(chosen.schedules)
        lines[0] += (
            f"; the cheapest within a standard error of the first: trial {least.trial}, "
            f"{chosen.phrase(least.mean)}, {time_text(least.seconds)}"
        )
    if not details:
        more = "one network on all photos" if chosen.folds else "train on validation photos as well"
        lines.append(f"[dim]--details: classes and mistakes; --refit 3: {more}[/]")
    return lines


def _print_schedules(console: Console, chosen: Selection, top: int) -> None:
    lines = chosen.schedules
    if not lines or not top:
        return
    by = "lower bound of the mean" if chosen.by is By.LCB else "mean over seeds"
    table = Table(title=f"schedules, by {by}", title_justify="left", box=None)
    for name in ("trial", "seeds", "mean", "95 % CI", "best", "time"):
        table.add_column(name, justify="right")
    table.add_column("schedule", overflow="fold")
    for line in lines[:top]:
        low, mean, high, best = (
            chosen.text(score) for score in (line.low, line.mean, line.high, line.best)
        )
        mark = "= " if line.tied and line is not lines[0] else ""
        table.add_row(
            str(line.trial),
            _seeds(line),
            f"{mark}{mean}",
            "-" if line.low is None else f"{low}-{high}",
            best,
            time_text(line.seconds),
            escape(line.schedule),
        )
    console.print(table)


def _seeds(line: ScheduleLine) -> str:
    """Return how many seeds its mean is of, and of how many that were begun in races."""
    count = len(line.scores)
    return f"{count} of {count + line.stopped}" if line.stopped else f"{count}"


def _together(chosen: Selection) -> list[str]:
    """Say how grades or several labels are told, by other numbers than the metric."""
    if chosen.off is not None:
        return [_grades(chosen.off)]
    found = chosen.several
    if found is None:
        return []
    means = [("mAP", found.mean_average_precision), ("mean AUROC", found.mean_auroc)]
    told = [f"{name} {share:.4f}" for name, share in means if share is not None]
    scores = (("macro F1", found.macro_f1), ("micro F1", found.micro_f1))
    told += [f"{name} {percent(share)} %" for name, share in scores]
    lines = [f"{', '.join(told)}; all labels right of {percent(found.whole)} % of the photos"]
    if skipped := sum(label.auroc is None for label in found.each):
        lines.append(f"{count_text(skipped, 'label')} that all or no photos have: not in the means")
    gain = f"macro F1 {percent(found.own_macro_f1)} % (cross-fitted, the weights not chosen anew)"
    if found.thresholds:
        carried = "--copy-to and export carry them with weights of Encore's own trainer"
        return [*lines, f"with a threshold for each label: {gain}; {carried}"]
    return [*lines, f"with a threshold for each label: {gain}; a half for each is as good"]


def _grades(off: tuple[int, ...]) -> str:
    photos, mean = sum(off), sum(far * count for far, count in enumerate(off)) / sum(off)
    shares = percent(off[0] / photos, photos), percent(sum(off[:2]) / photos, photos)
    return f"off by {mean:.2f} grades on average: {shares[0]} % right, {shares[1]} % within one"


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


def _runners_up(console: Console, chosen: Selection) -> Table:
    table = Table(title="runners-up", title_justify="left", box=None)
    for name in ("trial", "seed", str(chosen.metric), "a new run"):
        table.add_column(name, justify="right")
    table.add_column("file", overflow="fold")
    for other in chosen.runners_up:
        table.add_row(
            str(other.trial),
            str(other.seed),
            chosen.text(other.score),
            chosen.text(other.schedule_mean),
            escape(file_text(console, other.file)),
        )
    return table


def _side(side: Side, found: Comparison) -> str:
    shares = (side.accuracy, side.low, side.high)
    accuracy, low, high = (percent(share, found.photos) for share in shares)
    what = "accuracy" if found.labels is None else "all labels right"
    return (
        f"[bold]{escape(side.name)}[/]: {what} {accuracy} % (95 % CI {low}-{high}), "
        f"{count_text(side.errors, 'error')} on {photos_text(found.photos, found.groups)}"
    )
